"""Banded symmetric positive definite matrices: Cholesky factor, solves, log-determinant, inverse.

Letters: n size; w bandwidth, the largest |i - j| of an entry that is not zero.

A *band* [n, w + 1] holds a lower triangle by columns, `band[j, d]` = A[j + d, j]: SciPy's lower `ab`
transposed. Of a symmetric matrix it is the lower half; a Cholesky factor has the same layout. Entries
with j + d >= n lie outside the matrix and are never read. All functions take one matrix and one
right-hand side [n]: `jax.vmap` maps them over either. Derivatives of every order, forward and reverse,
come from closed forms: a solve stores no steps of a factorisation, and a factorisation keeps a few
blocks for every w columns.

The work is done in dense blocks of about w columns (`linalg.blocks`), so that it is matrix products; the
compile time does not depend on n. Cost: n w^2 for the factorisation and the inverse, n w for a solve.
A matrix that is not positive definite gives NaN from the first failing block on, so its log-determinant
and solutions are NaN.
"""

import functools

import jax
import jax.numpy as jnp

from structured_obs.linalg import blocks, sharding, takahashi
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array


@sharding.on_own_mesh
def cholesky(band: Array) -> Array:
  """Band of L, lower triangular with a positive diagonal and L L^T = A. [n, w + 1].

  Raises:
    ValueError: the band is not an array [n, w + 1] with n and w + 1 at least 1.
  """
  _check_band('band', band)
  if band.shape[1] == 1:
    return jnp.sqrt(band)
  return blocks.to_band(blocks.factorise(blocks.from_band(band)), band.shape[0], band.shape[1] - 1)


@sharding.on_own_mesh
def solve_triangular(chol: Array, rhs: Array, transposed: bool = False) -> Array:
  """L^-1 b, or L^-T b if transposed. [n].

  Raises:
    ValueError: the shapes do not match.
  """
  _check_band('chol', chol)
  _check_vector('rhs', rhs, chol)
  parts = blocks.from_band(chol)

  def product(x: Array) -> Array:
    return blocks.multiply(parts, x[:, None], transposed)[:, 0]

  def substitute(transposed: bool, _, right: Array) -> Array:
    return blocks.solve(parts, right[:, None], transposed)[:, 0]

  there = functools.partial(substitute, transposed)
  back = functools.partial(substitute, not transposed)
  return jax.lax.custom_linear_solve(product, rhs, there, back)


def matvec_inverse_transpose(chol: Array, noise: Array) -> Array:
  """L^-T u: for white noise u, a sample of N(0, A^-1). [n].

  Raises:
    ValueError: the shapes do not match.
  """
  return solve_triangular(chol, noise, transposed=True)


def cho_solve(chol: Array, rhs: Array) -> Array:
  """A^-1 b from the factor of A. [n].

  Raises:
    ValueError: the shapes do not match.
  """
  return solve_triangular(chol, solve_triangular(chol, rhs), transposed=True)


@sharding.on_own_mesh
def solve(band: Array, rhs: Array) -> Array:
  """A^-1 b. [n]. Its derivative is that of the solution: no factorisation is differentiated.

  Raises:
    ValueError: the shapes do not match.
  """
  _check_band('band', band)
  _check_vector('rhs', rhs, band)
  chol = cholesky(jax.lax.stop_gradient(band))
  product = functools.partial(matvec, band)
  return jax.lax.custom_linear_solve(
    product, rhs, lambda _, right: cho_solve(chol, right), symmetric=True
  )


@sharding.on_own_mesh
def matvec(band: Array, x: Array) -> Array:
  """A x of the symmetric A with this lower triangle. [n].

  Raises:
    ValueError: the shapes do not match.
  """
  _check_band('band', band)
  _check_vector('x', x, band)
  parts = blocks.from_band(band)
  halves = (blocks.multiply(parts, x[:, None], transposed)[:, 0] for transposed in (False, True))
  return sum(halves, start=-band[:, 0] * x)


def log_det(chol: Array) -> Array:
  """log |A| from the factor of A. []."""
  _check_band('chol', chol)
  return 2 * jnp.sum(jnp.log(chol[:, 0]))


def variances(chol: Array) -> Array:
  """Diagonal of A^-1 from the factor of A. [n]."""
  return inverse_band(chol, 0)[:, 0]


