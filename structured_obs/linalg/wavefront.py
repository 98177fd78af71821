"""Triangular solves on an image grid along diagonal wavefronts.

Letters: H W height, width; K later neighbours; M slots of a wavefront; T steps; s slope.

Pixel (r, c) of row r = m + M q sits in slot m of step t = c + s m + P q with P = s M + 1, s larger than
any reach of the offsets to the left and M large enough that P >= W. A pixel's neighbour (dr, dc) then
lies at the constant flat distance (dc + s dr) M + dr >= M in the array [T, M], with no wrap and no
border: each step is K shifted products of M contiguous numbers, and T is about W + s (H - 1).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.linalg import sharding, side_by_side

Array = jax.Array
Offsets = tuple[tuple[int, int], ...]


class Packed(NamedTuple):
  """A factor in wavefront order, ready for many solves of one kind. Its shape is its size."""

  weights: Array  # [T, K, M]
  inverse: Array  # [T, M]  1 / diagonal, 0 where there is no pixel


class _Layout(NamedTuple):
  """Where the pixels of one image go."""

  height: int
  width: int
  slope: int  # s
  slots: int  # M
  period: int  # P
  blocks: int  # Q, ceil(H / M)

  @property
  def steps(self) -> int:
    """T."""
    return self.blocks * self.period + self.slope * (self.slots - 1)


def _layout(height: int, width: int, offsets: Offsets) -> _Layout:
  slope = 1 + max((-dc for dr, dc in offsets if dr > 0), default=0)
  rows = max((dr for dr, _ in offsets), default=0)
  slots = max(-(-(width - 1) // slope), rows + 1, 1)
  return _Layout(height, width, slope, slots, slope * slots + 1, -(-height // slots))


@sharding.on_own_mesh
def pack(diag: Array, weights: Array, offsets: Offsets, transposed: bool) -> Packed:
  """Put a factor into the order in which L (or with `transposed` L^T) is solved.

  For many images, `jax.vmap(pack, out_axes=-1)` and `jax.vmap(solve, in_axes=(-1, ..))` keep them side
  by side in memory, which is how they are solved; with the default axes each solve copies first.

  Args:
    diag: [H, W].
    weights: [H, W, K].
    offsets: K offsets, static.
    transposed: whether `solve` is to apply L^-T instead of L^-1.
  """
  height, width = diag.shape
  layout = _layout(height, width, offsets)
  unit = jnp.where(_inside(diag.shape, offsets), weights / diag[..., None], 0)
  if transposed:
    links = _skew(unit[::-1, ::-1], layout)
  else:
    size = layout.steps * layout.slots
    flat = _skew(unit, layout).reshape(size, len(offsets))
    moved = [
      jnp.pad(flat[: max(size - far, 0), k], (min(far, size), 0))
      for k, far in enumerate(_distances(layout, offsets))
    ]
    links = jnp.stack(moved, axis=-1) if moved else flat
  inverse = 1 / diag[::-1, ::-1] if transposed else 1 / diag
  links = links.reshape(layout.steps, layout.slots, len(offsets))
  return Packed(jnp.swapaxes(links, 1, 2), _skew(inverse[..., None], layout)[..., 0])


@sharding.on_own_mesh
def solve(packed: Packed, rhs: Array, offsets: Offsets, transposed: bool) -> Array:
  """Solve with a packed factor. [H, W] for rhs [H, W]. Not to be differentiated."""
  many = _solver(offsets, transposed)
  return many(packed.weights[None], packed.inverse[None], rhs[None, None])[0, 0]


def pack_and_solve(
  diag: Array, weights: Array, rhs: Array, offsets: Offsets, transposed: bool
) -> Array:
  """L^-1 b or L^-T b from the natural layout. [H, W]. Not to be differentiated."""
  return solve(pack(diag, weights, offsets, transposed), rhs, offsets, transposed)


@functools.cache
def _solver(offsets: Offsets, transposed: bool):
  """The solve for B images with R right-hand sides each, [B, R, H, W]."""

  def run(weights: Array, inverse: Array, rhs: Array) -> Array:
    images, sides, height, width = rhs.shape
    layout = _layout(height, width, offsets)
    turned = rhs[..., ::-1, ::-1] if transposed else rhs
    right = jnp.transpose(turned, (2, 3, 0, 1)).reshape(height, width, images * sides)
    right = _skew(right, layout).reshape(layout.steps, layout.slots, images, sides)
    links, scale = jnp.transpose(weights, (1, 2, 3, 0)), jnp.transpose(inverse, (1, 2, 0))
    right = right * scale[..., None] if transposed else right
    solved = _recursion(links, right, layout, offsets)
    solved = solved if transposed else solved * scale[..., None]
    image = _unskew(solved.reshape(layout.steps, layout.slots, images * sides), layout)
    image = jnp.transpose(image.reshape(height, width, images, sides), (2, 3, 0, 1))
    return image[..., ::-1, ::-1] if transposed else image

  return side_by_side.solver(run)


def _recursion(links: Array, right: Array, layout: _Layout, offsets: Offsets) -> Array:
  """y[i] = b[i] - sum_k w_k[i] y[i - distance_k] over the flat array, a step at a time.

  links [T, K, M, B], right [T, M, B, R] -> [T, M, B, R].
  """
  slots = layout.slots
  distances = _distances(layout, offsets)
  history = max(distances, default=slots)
  steps = layout.width + layout.slope * (layout.height - 1) + layout.blocks - 1

  def body(step: Array, solved: Array) -> Array:
    window = jax.lax.dynamic_slice_in_dim(solved, step * slots, history)
    value = jax.lax.dynamic_index_in_dim(right, step, keepdims=False)
    link = jax.lax.dynamic_index_in_dim(links, step, keepdims=False)
    for k, distance in enumerate(distances):
      value = value - link[k][..., None] * window[history - distance : history - distance + slots]
    return jax.lax.dynamic_update_slice_in_dim(solved, value, history + step * slots, axis=0)

  start = jnp.zeros_like(right, shape=(history + layout.steps * slots, *right.shape[2:]))
  solved = jax.lax.fori_loop(0, steps, body, start)
  return solved[history:].reshape(right.shape)


def _distances(layout: _Layout, offsets: Offsets) -> list[int]:
  return [(dc + layout.slope * dr) * layout.slots + dr for dr, dc in offsets]


def _skew(images: Array, layout: _Layout) -> Array:
  """Images [H, W, n] in wavefront order [T, M, n]; 0 where there is no pixel."""
  slots, blocks, period, slope = layout.slots, layout.blocks, layout.period, layout.slope
  rows, columns, count = blocks * slots - layout.height, period - layout.width, images.shape[-1]
  padded = jnp.pad(images, ((0, rows), (0, columns), (0, 0)))
  lines = jnp.moveaxis(padded.reshape(blocks, slots, period, count), 1, 0)
  lines = lines.reshape(slots, blocks * period, count)
  # Line m, delayed by s m steps: rows of a longer pitch, read back at a pitch shorter by s.
  pitch = blocks * period + slope * slots
  flat = jnp.pad(lines, ((0, 0), (0, slope * slots), (0, 0))).reshape(slots * pitch, count)
  delayed = flat[: slots * (pitch - slope)].reshape(slots, pitch - slope, count)
  return jnp.moveaxis(delayed, 0, 1)


def _unskew(packed: Array, layout: _Layout) -> Array:
  """Inverse of `_skew`. [T, M, n] -> [H, W, n]."""
  slots, blocks, period, slope = layout.slots, layout.blocks, layout.period, layout.slope
  count = packed.shape[-1]
  flat = jnp.moveaxis(packed, 1, 0).reshape(layout.steps * slots, count)
  lines = jnp.pad(flat, ((0, slope * slots), (0, 0))).reshape(slots, layout.steps + slope, count)
  lines = lines[:, : blocks * period].reshape(slots, blocks, period, count)
  rows = jnp.moveaxis(lines, 0, 1).reshape(blocks * slots, period, count)
  return rows[: layout.height, : layout.width]


def _inside(shape: tuple[int, ...], offsets: Offsets) -> NDArray[np.bool_]:
  """Whether each pixel's neighbours are in the image. [H, W, K]."""
  rows, columns = np.indices(shape)[..., None]
  down, right = np.reshape(np.asarray(offsets, int), (-1, 2)).T
  return (rows + down < shape[0]) & (columns + right >= 0) & (columns + right < shape[1])
