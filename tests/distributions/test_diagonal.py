"""The diagonal family against scipy's normal distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from structured_obs.distributions import diagonal
from structured_obs.distributions.diagonal import Diagonal
from tests.distributions.cases import assert_close, default_dtype


def _random(shape: tuple[int, ...]) -> tuple[Diagonal, jax.Array]:
  rng = np.random.default_rng(0)
  mean, log_scale, x = (jnp.asarray(rng.normal(size=shape), default_dtype()) for _ in range(3))
  return Diagonal(mean, log_scale), x


@pytest.mark.x64
@pytest.mark.parametrize('shape', [(), (7,), (3, 2), (4, 3, 2), (2, 3, 2, 2)], ids=str)
def test_any_event_shape(shape: tuple[int, ...]):
  params, x = _random(shape)
  mean, scale = np.asarray(params.mean), np.exp(np.asarray(params.log_scale))
  by_pixel = scipy.stats.norm.logpdf(np.asarray(x), mean, scale)
  assert_close(diagonal.log_prob_by_pixel(params, x), by_pixel, 1e-13, 1e-5)
  assert_close(diagonal.log_prob(params, x), np.sum(by_pixel), 1e-12, 1e-5)
  assert_close(diagonal.variance(params), scale**2, 1e-13, 1e-6)
  assert diagonal.sample(jax.random.key(0), params).shape == shape


def test_gradient_by_log_scale():
  """z^2 - 1."""
  params, x = _random((4, 3, 2))
  z = np.asarray((x - params.mean) / jnp.exp(params.log_scale), np.float64)
  gradient = jax.grad(diagonal.log_prob)(params, x)
  assert_close(gradient.log_scale, z**2 - 1, 1e-12, 1e-5)


@pytest.mark.x64
def test_outputs_are_kept_between_the_scales():
  family = diagonal.family(min_scale=0.01, max_scale=2.0, initial_scale=0.5)
  outputs = jnp.asarray([-1e3, 0.0, 1e3]).reshape(1, 3, 1)
  params = family.from_outputs({'mean': outputs, 'log_scale': outputs})
  scale = np.exp(np.asarray(params.log_scale)).ravel()
  np.testing.assert_allclose(scale[[0, 2]], [0.01, 2.0], rtol=1e-5)
  assert 0.4 < scale[1] < 0.6


@pytest.mark.x64
def test_shapes_of_the_fields_must_agree():
  params, x = _random((4, 3, 2))
  with pytest.raises(ValueError, match='log_scale must have shape'):
    diagonal.log_prob(params._replace(log_scale=params.log_scale[0]), x)
