"""log |t L L^T t + s| and the diagonal of its inverse for a sparse L on an image grid, t and s diagonal.

Letters: n pixels; w bandwidth, the largest distance of two linked pixels in raster order; b block size,
at least w; B blocks; T entries of a column of L; S distances d of the entries of M = t L L^T t + s.

Rows where t is 0 are those of a diagonal matrix. They are left out of the raster order, which widens no
band, so that a conditional costs what its unobserved pixels cost: for m of them about 2 m w^2 for the
determinant and 8 m w^2 for the inverse, in dense blocks (`linalg.blocks`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.linalg import blocks, sharding, sparse_triangular, takahashi
from structured_obs.linalg.blocks import Blocks
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array


@sharding.on_own_mesh
@functools.partial(jax.jit, static_argnames='offsets')
def log_det_and_inverse_diagonal(
  factor: Factor, scale: Array, ridge: Array, offsets: Offsets
) -> tuple[Array, Array]:
  """Returns log |M| [] and the diagonal of M^-1 [H, W]; NaN where M is not positive definite.

  Of the two, a compiled program computes what it uses.

  Args:
    factor: L of one image.
    scale: [H, W], t. Where it is exactly 0, nothing is differentiated by it.
    ridge: [H, W], s, positive where t is 0.
    offsets: K pairs (dr, dc), static.
  """
  scaled = sparse_triangular.scale_rows(factor, scale, offsets)
  shifts, taps = takahashi.raster_taps(*scaled, offsets)
  columns = jnp.concatenate([scaled.diag.reshape(-1)[None], taps.T])
  distances, entries = _gram(columns, (0, *shifts))
  entries = entries.at[0].add(ridge.reshape(-1))
  scale, ridge = scale.reshape(-1), ridge.reshape(-1)
  live = scale != 0
  place = jnp.cumsum(live, dtype=jnp.int32) - 1
  matrix = _gather(entries, distances, live, place)
  root, inverses = blocks.factorise_and_invert(matrix)
  diagonal = jnp.diagonal(root.own, axis1=1, axis2=2)
  log_det = 2 * jnp.sum(jnp.log(diagonal)) + jnp.sum(jnp.where(live, 0, jnp.log(ridge)))
  inverse = blocks.inverse_diagonal(root.below, inverses).reshape(-1)
  return log_det, jnp.where(live, inverse[place], 1 / ridge).reshape(factor.diag.shape)


def _gram(columns: Array, shifts: tuple[int, ...]) -> tuple[tuple[int, ...], Array]:
  """Returns the subdiagonals of L L^T, at these distances d: [S, n], M[j + d, j] at j.

  Args:
    columns: [T, n], L[j + s, j] at j for each of the shifts s.
    shifts: increasing from 0.
  """
  count, size = columns.shape
  steps = np.asarray(shifts, np.int32)
  apart = steps[None, :] - steps[:, None]  # of entries t and u of one column
  distances = np.unique(apart[apart >= 0])
  places = np.searchsorted(distances, np.maximum(apart, 0)).astype(np.int32)
  padded = jnp.pad(columns, ((0, 0), (size, 0)))

  def add(total: Array, inputs: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
    upper, shift, place, later = inputs
    moved = jax.lax.dynamic_slice_in_dim(padded, size - shift, size, axis=1)  # by column to row j
    own = jax.lax.dynamic_index_in_dim(moved, upper, axis=0)
    return total.at[place].add(jnp.where(later[:, None], own * moved, 0)), None

  total = jnp.zeros_like(columns, shape=(len(distances), size))
  inputs = np.arange(count, dtype=np.int32), steps, places, apart >= 0
  total, _ = jax.lax.scan(add, total, jax.tree.map(jnp.asarray, inputs))
  return tuple(int(d) for d in distances), total


def _gather(entries: Array, distances: tuple[int, ...], live: Array, place: Array) -> Blocks:
  """Returns the lower triangle of the live rows and columns in blocks, followed by an identity.

  Args:
    entries: [S, n], M[j + d, j] at j for each of the distances d.
    distances: increasing from 0.
    live: [n], bool.
    place: [n], int32, the row of the result that a live row becomes.
  """
  size = live.shape[0]
  block = blocks.size_of_block(distances[-1])
  count = -(-size // block)
  ahead = jnp.stack([jnp.roll(place, -d) for d in distances])
  linked = jnp.stack([live & jnp.roll(live, -d) & (jnp.arange(size) < size - d) for d in distances])
  first = place // block * block
  flat = ahead * block + (first * block + place % block)[None]  # of row `ahead - first` of 2 b rows
  outside = count * 2 * block * block
  whole = jnp.zeros_like(entries, shape=(outside,))
  whole = whole.at[jnp.where(linked, flat, outside)].add(entries, mode='drop')
  whole = whole.reshape(count, 2 * block, block)
  behind = jnp.arange(count * block, dtype=place.dtype).reshape(count, 1, block) > place[-1]
  identity = jnp.where(behind, jnp.eye(block, dtype=entries.dtype)[None], 0)
  return Blocks(whole[:, :block] + identity, whole[:, block:])
