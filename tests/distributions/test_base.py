"""The small functions all families share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import base
from tests.distributions.cases import default_dtype, tolerance


def _grid(low: float, high: float) -> jax.Array:
  return jnp.linspace(low, high, 4001, dtype=default_dtype())


def test_soft_clip_is_its_formula():
  x = np.asarray(_grid(-30, 30), np.float64)
  expected = -2 + np.logaddexp(0, x + 2) - np.logaddexp(0, x - 5)
  actual = base.soft_clip(_grid(-30, 30), -2.0, 5.0)
  np.testing.assert_allclose(actual, expected, atol=tolerance(1e-13, 1e-5))


def test_soft_clip_saturates_smoothly():
  values, slopes = jax.vmap(jax.value_and_grad(lambda x: base.soft_clip(x, -10.0, 10.0)))(_grid(-24, 24))
  assert np.all(slopes > 0)
  assert np.all(slopes <= 1)
  assert np.all(np.diff(values) >= 0)
  np.testing.assert_allclose(values[:: len(values) - 1], [-10, 10], atol=1e-5)
  inside = np.abs(_grid(-24, 24)) < 5
  np.testing.assert_allclose(values[inside], _grid(-24, 24)[inside], atol=0.01)


def test_soft_clip_at_the_ends_of_the_range():
  huge = jnp.asarray([-1e30, 1e30], default_dtype())
  np.testing.assert_allclose(base.soft_clip(huge, -7.0, 7.0), [-7, 7])
  with pytest.raises(ValueError, match='low < high'):
    base.soft_clip(huge, 1.0, 1.0)


def test_image_size():
  assert base.ImageShape(3, 4, 2).size == 24


def test_nan_unless_finite():
  value = jnp.asarray([1.5, np.inf, -np.inf, np.nan], default_dtype())
  np.testing.assert_array_equal(base.nan_unless_finite(value), [1.5, np.nan, np.nan, np.nan])
  assert jax.grad(base.nan_unless_finite)(value[0]) == 1


def test_squared_norm_is_over_all_leaves():
  tree = {'a': jnp.asarray([3.0, 4.0]), 'b': jnp.zeros((0, 2)), 'c': jnp.asarray(2.0)}
  assert base.squared_norm(tree) == 29


@pytest.mark.parametrize('value', [-2.2, 0.0, 6.8])
def test_inverse_soft_clip(value: float):
  x = base.inverse_soft_clip(value, -2.3, 6.9)
  assert float(base.soft_clip(jnp.asarray(x), -2.3, 6.9)) == pytest.approx(value, abs=1e-5)
