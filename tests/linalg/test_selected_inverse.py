"""Entries of the inverse near its diagonal against a dense float64 inverse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from structured_obs.distributions import sparse_precision
from structured_obs.linalg import selected_inverse, sparse_triangular
from structured_obs.linalg.sparse_triangular import Factor, Offsets, offsets
from tests.linalg.factors import dense_factor, random_factor, tolerance

WIDE = ((0, 1), (0, 3), (1, -5), (1, 0), (2, 4), (5, 0))  # not the neighbourhood of any filter
CASES: tuple[tuple[int, int, Offsets], ...] = (
  (6, 7, offsets(3)),
  (9, 21, offsets(5)),  # blocks end within rows
  (5, 4, offsets(7)),
  (1, 19, offsets(5)),
  (23, 1, offsets(3)),
  (2, 3, offsets(9)),  # reaches beyond the image
  (1, 1, offsets(3)),
  (4, 5, ()),
  (7, 9, WIDE),
  (3, 40, WIDE),
)


def dense_covariance(factor: Factor, offsets: Offsets):
  inverse = np.linalg.inv(dense_factor(factor, offsets))
  return inverse.T @ inverse


def assert_relative(actual, expected, rtol: float):
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.max(np.abs(expected)))


@pytest.mark.parametrize(('height', 'width', 'offsets'), CASES)
@pytest.mark.few(3)
def test_variances(height: int, width: int, offsets: Offsets):
  factor = random_factor(height, width, offsets)
  actual = jax.jit(selected_inverse.variances, static_argnums=1)(factor, offsets)
  expected = np.diag(dense_covariance(factor, offsets)).reshape(height, width)
  assert actual.dtype == factor.diag.dtype
  np.testing.assert_allclose(actual, expected, rtol=tolerance(1e-12, 1e-6))


@pytest.mark.parametrize(('height', 'width', 'offsets'), CASES)
@pytest.mark.parametrize(('rows', 'columns'), [(0, 0), (0, 2), (1, 3), (4, 1)])
@pytest.mark.slow
def test_covariances(height: int, width: int, offsets: Offsets, rows: int, columns: int):
  factor = random_factor(height, width, offsets)
  actual = selected_inverse.covariances(factor, offsets, rows, columns)
  dense = dense_covariance(factor, offsets).reshape(height, width, height, width)
  expected = np.zeros((height, width, rows + 1, 2 * columns + 1))
  for r, c, i, j in np.ndindex(expected.shape):
    if r + i < height and 0 <= c + j - columns < width:
      expected[r, c, i, j] = dense[r, c, r + i, c + j - columns]
  assert_relative(actual, expected, tolerance(1e-12, 1e-6))


@pytest.mark.parametrize('strength', [0.5, 0.97])
def test_float32_error(strength: float):
  factor = random_factor(24, 24, offsets(5), strength)
  factor = jax.tree.map(lambda x: x.astype(jnp.float32), factor)
  expected = np.diag(dense_covariance(factor, offsets(5))).reshape(24, 24)
  actual = jax.jit(selected_inverse.variances, static_argnums=1)(factor, offsets(5))
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.x64
@pytest.mark.parametrize('order', [1, 2])
def test_derivatives(order: int):
  factor = random_factor(4, 6, WIDE)  # two blocks
  near = functools.partial(selected_inverse.covariances, offsets=WIDE, rows=1, columns=0)
  modes = ['fwd', 'rev'] if order == 1 else ['rev']
  check_grads(jax.jit(near), (factor,), order=order, modes=modes, atol=1e-5, rtol=1e-5)


@pytest.mark.x64
def test_gradient_is_the_dense_one():
  pattern = offsets(5)
  factor = random_factor(7, 8, pattern)
  places = jnp.asarray(dense_places(factor, pattern))

  def dense(factor: Factor) -> jax.Array:
    flat = jnp.concatenate([jnp.zeros(1), factor.diag.ravel(), factor.weights.ravel()])
    inverse = jnp.linalg.inv(flat[places])
    return jnp.sum(jnp.log(jnp.diag(inverse.T @ inverse)))

  ours = jax.grad(lambda f: jnp.sum(jnp.log(selected_inverse.variances(f, pattern))))
  actual, expected = jax.jit(ours)(factor), jax.jit(jax.grad(dense))(factor)
  jax.tree.map(lambda a, e: assert_relative(a, e, 1e-10), actual, expected)


def dense_places(factor: Factor, offsets: Offsets):
  """Where each entry of L stands among (0, diag, weights), all of them raveled. [n, n]."""
  size = factor.diag.size
  numbered = Factor(
    jnp.arange(1.0, 1.0 + size).reshape(factor.diag.shape),
    jnp.arange(1.0 + size, 1.0 + size + factor.weights.size).reshape(factor.weights.shape),
  )
  return dense_factor(numbered, offsets).astype(int)


@pytest.mark.x64
def test_vmap():
  pattern = offsets(5)
  factors = [random_factor(5, 6, pattern, strength) for strength in (0.1, 0.5, 0.9)]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *factors)
  variances = jax.jit(lambda factor: selected_inverse.variances(factor, pattern))
  actual, expected = jax.vmap(variances)(stacked), [variances(factor) for factor in factors]
  np.testing.assert_allclose(actual, jnp.stack(expected), rtol=tolerance(1e-13, 1e-6))


@pytest.mark.x64
def test_what_lies_outside_the_image_is_not_read():
  pattern = offsets(3)
  factor = random_factor(4, 5, pattern)
  outside = jnp.isnan(jnp.asarray(marked_outside(factor, pattern)))
  spoiled = factor._replace(weights=jnp.where(outside, jnp.nan, factor.weights))
  variances = jax.jit(selected_inverse.variances, static_argnums=1)
  np.testing.assert_array_equal(variances(spoiled, pattern), variances(factor, pattern))


def marked_outside(factor: Factor, offsets: Offsets):
  height, width, _ = factor.weights.shape
  marked = np.full(factor.weights.shape, np.nan)
  for r, c, k in np.ndindex(marked.shape):
    if r + offsets[k][0] < height and 0 <= c + offsets[k][1] < width:
      marked[r, c, k] = 0
  return marked


@pytest.mark.x64
def test_wrong_arguments_are_refused():
  factor = random_factor(4, 5, offsets(3))
  with pytest.raises(ValueError, match=r'weights \[H, W, 12\]'):
    selected_inverse.variances(factor, offsets(5))
  with pytest.raises(ValueError, match='rows and columns must be at least 0; got -1 and 2'):
    selected_inverse.covariances(factor, offsets(3), -1, 2)
  with pytest.raises(ValueError, match='raster-later'):
    selected_inverse.variances(factor, (*offsets(3)[:3], (0, -1)))


@pytest.mark.x64
@pytest.mark.slow
def test_float32_is_accurate_where_pixels_lean_heavily_on_each_other():
  """The nearest factor of a smooth covariance, through which rounding could grow from block to block."""
  shape, filter_size = (20, 20), 7
  rows, columns = np.indices(shape).reshape(2, -1)
  squares = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
  covariance = np.exp(-squares / 18) + 1e-3 * np.eye(rows.size)
  params = sparse_precision.from_covariance(jnp.zeros((*shape, 1)), jnp.asarray(covariance), filter_size)
  single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
  pattern = offsets(filter_size)
  factor = Factor(jnp.exp(single.log_diag[..., 0]), single.off_diag[:, :, 0])
  exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), factor)
  identity = jnp.eye(rows.size).reshape(-1, *shape)
  half = jax.vmap(lambda e: sparse_triangular.solve(exact, e, pattern))(identity)
  expected = jnp.sum(jnp.square(half), axis=(1, 2)).reshape(shape)
  actual = selected_inverse.variances(factor, pattern)
  assert np.max(np.abs(actual.astype(jnp.float64) - expected)) < 3e-4 * np.max(expected)