@sharding.on_own_mesh
def inverse_band(chol: Array, bandwidth: int) -> Array:
  """Entries of A^-1 within a bandwidth k, from the factor of A, in the layout of a band. [n, k + 1].

  Raises:
    ValueError: the bandwidth is negative.
  """
  _check_band('chol', chol)
  if bandwidth < 0:
    raise ValueError(f'bandwidth must be at least 0; got {bandwidth}.')
  size, diagonals = chol.shape
  row, diagonal = (jax.lax.broadcasted_iota(jnp.int32, chol.shape, axis) for axis in (0, 1))
  inside = jnp.where(row + diagonal < size, chol, 0)
  shifts = tuple(range(1, min(diagonals, size)))
  lags = tuple(range(min(bandwidth + 1, size)))
  found = takahashi.lagged_covariances(chol[:, 0], inside[:, 1 : 1 + len(shifts)], shifts, lags)
  return jnp.pad(found, ((0, 0), (0, bandwidth + 1 - len(lags))))


def from_dense(matrix: Array, bandwidth: int) -> Array:
  """Band of a lower triangle [n, n]. [n, w + 1].

  Raises:
    ValueError: the matrix is not square or the bandwidth negative.
  """
  size = jnp.shape(matrix)[0]
  if jnp.shape(matrix) != (size, size) or bandwidth < 0:
    raise ValueError(
      f'matrix must be [n, n] and bandwidth at least 0; got {jnp.shape(matrix)} and {bandwidth}.'
    )
  columns = [
    jnp.pad(jnp.diagonal(matrix, -d), (0, min(d, size))) for d in range(bandwidth + 1)
  ]
  return jnp.stack(columns, axis=-1)


def to_dense(band: Array) -> Array:
  """Lower-triangular matrix of a band. [n, n]."""
  _check_band('band', band)
  size = band.shape[0]
  diagonals = min(band.shape[1], size)
  return sum(
    (jnp.diag(band[: size - d, d], -d) for d in range(diagonals)),
    start=jnp.zeros_like(band, shape=(size, size)),
  )


def from_scipy(ab: Array, lower: bool = False) -> Array:
  """Band of the `ab` [w + 1, n] of `scipy.linalg.solveh_banded` and `cholesky_banded`. [n, w + 1]."""
  _check_band('ab', ab)
  if lower:
    return ab.T
  bandwidth, size = ab.shape[0] - 1, ab.shape[1]
  # ab[w - d, j + d] = A[j, j + d]
  rows = (jnp.pad(ab[bandwidth - d, d:], (0, min(d, size))) for d in range(bandwidth + 1))
  return jnp.stack(list(rows), axis=-1)


def from_grid(factor: Factor, offsets: Offsets) -> Array:
  """Band of the sparse factor of an image grid, pixels in raster order. [H W, w + 1]."""
  shifts, taps = takahashi.raster_taps(factor.diag, factor.weights, offsets)
  band = jnp.zeros_like(taps, shape=(taps.shape[0], max(shifts, default=0) + 1))
  band = band.at[:, 0].set(factor.diag.reshape(-1))
  return band.at[:, jnp.asarray(shifts, jnp.int32)].set(taps) if shifts else band


def gram(chol: Array) -> Array:
  """Band of A = L L^T from that of L: the reverse of `cholesky`. [n, w + 1].

  The precision of an image is `gram(from_grid(factor, offsets))`, and an observation of its pixels with
  noise adds to the first column.
  """
  _check_band('chol', chol)
  return blocks.to_band(blocks.square(blocks.from_band(chol)), chol.shape[0], chol.shape[1] - 1)


def _check_band(name: str, band: Array) -> None:
  shape = jnp.shape(band)
  if len(shape) != 2 or 0 in shape:
    raise ValueError(
      f'{name} must be a band [n, w + 1] with at least one row and one column; got shape {shape}. '
      'These functions take one matrix: map them over a batch with jax.vmap.'
    )


def _check_vector(name: str, vector: Array, band: Array) -> None:
  if jnp.shape(vector) != band.shape[:1]:
    raise ValueError(
      f'{name} must have the shape {band.shape[:1]} of the band\'s rows; got {jnp.shape(vector)}. Map '
      'over further right-hand sides with jax.vmap.'
    )
