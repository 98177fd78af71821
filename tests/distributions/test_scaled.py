"""Pixel scales around families of several kinds, against S R S from the base's own dense covariance."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import base, circulant, gaussian, low_rank, scaled
from structured_obs.distributions import sparse_precision as sparse
from structured_obs.linalg import dense

IMAGE = base.ImageShape(3, 4, 2)
INNER = {
  'circulant': circulant.family(scale='fixed', initial_scale=1.0),
  'reflective': circulant.family(reflect=True, per_channel=True),
  'low_rank': low_rank.family(rank=3, noise_variance=0.1),
  'sparse_precision': sparse.family(filter_size=3, prior='normal'),
}
FAMILY = {name: scaled.family(inner, initial_scale=0.5) for name, inner in INNER.items()}
EACH = pytest.mark.parametrize('name', ['circulant', 'reflective', 'low_rank'])


class Problem(NamedTuple):
  """A scaled distribution, its dense covariance built from the base's, and an image."""

  outputs: dict[str, jax.Array]
  params: scaled.Scaled
  cov: np.ndarray  # [D, D]
  x: jax.Array


@functools.cache
def _problem(name: str) -> Problem:
  rng, shapes = np.random.default_rng(0), FAMILY[name].outputs(IMAGE)
  dtype = jnp.zeros(()).dtype
  outputs = {key: jnp.asarray(0.5 * rng.normal(size=s), dtype) for key, s in shapes.items()}
  params = FAMILY[name].from_outputs(outputs)
  inner = jax.jit(functools.partial(gaussian.covariance, INNER[name]))(params.base)
  scale = np.exp(np.asarray(params.log_scale, np.float64)).ravel()
  cov = scale[:, None] * np.asarray(inner, np.float64) * scale
  return Problem(outputs, params, cov, jnp.asarray(rng.normal(size=IMAGE), dtype))


def _bound(float64: float, float32: float) -> float:
  return float64 if jnp.zeros(()).dtype == jnp.float64 else float32


def _check(actual: Any, expected: Any, float64: float, float32: float) -> None:
  expected = np.asarray(expected, np.float64)
  error = np.max(np.abs(np.ravel(actual) - expected.ravel()))
  assert error <= _bound(float64, float32) * np.max(np.abs(expected))


@pytest.mark.x64
@EACH
@pytest.mark.few(3)
def test_a_network_predicts_the_standard_deviations(name: str):
  """Whatever the base is: the output through the soft clip is the marginal variance."""
  outputs, params, cov, _ = _problem(name)
  bounds = math.log(1e-3), math.log(10.0)
  offset = base.inverse_soft_clip(math.log(0.5), *bounds)
  expected = np.exp(2 * base.soft_clip(outputs[scaled.NAME] + offset, *bounds))
  _check(gaussian.variance(FAMILY[name], params), expected, 1e-13, 1e-5)
  _check(np.diag(cov), expected, 1e-13, 1e-5)
  zeros = {key: jnp.zeros_like(value) for key, value in outputs.items()}
  variance = gaussian.variance(FAMILY[name], FAMILY[name].from_outputs(zeros))
  np.testing.assert_allclose(variance, 0.25, rtol=1e-5)


@EACH
@pytest.mark.few(3)
def test_density_and_samples(name: str):
  family, (_, params, cov, x) = FAMILY[name], _problem(name)
  assert family.gaussian is not None
  mean = np.asarray(family.mean(params))
  primitives, key = family.gaussian, jax.random.key(0)

  @jax.jit
  def found(params, x):
    return {
      'log_prob': family.log_prob(params, x),
      'entropy': gaussian.entropy(family, params),
      'mahalanobis': gaussian.mahalanobis(family, params, x),
      'covariance': gaussian.covariance(family, params),
      'drawn': primitives.reparameterize(params, primitives.noise(key, params)),
      'sample': family.sample(key, params),
      'warm': gaussian.covariance(family, gaussian.temper(family, params, 0.5)),
    }

  results, rel = found(params, x), _bound(1e-11, 1e-4)
  residual = np.asarray(x - mean, np.float64)
  assert float(results['log_prob']) == pytest.approx(dense.log_prob(mean, cov, x), rel=rel)
  assert float(results['entropy']) == pytest.approx(dense.entropy(cov), rel=rel)
  assert float(results['mahalanobis']) == pytest.approx(dense.mahalanobis(cov, residual), rel=rel)
  _check(results['covariance'], cov, 1e-13, 1e-5)
  _check(results['drawn'], results['sample'], 1e-14, 1e-6)
  _check(results['warm'], 0.25 * cov, 1e-13, 1e-5)


