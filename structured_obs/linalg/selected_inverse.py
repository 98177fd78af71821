"""Exact entries of (L L^T)^-1 for a sparse lower-triangular L on an image grid.

Letters: H W height, width; K offsets.

`linalg.sparse_triangular` defines L. If L L^T is the precision of an image, these are its marginal
variances and the covariances of pixels that lie close together, by selected inversion over the full
band of raster-ordered pixels; see `linalg.takahashi`. Cost: H W times the band, W times the largest dr,
times its occupied rows, against (H W)^3 for the inverse.
"""

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding, takahashi
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array


def variances(factor: Factor, offsets: Offsets) -> Array:
  """Returns the diagonal of (L L^T)^-1. [H, W].

  Raises:
    ValueError: the shapes do not match.
  """
  return _covariances(factor, offsets, [(0, 0)])[..., 0]


def covariances(factor: Factor, offsets: Offsets, rows: int, columns: int) -> Array:
  """Returns the covariances of every pixel with those close to it.

  Args:
    factor: L of one image.
    offsets: K pairs (dr, dc).
    rows: largest distance down.
    columns: largest distance to either side.

  Returns:
    [H, W, rows + 1, 2 columns + 1]: of (r, c) with (r + i, c + j - columns) at [r, c, i, j]; 0 where
    that is outside the image.

  Raises:
    ValueError: a distance is negative, or the shapes do not match.
  """
  if rows < 0 or columns < 0:
    raise ValueError(f'rows and columns must be at least 0; got {rows} and {columns}.')
  lags = [(i, j) for i in range(rows + 1) for j in range(-columns, columns + 1)]
  found = _covariances(factor, offsets, lags)
  return found.reshape(*factor.diag.shape, rows + 1, 2 * columns + 1)


@sharding.on_own_mesh
def _covariances(factor: Factor, offsets: Offsets, lags: list[tuple[int, int]]) -> Array:
  """Returns Cov(pixel, pixel + lag) for each lag, 0 outside the image. [H, W, len(lags)]."""
  _check(factor, offsets)
  height, width = factor.diag.shape
  inside = [lag for lag in lags if lag[0] < height and abs(lag[1]) < width]
  # A lag to the left within a row is the opposite lag of the pixel it leads to.
  flat = sorted({abs(i * width + j) for i, j in inside})
  shifts, taps = takahashi.raster_taps(*factor, offsets)
  found = takahashi.lagged_covariances(factor.diag.reshape(-1), taps, shifts, tuple(flat))
  found = found.reshape(height, width, len(flat))
  pieces = []
  for i, j in lags:
    within = (i, j) in inside
    values = found[..., flat.index(abs(i * width + j))] if within else factor.diag
    if within and i * width + j < 0:
      values = jnp.roll(values, -j, axis=1)
    pieces.append(jnp.where(takahashi.reaches((height, width), (i, j)), values, 0))
  return jnp.stack(pieces, axis=-1)


def _check(factor: Factor, offsets: Offsets) -> None:
  diag, weights = jnp.shape(factor.diag), jnp.shape(factor.weights)
  if len(diag) != 2 or weights != (*diag, len(offsets)):
    raise ValueError(
      f'The factor must have diag [H, W] and weights [H, W, {len(offsets)}], one for each offset; got '
      f'{diag} and {weights}. These functions take one image: map them over a batch with jax.vmap.'
    )
  if any(offset <= (0, 0) for offset in offsets):
    raise ValueError(f'Every offset must lead to a raster-later pixel; got {offsets}.')
