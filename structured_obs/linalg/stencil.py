"""Stencil of each pixel's own weights over an image grid, sum_k w_k[j] v[j + o_k], in tiles on a CPU.

Letters: H W height, width; K offsets; B images; R images that share one set of weights.

The compiler of the CPU backend makes a copy of each of the K shifted slices before it adds them up.
Inside a loop over tiles it does not: a slice at a place that the loop decides is read where it lies.
"""

import functools

import jax
import jax.numpy as jnp

from structured_obs.linalg import side_by_side

Array = jax.Array
Offsets = tuple[tuple[int, int], ...]

TILE = 2048  # pixels; larger operations are split over threads, which costs more than it gains in a loop


def apply(weights: Array, v: Array, offsets: Offsets) -> Array:
  """sum_k weights[j, k] v[j + o_k], 0 from outside. [H, W]. Not to be differentiated on a CPU."""
  if not offsets:
    return jnp.zeros_like(v)
  tiled = functools.partial(_tiled, offsets=offsets)
  plain = functools.partial(shifts, offsets=offsets)
  return jax.lax.platform_dependent(weights, v, cpu=tiled, default=plain)


def shifts(weights: Array, v: Array, offsets: Offsets) -> Array:
  """The same as a plain sum of shifted products, to be differentiated. [H, W]."""
  near = neighbours(v, offsets)
  terms = (weights[..., k] * shifted for k, shifted in enumerate(near))
  return sum(terms, start=jnp.zeros_like(v))


def neighbours(v: Array, offsets: Offsets) -> list[Array]:
  """v[j + o_k] at j for each offset, 0 from outside. K arrays [H, W]."""
  padded, reach = _pad(v, offsets)
  return _windows(padded, v.shape[0], reach, offsets)


def _windows(padded: Array, height: int, reach: int, offsets: Offsets) -> list[Array]:
  width = padded.shape[-1] - 2 * reach
  return [
    padded[..., dr : dr + height, reach + dc : reach + dc + width] for dr, dc in offsets
  ]


def _pad(v: Array, offsets: Offsets) -> tuple[Array, int]:
  """v with zeros below and on both sides, as far as the offsets reach, and how far that is sideways."""
  rows, reach = (max((abs(offset[axis]) for offset in offsets), default=0) for axis in (0, 1))
  return jnp.pad(v, (*((0, 0),) * (v.ndim - 2), (0, rows), (reach, reach))), reach


def _tiled(weights: Array, v: Array, offsets: Offsets) -> Array:
  return _many(offsets)(weights[None], v[None, None])[0, 0]


@functools.cache
def _many(offsets: Offsets):
  """For weights [B, H, W, K] and v [B, R, H, W]."""

  def run(weights: Array, v: Array) -> Array:
    images, sides, height, width = v.shape
    padded, reach = _pad(v, offsets)
    rows, tile = padded.shape[2] - height, _tile_rows(height, width * sides)
    count = len(offsets)

    def one(index: Array) -> Array:
      image, top = index // (height // tile), index % (height // tile) * tile
      zero = jnp.zeros_like(top)
      links = jax.lax.dynamic_slice(weights, (image, top, zero, zero), (1, tile, width, count))[0]
      size = (1, sides, tile + rows, width + 2 * reach)
      near = jax.lax.dynamic_slice(padded, (image, zero, top, zero), size)[0]
      terms = (links[None, ..., k] * w for k, w in enumerate(_windows(near, tile, reach, offsets)))
      return sum(terms, start=jnp.zeros_like(v, shape=(sides, tile, width)))

    tiles = jax.lax.map(one, jnp.arange(images * (height // tile), dtype=jnp.int32))
    split = tiles.reshape(images, height // tile, sides, tile, width)
    return jnp.moveaxis(split, 2, 1).reshape(v.shape)

  return side_by_side.solver(run)


def _tile_rows(height: int, width: int) -> int:
  """The most rows that divide the height and make no more than a tile of pixels; at least 1."""
  fits = [rows for rows in range(1, height + 1) if height % rows == 0 and rows * width <= TILE]
  return max(fits, default=1)
