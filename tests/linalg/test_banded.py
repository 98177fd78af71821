"""Banded linear algebra against dense float64 matrices and SciPy's banded routines."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from structured_obs.linalg import banded
from structured_obs.linalg.sparse_triangular import offsets
from tests.linalg.factors import default_dtype, dense_factor, random_factor, tolerance

SIZES = [(1, 0), (7, 0), (1, 3), (5, 9), (40, 1), (50, 16), (70, 23), (64, 5)]
sizes = pytest.mark.parametrize(('size', 'bandwidth'), SIZES)


def dense_spd(size: int, bandwidth: int, seed: int = 0):
  """Symmetric positive definite [n, n] of a bandwidth, in float64."""
  rng = np.random.default_rng(seed)
  lower = np.tril(np.triu(rng.normal(size=(size, size)), -bandwidth), -1)
  lower = 0.5 * lower / np.sqrt(bandwidth + 1) + np.diag(np.exp(0.2 * rng.normal(size=size)))
  return lower @ lower.T


def problem(size: int, bandwidth: int):
  """Matrix, its band with rubbish outside the matrix, and a vector."""
  matrix = dense_spd(size, bandwidth)
  band = np.full((size, bandwidth + 1), np.nan)
  for j, d in np.ndindex(band.shape):
    if j + d < size:
      band[j, d] = matrix[j + d, j]
  vector = np.random.default_rng(1).normal(size=size)
  return matrix, jnp.asarray(band, default_dtype()), jnp.asarray(vector, default_dtype())


def assert_close(actual, expected):
  scale = np.max(np.abs(expected), initial=1e-30)
  np.testing.assert_allclose(actual / scale, expected / scale, atol=tolerance(1e-12, 5e-6))


@functools.cache
def results(size: int, bandwidth: int) -> dict[str, Any]:
  """Every operation on the problem, compiled together."""
  _, band, rhs = problem(size, bandwidth)

  @jax.jit
  def found(band: jax.Array, rhs: jax.Array) -> dict[str, jax.Array]:
    chol = banded.cholesky(band)
    return {
      'cholesky': chol,
      'dense': banded.to_dense(jnp.where(jnp.isnan(band), 0, chol)),
      'log_det': banded.log_det(chol),
      'gram': banded.gram(chol),
      'solve_triangular': banded.solve_triangular(chol, rhs),
      'matvec_inverse_transpose': banded.matvec_inverse_transpose(chol, rhs),
      'cho_solve': banded.cho_solve(chol, rhs),
      'solve': banded.solve(band, rhs),
      'matvec': banded.matvec(band, rhs),
      'variances': banded.variances(chol),
      'inverse_band': banded.inverse_band(chol, bandwidth),
    }

  return found(band, rhs)


@sizes
@pytest.mark.few(2)
def test_cholesky(size: int, bandwidth: int):
  (matrix, band, _), found = problem(size, bandwidth), results(size, bandwidth)
  assert found['cholesky'].dtype == band.dtype
  assert found['cholesky'].shape == band.shape
  assert_close(found['dense'], np.linalg.cholesky(matrix))
  assert_close(found['log_det'], np.linalg.slogdet(matrix)[1])
  assert_close(np.where(np.isnan(band), 0, found['gram']), np.nan_to_num(np.asarray(band)))


@sizes
@pytest.mark.few(2)
def test_solves(size: int, bandwidth: int):
  (matrix, _, rhs), found = problem(size, bandwidth), results(size, bandwidth)
  lower, exact = np.linalg.cholesky(matrix), np.asarray(rhs, np.float64)
  assert_close(found['solve_triangular'], np.linalg.solve(lower, exact))
  assert_close(found['matvec_inverse_transpose'], np.linalg.solve(lower.T, exact))
  assert_close(found['cho_solve'], np.linalg.solve(matrix, exact))
  assert_close(found['solve'], np.linalg.solve(matrix, exact))
  assert_close(found['matvec'], matrix @ exact)


@sizes
@pytest.mark.few(2)
def test_inverse(size: int, bandwidth: int):
  (matrix, *_), found = problem(size, bandwidth), results(size, bandwidth)
  inverse = np.linalg.inv(matrix)
  assert_close(found['variances'], np.diag(inverse))
  expected = np.zeros((size, bandwidth + 1))
  for j, d in np.ndindex(expected.shape):
    if j + d < size:
      expected[j, d] = inverse[j + d, j]
  assert_close(found['inverse_band'], expected)


@pytest.mark.x64
def test_layouts():
  matrix, band, _ = problem(12, 3)
  np.testing.assert_allclose(banded.from_dense(jnp.asarray(matrix, band.dtype), 3), np.nan_to_num(band))
  clean = jnp.nan_to_num(band)
  np.testing.assert_allclose(np.tril(matrix), banded.to_dense(clean), rtol=tolerance(1e-15, 1e-6))
  lower = np.asarray(clean).T
  upper = np.zeros_like(lower)
  for d in range(4):
    upper[3 - d, d:] = lower[d, : 12 - d]
  np.testing.assert_array_equal(banded.from_scipy(jnp.asarray(lower), lower=True), clean)
  np.testing.assert_array_equal(banded.from_scipy(jnp.asarray(upper)), clean)
  assert_close(banded.cholesky(clean).T, scipy.linalg.cholesky_banded(lower, lower=True))


@pytest.mark.parametrize(
  ('height', 'width', 'filter_size'), [(6, 9, 5), (4, 3, 3), (1, 8, 5), (7, 1, 3)]
)
@pytest.mark.slow
def test_grid(height: int, width: int, filter_size: int):
  pattern = offsets(filter_size)
  factor = random_factor(height, width, pattern)
  lower = dense_factor(factor, pattern)
  band = banded.from_grid(factor, pattern)
  np.testing.assert_allclose(banded.to_dense(band), lower, rtol=1e-6)
  observed = banded.gram(band).at[:, 0].add(0.5)
  expected = np.linalg.inv(lower @ lower.T + 0.5 * np.eye(height * width))
  assert_close(banded.variances(banded.cholesky(observed)), np.diag(expected))


@pytest.mark.x64
@pytest.mark.parametrize('where', [0, 20, 39])
@pytest.mark.few(3)
def test_an_indefinite_matrix_gives_nan(where: int):
  _, band, rhs = problem(40, 2)
  band = band.at[where, 0].set(-1.0)
  assert np.isnan(banded.log_det(banded.cholesky(band)))
  assert np.all(np.isnan(banded.solve(band, rhs)))


@pytest.mark.x64
@pytest.mark.parametrize(('size', 'bandwidth'), [(5, 0), (20, 2)])
@pytest.mark.few(2)
def test_derivatives(size: int, bandwidth: int):
  _, band, rhs = problem(size, bandwidth)
  band = jnp.nan_to_num(band)

  def everything(band: jax.Array, rhs: jax.Array) -> tuple[jax.Array, ...]:
    chol = banded.cholesky(band)
    pair = banded.cho_solve(chol, rhs), banded.solve(band, rhs)
    sampled = banded.matvec_inverse_transpose(chol, rhs)
    return banded.log_det(chol), *pair, banded.variances(chol), sampled

  check_grads(jax.jit(everything), (band, rhs), order=1, atol=1e-6, rtol=1e-6)
  check_grads(jax.jit(everything), (band, rhs), order=2, modes=['rev'], atol=1e-5, rtol=1e-5)


@pytest.mark.x64
def test_gradient_is_the_dense_one():
  matrix, band, rhs = problem(37, 4)

  def dense(lower: jax.Array) -> jax.Array:
    full = lower + jnp.tril(lower, -1).T
    return rhs @ jnp.linalg.solve(full, rhs) + jnp.linalg.slogdet(full)[1]

  def ours(band: jax.Array) -> jax.Array:
    return rhs @ banded.solve(band, rhs) + banded.log_det(banded.cholesky(band))

  expected = jax.grad(dense)(jnp.asarray(np.tril(matrix)))
  gradient = jax.jit(jax.grad(ours))(band)
  assert_close(gradient, banded.from_dense(expected, 4))


@pytest.mark.x64
@pytest.mark.slow
def test_vmap_over_matrices_and_right_hand_sides():
  _, band, rhs = problem(20, 3)
  scale = jnp.asarray([1.0, 2.0, 3.0], band.dtype)
  bands, sides = jnp.stack([s * band for s in scale]), jnp.stack([s * rhs for s in scale])
  expected = jax.vmap(lambda s: banded.solve(band, rhs) / s)(scale)
  assert_close(jax.vmap(banded.solve, in_axes=(0, None))(bands, rhs), np.asarray(expected))
  assert_close(jax.vmap(banded.solve)(bands, sides), np.tile(banded.solve(band, rhs), (3, 1)))
  both = jax.vmap(banded.solve, in_axes=(None, 0))(band, sides)
  assert_close(both, np.outer(scale, banded.solve(band, rhs)))


@pytest.mark.x64
def test_batched_gradients_survive_two_cores():
  """Batched LAPACK calls can hang the CPU backend for ever; the test's timeout would show it."""
  _, band, rhs = problem(60, 7)
  bands = jnp.stack([band * (1 + 0.01 * i) for i in range(16)])

  def objective(band: jax.Array) -> jax.Array:
    chol = banded.cholesky(band)
    return banded.log_det(chol) + jnp.sum(banded.cho_solve(chol, rhs)) + jnp.sum(banded.variances(chol))

  step = jax.jit(jax.vmap(jax.grad(objective)))
  gradients = [jax.block_until_ready(step(bands)) for _ in range(50)]
  assert np.all(np.isfinite(gradients[-1][:, :50]))


@pytest.mark.x64
def test_wrong_shapes_are_refused():
  _, band, rhs = problem(6, 1)
  with pytest.raises(ValueError, match='band must be a band'):
    banded.cholesky(band[:, 0])
  with pytest.raises(ValueError, match=r'rhs must have the shape \(6,\)'):
    banded.solve(band, rhs[:5])
  with pytest.raises(ValueError, match='bandwidth must be at least 0'):
    banded.inverse_band(band, -1)
