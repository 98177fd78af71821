"""Functions of single numbers against their formulas, with derivatives of two orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import elementwise

LOW, HIGH = -2.0, 5.0


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))


def test_soft_clip_and_its_derivatives_are_the_formulas():
  """At both ends, in the middle, and far outside."""
  grid = np.asarray([LOW, HIGH, (LOW + HIGH) / 2, -9, -1, 0, 4, 7, 20])
  x = jnp.asarray(grid)
  small = 1e-13 if x.dtype == jnp.float64 else 2e-6
  first, second = (jax.vmap(f) for f in (jax.grad(_clip), jax.grad(jax.grad(_clip))))
  low, high = _sigmoid(grid - LOW), _sigmoid(grid - HIGH)
  expected = LOW + np.logaddexp(0, grid - LOW) - np.logaddexp(0, grid - HIGH)
  np.testing.assert_allclose(_clip(x), expected, rtol=small, atol=small)
  np.testing.assert_allclose(first(x), low - high, atol=small)
  np.testing.assert_allclose(second(x), low * (1 - low) - high * (1 - high), atol=small)


def test_the_slope_of_soft_clip_is_accurate_far_outside():
  """Where a difference of two sigmoids that are both about 1 would have lost its digits."""
  slopes = jax.vmap(jax.grad(_clip))(jnp.asarray([-40.0, 40.0]))
  expected = np.exp([-38.0, -35.0]) * -np.expm1(LOW - HIGH)
  np.testing.assert_allclose(slopes, expected, rtol=1e-5)


def _clip(x: jax.Array) -> jax.Array:
  return elementwise.soft_clip(x, LOW, HIGH)


@pytest.mark.parametrize('count', [0, 3, elementwise.UNROLLED + 1])
def test_scaling_a_short_axis(count: int):
  rng = np.random.default_rng(0)
  x, fixed, cotangent = (jnp.asarray(rng.normal(size=(2, count))) for _ in range(3))
  scale = jnp.asarray(rng.normal(size=2))
  value, back = jax.vjp(lambda x, s: elementwise.scale_short_axis(x, s, fixed), x, scale)
  rtol = 1e-13 if x.dtype == jnp.float64 else 1e-4
  np.testing.assert_allclose(value, x * fixed * scale[:, None], rtol=rtol)
  by_x, by_scale = back(cotangent)
  np.testing.assert_allclose(by_x, cotangent * fixed * scale[:, None], rtol=rtol)
  np.testing.assert_allclose(by_scale, np.sum(cotangent * x * fixed, axis=1), rtol=rtol)
