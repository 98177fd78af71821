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
from tests.distributions import low_rank_reference as reference
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
EACH = pytest.mark.parametrize('name', FAMILY)


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


@EACH
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


@EACH
def test_conditionals_and_posteriors(name: str):
  family, (_, params, cov, x) = FAMILY[name], _problem(name)
  mean = np.asarray(family.mean(params))
  observed = np.random.default_rng(1).random(IMAGE) < 0.5
  noise = jnp.where(observed, 0.2, jnp.inf).astype(x.dtype).at[0, 0, 0].set(1e-6)

  @jax.jit
  def results(params: Any, x: jax.Array) -> Any:
    given = gaussian.condition(family, params, x, jnp.asarray(observed))
    posteriors = [gaussian.posterior_mean(family, params, x, n) for n in (0.2, noise)]
    return given, given.log_prob(x), given.sample(jax.random.key(0)), posteriors

  given, log_prob, sample, posteriors = results(params, x)
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
