"""Triangular solves on an image grid by a scan over its rows, from the natural layout: the CPU's way.

Letters: H W height, width; K later neighbours; B images; R right-hand sides of one image; m reach of the
offsets along a row; h reach over rows; p padding, the largest reach over columns.

Within a step, everything that comes from other rows is one stencil over the whole row, and only the few
neighbours in the same row are left to an inner scan over columns, whose body is small enough for the
compiler to make one native loop of it. Images lie side by side in the last axes. No array but the
factor's own is ever of its size.
"""

import functools

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding, side_by_side

Array = jax.Array
Offsets = tuple[tuple[int, int], ...]

SIDES = 16  # of one image at a time: a row of more leaves the fast caches
CHUNK = 200  # neighbours times images in one inner loop; beyond it the compiler leaves the fast path


@sharding.on_own_mesh
def solve(diag: Array, weights: Array, rhs: Array, offsets: Offsets, transposed: bool) -> Array:
  """L^-1 b or L^-T b of one grid: diag [H, W], weights [H, W, K], rhs [H, W] -> [H, W]."""
  many = _solver(offsets, transposed)
  return many(diag[None], weights[None], rhs[None, None])[0, 0]


def solve_many(
  diag: Array, weights: Array, rhs: Array, offsets: Offsets, transposed: bool
) -> Array:
  """L^-1 b or L^-T b of B grids with R right-hand sides each. [B, R, H, W].

  Differentiable as it stands, and its derivative stores every step: `linalg.sparse_triangular` has the
  solve whose derivative does not.

  Args:
    diag: [B, H, W].
    weights: [B, H, W, K].
    rhs: [B, R, H, W].
    offsets: K offsets, static.
    transposed: whether to apply L^-T instead of L^-1.
  """
  if rhs.shape[1] > SIDES:
    one = functools.partial(_solve_one, offsets=offsets, transposed=transposed)
    return _by_chunks(one, (diag, weights, rhs), 1)
  chunk = max(CHUNK // (max(len(offsets), 1) * rhs.shape[1]), 1)
  piece = functools.partial(_solve_chunk, offsets=offsets, transposed=transposed)
  return _by_chunks(piece, (diag, weights, rhs), chunk)


@functools.cache
def _solver(offsets: Offsets, transposed: bool):
  """`solve_many`, closed under vmap and not to be differentiated."""
  return side_by_side.solver(functools.partial(solve_many, offsets=offsets, transposed=transposed))


def _by_chunks(run, arrays: tuple[Array, ...], chunk: int) -> Array:
  """Apply to at most `chunk` images, or right-hand sides, at a time."""
  images = arrays[0].shape[0]
  if images <= chunk:
    return run(*arrays)
  pieces = -(-images // chunk)
  size = -(-images // pieces)
  whole = images // size * size
  split = tuple(x[:whole].reshape(-1, size, *x.shape[1:]) for x in arrays)
  done = jax.lax.map(lambda piece: run(*piece), split)
  done = done.reshape(whole, *done.shape[2:])
  if whole == images:
    return done
  return jnp.concatenate([done, run(*(x[whole:] for x in arrays))])


def _solve_chunk(diag: Array, weights: Array, rhs: Array, offsets: Offsets, transposed: bool) -> Array:
  """L = L' D with a unit triangular L' and D the diagonal: one kind of weights serves both solves."""
  images, sides, height, width = rhs.shape
  last = jnp.transpose(rhs, (2, 3, 0, 1))  # here rather than row by row: a quarter of the time at R = 64
  reach = max((abs(dc) for _, dc in offsets), default=0)
  rows = max((dr for dr, _ in offsets), default=0)
  step = _backward if transposed else _forward

  def body(carry: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
    index, right = inputs
    inverse = 1 / _row(diag, index, 1)
    links = jnp.transpose(_row(weights, index, 1) * inverse[..., None], (2, 1, 0))[..., None]
    carry, solved = step(links, inverse.T[..., None], right, carry, offsets)
    return carry, jnp.transpose(solved, (1, 2, 0))

  carry = jnp.zeros_like(rhs, shape=(rows, width + 2 * reach, images, sides))
  rows_down = (jnp.arange(height, dtype=jnp.int32), last)
  _, solved = jax.lax.scan(body, carry, rows_down, reverse=transposed)
  return jnp.transpose(solved, (1, 2, 0, 3))


def _solve_one(diag: Array, weights: Array, rhs: Array, offsets: Offsets, transposed: bool) -> Array:
  """The same for one image, a few right-hand sides at a time."""
  some = functools.partial(_solve_chunk, diag, weights, offsets=offsets, transposed=transposed)
  return _by_chunks(lambda sides: some(sides[None])[0], (rhs[0],), SIDES)[None]


def _row(array: Array, index: Array, axis: int) -> Array:
  return jax.lax.dynamic_index_in_dim(array, index, axis, keepdims=False)


def _backward(links, inverse, right, later, offsets: Offsets) -> tuple[Array, Array]:
  """One row of L'^T y = D^-1 u, from the h later rows [h, W + 2 p, B, R] of y, padded.

  links [K, W, B, 1], inverse [W, B, 1], right [W, B, R].
  """
  width, reach = right.shape[0], (later.shape[1] - right.shape[0]) // 2
  known = right * inverse
  for k, (dr, dc) in enumerate(offsets):
    if dr > 0:
      known -= links[k] * later[dr - 1, reach + dc : reach + dc + width]
  near = {dc: links[k] for k, (dr, dc) in enumerate(offsets) if dr == 0}
  solved = _along_row(known, near, reverse=True)
  padded = jnp.pad(solved, ((reach, reach), (0, 0), (0, 0)))
  return jnp.concatenate([padded[None], later])[: later.shape[0]], solved


def _along_row(known: Array, links: dict[int, Array], reverse: bool) -> Array:
  """y[c] = known[c] - sum_d links_d[c] y[c - d], or y[c + d] and from the far end. [W, B, R]."""
  if not links:
    return known

  def column(near, inputs):
    value, *weights = inputs
    for weight, distance in zip(weights, links, strict=True):
      value = value - weight * near[distance - 1]
    return (value, *near[:-1]), value

  start = (jnp.zeros_like(known[0]),) * max(links)
  return jax.lax.scan(column, start, (known, *links.values()), reverse=reverse)[1]


def _forward(links, inverse, right, owed, offsets: Offsets) -> tuple[Array, Array]:
  """One row of L' s = b, y = D^-1 s, with what it and earlier rows take from the next h rows.

  links [K, W, B, 1], inverse [W, B, 1], right [W, B, R], owed [h, W + 2 p, B, R].
  """
  width, reach = right.shape[0], (owed.shape[1] - right.shape[0]) // 2
  known = right - owed[0, reach : reach + width] if owed.shape[0] else right
  # Each link at the pixel that it leads to, so that the inner loop only reads: a quarter faster.
  near = {dc: links[k] for k, (dr, dc) in enumerate(offsets) if dr == 0}
  near = {dc: jnp.pad(link, ((dc, 0), (0, 0), (0, 0)))[:width] for dc, link in near.items()}
  solved = _along_row(known, near, reverse=False)
  owed = jnp.concatenate([owed[1:], jnp.zeros_like(owed[:1])])
  for k, (dr, dc) in enumerate(offsets):
    if dr > 0:
      start = (dr - 1, reach + dc, 0, 0)
      old = jax.lax.dynamic_slice(owed, start, (1, *solved.shape))
      owed = jax.lax.dynamic_update_slice(owed, old + (links[k] * solved)[None], start)
  return owed, solved * inverse
