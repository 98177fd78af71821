"""Densities of some of the pixels, of every family, against dense marginals."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree

from structured_obs import distributions
from structured_obs.distributions import base, diagonal, elliptical, gaussian
from structured_obs.linalg import dense
from tests.distributions import cases
from tests.distributions.cases import Case, assert_close

ALL = cases.main_cases() + cases.generic_cases()
# Cases whose derivatives are code of their own; those of the others are sums of tested parts.
OWN = [
  case
  for case in ALL
  if case.generic
  or case.name in ('diagonal', 'scaled_circulant')
  or {('rank', 3), ('components', 1)} & set(case.options)
]


def _slow_unless(quick: list[Case]) -> Any:
  """Parametrises a test over all cases, of which those that take long to compile are slow ones."""
  marks = {False: pytest.mark.slow, True: ()}
  return pytest.mark.parametrize(
    'case', [pytest.param(case, id=str(case), marks=marks[case in quick]) for case in ALL]
  )


def _masks(problem: cases.Problem) -> np.ndarray:
  """Random, random with all channels of a pixel, all, none. [4, H, W, C]."""
  random = cases.random_mask(problem.image, seed=3)
  pixels = np.broadcast_to(random[..., :1], random.shape)
  return np.stack([random, pixels, np.ones_like(random), np.zeros_like(random)])


def _log_prob(problem: cases.Problem, x: jax.Array, flat: jax.Array, mask: jax.Array) -> jax.Array:
  return gaussian.log_prob(problem.family, ravel_pytree(problem.params)[1](flat), x, mask)


def _unread(problem: cases.Problem, masks: np.ndarray) -> jax.Array:
  """The image with NaN at the pixels that do not count, once for each mask."""
  return jnp.where(masks, problem.x, jnp.nan)


@_slow_unless(
  [case for case in ALL if case in OWN or not (case.options or case.name.startswith('disc'))]
)
@pytest.mark.few(2)
def test_log_prob_of_some_pixels(case: Case):
  problem = cases.make_problem(case)
  masks, bad = _masks(problem), _bad_parameters(problem)
  flat = jnp.stack([ravel_pytree(problem.params)[0]] * len(masks) + bad)
  masks = np.concatenate([masks, np.repeat(masks[3:], len(bad), axis=0)])
  mapped = jax.vmap(functools.partial(_log_prob, problem))
  values = jax.jit(mapped)(_unread(problem, masks), flat, masks)
  assert values[3] == 0
  assert np.all(np.isnan(values[4:])), 'a bad parameter where no pixel counts'
  if problem.family.gaussian is None:
    _check_pixels(problem, masks, values)
    return
  x = np.asarray(problem.x, np.float64).ravel()
  for mask, value in zip(masks[:3], values, strict=False):
    mean, cov = dense.marginal(problem.mean, problem.cov, mask)
    assert_close(value, dense.log_prob(mean, cov, x[mask.ravel()]), 1e-9, 2e-4)


def _bad_parameters(problem: cases.Problem) -> list[jax.Array]:
  """The parameters with NaN in the middle of one of them, for each."""
  found, begin = [], 0
  flat, _ = ravel_pytree(problem.params)
  for leaf in jax.tree.leaves(problem.params):
    if leaf.size:
      found.append(flat.at[begin + leaf.size // 2].set(jnp.nan))
    begin += leaf.size
  return found


def _check_pixels(problem: cases.Problem, masks: np.ndarray, values: jax.Array) -> None:
  """A family of independent pixels, whose channels depend on each other."""
  assert problem.family.log_prob_by_pixel is not None
  by_pixel = problem.family.log_prob_by_pixel(problem.params, problem.x)
  assert np.isnan(values[0])  # some channels of a pixel alone
  for mask, value in zip(masks[1:3], values[1:], strict=False):
    assert_close(value, jnp.sum(by_pixel[mask[..., 0]]), 1e-12, 1e-5)


@_slow_unless(OWN)
@pytest.mark.x64
def test_gradients_of_some_pixels(case: Case):
  problem = cases.make_problem(case)
  masks, (flat, unravel) = _masks(problem)[[1, 0, 3]], ravel_pytree(problem.params)
  both = jax.vmap(jax.grad(functools.partial(_log_prob, problem), (0, 1)), (0, None, 0))
  by_x, by_params = jax.jit(both)(_unread(problem, masks), flat, masks)
  np.testing.assert_array_equal(by_x[~masks], 0)
  expected = jax.jit(jax.grad(functools.partial(_naive, problem, unravel), (0, 1)))
  for i in range(2):
    by_pixel = problem.family.gaussian is None
    if by_pixel and i == 1:
      continue
    x_expected, params_expected = expected(problem.x, flat, masks[i])
    assert_close(by_x[i], x_expected, 1e-8, 1e-3)
    assert_close(by_params[i], params_expected, 1e-8, 1e-3)
  np.testing.assert_array_equal(by_params[2], 0)


def _naive(problem: cases.Problem, unravel: Any, x: jax.Array, flat: jax.Array, mask: jax.Array):
  """The same up to a constant, by dense algebra with ones for the pixels that do not count."""
  params, keep, family = unravel(flat), mask.ravel().astype(x.dtype), problem.family
  if family.gaussian is None:
    assert family.log_prob_by_pixel is not None
    return jnp.sum(jnp.where(mask[..., 0], family.log_prob_by_pixel(params, x), 0))
  noise, unravel_noise = ravel_pytree(family.gaussian.noise(jax.random.key(0), params))

  def image_of(noise: jax.Array) -> jax.Array:
    assert family.gaussian is not None
    return family.gaussian.reparameterize(params, unravel_noise(noise)).ravel()

  factor = jax.jacfwd(image_of)(jnp.zeros_like(noise)) * keep[:, None]
  cov = factor @ factor.T + jnp.diag(1 - keep)
  residual = (x - family.mean(params)).ravel() * keep
  return -0.5 * (jnp.linalg.slogdet(cov)[1] + residual @ jnp.linalg.solve(cov, residual))


def test_second_derivatives_are_those_of_the_dense_density():
  case = cases.generic_cases()[0]
  problem = cases.make_problem(case)
  mask, (flat, unravel) = _masks(problem)[0], ravel_pytree(problem.params)
  along = jnp.asarray(np.random.default_rng(0).normal(size=flat.size), flat.dtype)

  def curvature(function: Any) -> Any:
    def slope(flat: jax.Array) -> jax.Array:
      return jax.jvp(lambda f: function(problem.x, f, mask), (flat,), (along,))[1]

    return jax.jit(jax.grad(slope))(flat)

  found = curvature(functools.partial(_log_prob, problem))
  assert_close(found, curvature(functools.partial(_naive, problem, unravel)), 1e-7, 1e-2)


def test_marginal():
  problem = cases.make_problem(cases.generic_cases()[0])
  mask = _masks(problem)[1]
  found = cases.run(gaussian.marginal, problem, problem.x, jnp.asarray(mask[..., :1]))
  mean, cov = dense.marginal(problem.mean, problem.cov, mask)
  residual = np.asarray(problem.x, np.float64)[mask] - np.asarray(mean)
  assert_close(found.distance, dense.mahalanobis(cov, residual), 1e-9, 1e-3)
  assert_close(found.log_det, dense.log_det(cov), 1e-9, 1e-4)
  assert int(found.size) == mask.sum()


def _wrapped() -> list[Any]:
  """Every wrapper, over a family and over another wrapper; those that take long to compile are slow."""
  names = [*((name,) for name in distributions.WRAPPERS), ('colour', 'student')]
  marks = {False: pytest.mark.slow, True: ()}
  return [
    pytest.param(one, id='+'.join(one), marks=marks[one in (('colour',), ('mixture',))]) for one in names
  ]


@pytest.mark.parametrize('wrappers', _wrapped())
@pytest.mark.x64
def test_wrapped_families(wrappers: tuple[str, ...]):
  image, rng = base.ImageShape(3, 2, 3), np.random.default_rng(0)
  options = {'low_rank_update': {'rank': 2}}
  options = {name: value for name, value in options.items() if name in wrappers}
  family = distributions.wrapped(distributions.family('diagonal'), wrappers, options)
  outputs = {name: jnp.asarray(rng.normal(size=s)) for name, s in family.outputs(image).items()}
  params, x = family.from_outputs(outputs), jnp.asarray(rng.normal(size=image))
  masks = [rng.random((3, 2, channels)) < 0.6 for channels in (3, 1)]

  @jax.jit
  def found(params: Any) -> Any:
    return [family.log_prob(params, jnp.where(m, x, jnp.nan), jnp.asarray(m)) for m in masks]

  for mask, value in zip(masks, found(params), strict=True):
    mask = np.broadcast_to(mask, image)
    assert_close(value, _dense_density(family, params, x, mask), 1e-9, 1e-4)


def _dense_density(family: base.Family[Any], params: Any, x: Any, mask: np.ndarray) -> Any:
  """By dense algebra and SciPy; of a mixture of independent pixels, by their densities."""
  if not elliptical.has_covariance(family):
    weights = np.asarray(jax.nn.log_softmax(params.logits))
    each = jax.vmap(diagonal.log_prob_by_pixel, (0, None))(params.base, x)
    return scipy.special.logsumexp(weights + np.sum(np.where(mask, each, 0), axis=(1, 2, 3)))
  primitives = elliptical.primitives(family)
  basis = jnp.eye(x.size).reshape(x.size, *x.shape)
  cov = jax.vmap(lambda v: primitives.covariance_matvec(params, v).ravel())(basis)
  mean, cov = dense.marginal(np.asarray(family.mean(params)).ravel(), np.asarray(cov), mask)
  own = np.asarray(x)[mask]
  if family.student is None:
    return dense.log_prob(mean, cov, own)
  student: Any = scipy.stats.multivariate_t
  return student.logpdf(own, mean, cov, float(family.student.dof(params)))


@pytest.mark.x64
def test_masks_are_refused():
  problem = cases.make_problem(ALL[0])
  for mask, error in (
    (jnp.ones(problem.image), TypeError),
    (jnp.ones(problem.image[:2], bool), ValueError),
  ):
    with pytest.raises(error, match='mask must'):
      gaussian.log_prob(problem.family, problem.params, problem.x, mask)


@pytest.mark.x64
def test_images_without_a_marginal_density_are_refused():
  family = distributions.family('circulant')
  image = base.ImageShape(80, 80, 1)
  outputs = {name: jnp.zeros(shape) for name, shape in family.outputs(image).items()}
  mask = jnp.ones((80, 80, 1), bool)
  with pytest.raises(ValueError, match='limit is 4096 pixels'):
    jax.eval_shape(lambda o: family.log_prob(family.from_outputs(o), o['mean'], mask), outputs)
