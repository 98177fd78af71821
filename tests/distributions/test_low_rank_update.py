"""Low-rank updates of several bases, against the base's own dense covariance plus P P^T."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from structured_obs.distributions import base, circulant, diagonal, gaussian, low_rank, scaled
from structured_obs.distributions import low_rank_update as update
from structured_obs.distributions import sparse_precision as sparse
from structured_obs.linalg import dense
from tests.distributions.cases import assert_close, default_dtype, tolerance

IMAGE = base.ImageShape(3, 4, 2)
INNER = {
  'diagonal': diagonal.family(),
  'low_rank': low_rank.family(rank=2, noise_variance=0.1),
  'sparse_precision': sparse.family(filter_size=3, channels='pixel', prior='normal'),
  'circulant': circulant.family(),
  'scaled_circulant': scaled.circulant_family(5, reflect=True),
}
FAMILY = {name: update.family(inner, rank=3, factor_scale=0.5) for name, inner in INNER.items()}
EACH = pytest.mark.parametrize('name', ['diagonal', 'sparse_precision', 'circulant'])


class Problem(NamedTuple):
  """An updated distribution, its dense covariance built from the base's, and an image."""

  outputs: dict[str, jax.Array]
  params: update.LowRankUpdate
  cov: np.ndarray  # [D, D]
  x: jax.Array


@functools.cache
def _problem(name: str) -> Problem:
  rng, shapes = np.random.default_rng(0), FAMILY[name].outputs(IMAGE)
  outputs = {k: jnp.asarray(0.5 * rng.normal(size=s), default_dtype()) for k, s in shapes.items()}
  params = FAMILY[name].from_outputs(outputs)
  inner = np.asarray(gaussian.covariance(INNER[name], params.base), np.float64)
  factor = np.asarray(params.cov_factor, np.float64).reshape(len(inner), -1)
  x = jnp.asarray(rng.normal(size=IMAGE), default_dtype())
  return Problem(outputs, params, inner + factor @ factor.T, x)


@pytest.mark.x64
@EACH
@pytest.mark.few(2)
def test_every_primitive(name: str):
  family, (_, params, cov, x) = FAMILY[name], _problem(name)
  primitives = family.gaussian
  assert primitives is not None

  @jax.jit
  def results(params: Any, x: jax.Array) -> dict[str, Any]:
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    noise = primitives.noise(jax.random.key(0), params)
    flat, unravel = ravel_pytree(noise)
    half = jax.jacfwd(lambda n: primitives.reparameterize(params, unravel(n)).ravel())(flat)
    white = lambda v: ravel_pytree(primitives.whiten(params, v))[0]  # noqa: E731
    image = lambda v: gaussian.white_image(family, params, family.mean(params) + v).ravel()  # noqa: E731
    return {
      'log_prob': family.log_prob(params, x),
      'entropy': gaussian.entropy(family, params),
      'mahalanobis': gaussian.mahalanobis(family, params, x),
      'covariance': gaussian.covariance(family, params),
      'samples': half @ half.T,
      'variance': gaussian.variance(family, params).ravel(),
      'channels': gaussian.channel_covariance(family, params),
      'precision': jax.vmap(lambda v: primitives.precision_matvec(params, v).ravel())(basis),
      'whiten': jax.vmap(white)(basis),
      'white_image': jax.vmap(image)(basis),
      'warm': gaussian.covariance(family, gaussian.temper(family, params, 0.5)),
    }

  found = results(params, x)
  residual = np.asarray(x - family.mean(params), np.float64)
  inverse, pixels = np.linalg.inv(cov), cov.reshape(12, 2, 12, 2)
  expected = {
    'log_prob': dense.log_prob(np.asarray(family.mean(params)), cov, x),
    'entropy': dense.entropy(cov),
    'mahalanobis': dense.mahalanobis(cov, residual),
    'covariance': cov,
    'samples': cov,
    'variance': np.diag(cov),
    'channels': np.stack([pixels[i, :, i] for i in range(12)]).reshape(3, 4, 2, 2),
    'precision': inverse,
    'warm': 0.25 * cov,
  }
  found['whiten'] = found['whiten'] @ found['whiten'].T
  assert_close(found.pop('whiten'), inverse, 1e-10, 1e-4)
  white = np.asarray(found.pop('white_image'), np.float64)
  assert_close(white.T @ cov @ white, np.eye(x.size), 1e-9, 1e-3)
  for key, value in found.items():
    assert_close(value, expected[key], 1e-10, 1e-4)


@pytest.mark.x64
@pytest.mark.parametrize('name', ['low_rank', 'scaled_circulant'])
@pytest.mark.slow
def test_bases_that_whiten_into_several_arrays_or_are_wrapped(name: str):
  family, (_, params, cov, x) = FAMILY[name], _problem(name)
  assert family.gaussian is not None
  primitives, mean = family.gaussian, np.asarray(family.mean(params))
  log_prob = jax.jit(family.log_prob)(params, x)
  assert_close(log_prob, dense.log_prob(mean, cov, x), 1e-11, np.inf)
  white = jax.jit(primitives.whiten)(params, x)
  squares = sum(np.sum(np.square(leaf)) for leaf in white)
  assert_close(squares, dense.mahalanobis(cov, x), 1e-11, np.inf)


