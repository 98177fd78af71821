"""Differences with products in which leading digits cancel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import products

pytestmark = pytest.mark.float32


@pytest.mark.parametrize('shape', [(25,), (25, 4)], ids=str)
def test_what_cancels_keeps_its_digits(shape: tuple[int, ...]):
  rng = np.random.default_rng(0)
  left = rng.normal(size=(products.ROWS + 200, 25)).astype(np.float32)  # more than one block of rows
  right = rng.normal(size=shape).astype(np.float32)
  exact = np.asarray(left, np.float64) @ np.asarray(right, np.float64)
  target = exact.astype(np.float32)  # only the rounding of the target is left
  expected = np.asarray(target, np.float64) - exact
  actual = jax.jit(products.subtract_product)(target, left, right)
  assert actual.dtype == jnp.float32
  plain = np.asarray(target - products.matmul(left, right), np.float64)
  error = np.max(np.abs(np.asarray(actual, np.float64) - expected))
  assert error < 0.02 * np.max(np.abs(plain - expected))


def test_rows_and_columns_of_zeros_or_none():
  target = jnp.ones((3,), jnp.float32)
  zeros = jnp.zeros((3, 2), jnp.float32)
  np.testing.assert_array_equal(products.subtract_product(target, zeros, zeros[0]), target)
  np.testing.assert_array_equal(products.subtract_product(target, zeros[:, :0], zeros[0, :0]), target)