@EACH
@pytest.mark.few(3)
def test_conditionals_and_posteriors(name: str):
  family, (_, params, cov, x) = FAMILY[name], _problem(name)
  mean = np.asarray(family.mean(params))
  observed = np.random.default_rng(1).random(IMAGE) < 0.5
  given = jax.jit(functools.partial(gaussian.condition, family))(params, x, observed)
  expected, spread = dense.condition(mean, cov, x, observed)
  np.testing.assert_array_equal(given.mean[observed], x[observed])
  _check(np.asarray(given.mean)[~observed], expected, 1e-9, 1e-4)
  _check(np.asarray(given.variance)[~observed], np.diag(spread), 1e-9, 1e-4)
  rest = np.asarray(x)[~observed]
  log_prob = jax.jit(lambda given, x: given.log_prob(x))(given, x)
  assert float(log_prob) == pytest.approx(dense.log_prob(expected, spread, rest), rel=_bound(1e-9, 1e-4))
  posterior = jax.jit(functools.partial(gaussian.posterior_mean, family))
  found, variance = posterior(params, x, jnp.full_like(x, 0.2))
  expected, spread = dense.posterior(mean, cov, x, 0.2)
  _check(found, expected, 1e-9, 1e-4)
  _check(variance, np.diag(spread), 1e-9, 1e-4)


@pytest.mark.x64
def test_what_the_base_has_is_there():
  """Kernels, priors, excess entropies and innovations are the base's; innovations by s^2."""
  outputs, params, *_ = _problem('circulant')
  family = FAMILY['circulant']
  assert family.kernel is not None
  np.testing.assert_allclose(np.sum(family.kernel(outputs)), 1, rtol=1e-5)
  assert family.log_prior is None
  params = _problem('low_rank').params
  excess = jax.jit(functools.partial(gaussian.excess_entropy, FAMILY['low_rank']))
  assert excess(params) == jax.jit(low_rank.excess_entropy)(params.base)
  params, family = _problem('sparse_precision').params, FAMILY['sparse_precision']
  assert family.kernel is None
  assert family.log_prior is not None
  assert INNER['sparse_precision'].log_prior is not None
  assert family.log_prior(params) == INNER['sparse_precision'].log_prior(params.base)
  assert family.gaussian is not None
  assert family.gaussian.innovation_variance is not None
  innovation = jax.jit(sparse.innovation_variance)(params.base) * jnp.exp(2 * params.log_scale)
  actual = jax.jit(family.gaussian.innovation_variance)(params)
  np.testing.assert_allclose(actual, innovation, rtol=1e-6)


@pytest.mark.x64
def test_circulant_correlations_do_not_depend_on_the_place():
  """The registered family: variances differ, correlations at one shift do not."""
  family = scaled.circulant_family(5)
  rng = np.random.default_rng(0)
  outputs = {name: jnp.asarray(rng.normal(size=s)) for name, s in family.outputs(IMAGE).items()}
  params = jax.jit(family.from_outputs)(outputs)
  correlation = jax.jit(functools.partial(gaussian.correlation, family))
  first, second = (correlation(params, pixel) for pixel in ((0, 0, 0), (2, 1, 0)))
  rolled = jnp.roll(first, (2, 1), axis=(0, 1))
  np.testing.assert_allclose(second, rolled, atol=_bound(1e-14, 1e-6))
  assert np.ptp(np.asarray(gaussian.variance(family, params))) > 0.01


@pytest.mark.x64
def test_what_is_refused():
  with pytest.raises(ValueError, match='Gaussian family as its base'):
    scaled.family(INNER['circulant']._replace(gaussian=None))
  with pytest.raises(ValueError, match='initial_scale < max_scale'):
    scaled.family(INNER['circulant'], initial_scale=100.0)
  with pytest.raises(ValueError, match='surplus'):
    FAMILY['circulant'].from_outputs(_problem('circulant').outputs | {'surplus': jnp.zeros(())})