@pytest.mark.x64
@EACH
@pytest.mark.slow
def test_conditionals_and_posteriors(name: str):
  family, (_, params, cov, x) = FAMILY[name], _problem(name)
  mean = np.asarray(family.mean(params))
  observed = np.random.default_rng(1).random(IMAGE) < 0.5
  noise = jnp.where(observed, 0.2, jnp.inf).astype(x.dtype).at[0, 0, 0].set(1e-6)

  @jax.jit
  def results(params: Any, x: jax.Array) -> Any:
    given = gaussian.condition(family, params, x, jnp.asarray(observed))
    posteriors = [gaussian.posterior_mean(family, params, x, n) for n in (0.2, noise)]
    part = family.log_prob(params, x, jnp.asarray(observed))
    return given, given.log_prob(x), given.sample(jax.random.key(0)), posteriors, part

  given, log_prob, sample, posteriors, part = results(params, x)
  seen = dense.log_prob(*dense.marginal(mean, cov, observed), np.asarray(x)[observed])
  assert float(part) == pytest.approx(seen, rel=1e-9)
  expected, spread = dense.condition(mean, cov, x, observed)
  np.testing.assert_array_equal(given.mean[observed], x[observed])
  np.testing.assert_array_equal(sample[observed], x[observed])
  assert_close(np.asarray(given.mean)[~observed], expected, 1e-9, 1e-4)
  assert_close(np.asarray(given.variance)[~observed], np.diag(spread), 1e-9, 1e-4)
  rest = dense.log_prob(expected, spread, np.asarray(x)[~observed])
  assert float(log_prob) == pytest.approx(rest, rel=tolerance(1e-9, 1e-4))
  for (found, variance), added in zip(posteriors, (0.2, noise), strict=True):
    added = np.minimum(np.broadcast_to(np.asarray(added, np.float64), IMAGE), 1e12).ravel()
    expected, spread = dense.posterior(mean, cov, x, added)
    assert_close(np.ravel(found), expected, 1e-8, 2e-4)
    assert_close(np.ravel(variance), np.diag(spread), 1e-8, 2e-4)


def _over_diagonal(params: low_rank.LowRank) -> update.LowRankUpdate:
  log_scale = 0.5 * jnp.log(jnp.broadcast_to(params.cov_diag, params.mean.shape))
  return update.LowRankUpdate(diagonal.Diagonal(params.mean, log_scale), params.cov_factor)


@pytest.mark.x64
@pytest.mark.parametrize('kind', ['independent', 'almost equal'])
def test_over_independent_pixels_it_is_low_rank(kind: str):
  """Values, gradients, and a product with the Hessian."""
  rng = np.random.default_rng(0)
  entries = rng.normal(size=(*IMAGE, 3))
  factor = entries if kind == 'independent' else entries[..., :1] * (1 + 1e-6 * entries)
  mean, x = (jnp.asarray(rng.normal(size=IMAGE)) for _ in range(2))
  params = low_rank.LowRank(mean, jnp.asarray(factor), jnp.asarray(0.1 + rng.random(IMAGE)))
  direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), (params, x))

  def ours(params: low_rank.LowRank, x: jax.Array) -> jax.Array:
    return FAMILY['diagonal'].log_prob(_over_diagonal(params), x)

  def both(function: Any) -> Any:
    first = jax.value_and_grad(lambda both: function(*both))
    return jax.jit(lambda both: jax.jvp(first, (both,), (direction,)))((params, x))

  for actual, expected in zip(
    *(jax.tree.leaves(both(f)) for f in (ours, low_rank.log_prob)), strict=True
  ):
    assert_close(actual, expected, 1e-9, np.inf)
  family, other = FAMILY['diagonal'], low_rank.family(rank=3, learn_diag=True)
  for operation in (gaussian.entropy, gaussian.variance, gaussian.excess_entropy):
    assert_close(operation(family, _over_diagonal(params)), operation(other, params), 1e-12, np.inf)


@pytest.mark.x64
@pytest.mark.parametrize('name', ['sparse_precision', 'circulant'])
def test_derivatives_of_both_orders_are_the_dense_ones(name: str):
  family, inner = FAMILY[name], INNER[name]
  _, params, _, x = _problem(name)
  rng = np.random.default_rng(1)
  direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), (params, x))

  def naive(params: Any, x: jax.Array) -> jax.Array:
    factor = params.cov_factor.reshape(x.size, -1)
    cov = gaussian.covariance(inner, params.base) + factor @ factor.T
    residual = (x - inner.mean(params.base)).ravel()
    log_det = jnp.linalg.slogdet(2 * jnp.pi * cov)[1]
    return -0.5 * (log_det + residual @ jnp.linalg.solve(cov, residual))

  def both(function: Any) -> Any:
    gradient = jax.grad(lambda both: function(*both))
    return jax.jit(lambda both: jax.jvp(gradient, (both,), (direction,)))((params, x))

  for actual, expected in zip(
    *(jax.tree.leaves(both(f)) for f in (family.log_prob, naive)), strict=True
  ):
    assert_close(actual, expected, 1e-8, np.inf)


@pytest.mark.float32
def test_float32_of_almost_equal_columns_over_a_sparse_base():
  """Beside float64, with a base whose whitening is a steep high-pass filter."""
  image, rank = (24, 24, 1), 12
  inner = sparse.family(filter_size=3)
  family = update.family(inner, rank=rank)
  rng = np.random.default_rng(0)
  smooth = np.cos(np.arange(24) / 8)[:, None, None, None] * np.ones((24, 24, 1, 1))
  factor = 2 * smooth * (1 + 1e-5 * rng.normal(size=(*image, rank)))
  outputs = {key: np.zeros(shape) for key, shape in inner.outputs(base.ImageShape(*image)).items()}
  params = inner.from_outputs({k: jnp.asarray(v, jnp.float32) for k, v in outputs.items()})
  weight = -0.24 * jnp.exp(params.log_diag)[..., None]
  base_params = params._replace(off_diag=jnp.broadcast_to(weight, params.off_diag.shape))
  drawn = factor @ rng.normal(size=rank) + 0.003 * rng.normal(size=image)
  params = update.LowRankUpdate(base_params, jnp.asarray(factor, jnp.float32))
  x = jnp.asarray(drawn, jnp.float32)
  function = jax.jit(jax.value_and_grad(family.log_prob, argnums=(0, 1)))
  value, gradients = function(params, x)
  with jax.enable_x64(True):
    exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, x))
    expected, slopes = function(*exact)
  assert value.dtype == jnp.float32
  assert abs(float(value) - float(expected)) < 0.02
  leaves = (jax.tree.leaves(jax.tree.map(np.float64, tree)) for tree in (gradients, slopes))
  for actual, slope in zip(*leaves, strict=True):
    error = np.linalg.norm(actual - slope)
    assert error <= 1e-3 * max(np.linalg.norm(slope), 1e-30)


@pytest.mark.x64
def test_without_columns_it_is_the_base():
  inner = INNER['diagonal']
  _, params, _, x = _problem('diagonal')
  empty = update.LowRankUpdate(params.base, params.cov_factor[..., :0])
  family = update.family(inner, rank=0)
  value, gradient = jax.jit(jax.value_and_grad(family.log_prob))(empty, x)
  expected, slope = jax.jit(jax.value_and_grad(inner.log_prob))(params.base, x)
  assert_close(value, expected, 1e-12, 1e-5)
  jax.tree.map(lambda a, b: assert_close(a, b, 1e-10, 1e-4), gradient.base, slope)
  assert gradient.cov_factor.shape == (*IMAGE, 0)


@pytest.mark.x64
def test_bad_numbers_end_in_no_number():
  """And leave the other images of a batch alone."""
  family = FAMILY['diagonal']
  _, params, _, x = _problem('diagonal')
  scale, factor = params.base.log_scale, params.cov_factor
  spoiled = [
    spoiled
    for bad in (np.nan, np.inf)
    for spoiled in (
      params._replace(base=params.base._replace(log_scale=scale.at[0, 0, 0].set(bad))),
      params._replace(cov_factor=factor.at[1, 1, 0, 0].set(bad)),
    )
  ]
  batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, *spoiled)
  found = jax.jit(jax.vmap(family.log_prob, in_axes=(0, None)))(batch, x)
  samples = jax.jit(jax.vmap(family.sample, in_axes=(None, 0)))(jax.random.key(0), batch)
  for result in (found, samples):
    assert np.isfinite(result[0]).all()
    assert np.isnan(result[1:]).all()


@pytest.mark.x64
def test_what_is_refused_and_what_is_passed_on():
  with pytest.raises(ValueError, match='Gaussian family as its base'):
    update.family(INNER['circulant']._replace(gaussian=None))
  with pytest.raises(ValueError, match='update_factor'):
    update.family(FAMILY['circulant']).outputs(IMAGE)
  with pytest.raises(ValueError, match='update_factor'):
    FAMILY['circulant'].from_outputs({'mean': jnp.zeros(IMAGE)})
  outputs, params, *_ = _problem('sparse_precision')
  family, inner = FAMILY['sparse_precision'], INNER['sparse_precision']
  assert family.log_prior is not None
  assert inner.log_prior is not None
  assert family.log_prior(params) == inner.log_prior(params.base)
  assert_close(params.cov_factor, 0.5 * np.asarray(outputs[update.NAME]), 1e-15, 1e-7)
