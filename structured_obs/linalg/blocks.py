# One file of more than 300 lines: the blocks and every operation on them.
"""Banded matrices as dense blocks: the form in which LAPACK and matrix products do the work.

Letters: n size; w bandwidth; b block size, at least w; B blocks; R right-hand sides.

Columns are cut into B groups of b. Since b >= w, a group of a lower-triangular banded matrix has entries
in its own rows and in the rows of the next group only. Padded columns are those of the identity.

On a CPU, LAPACK is called for one matrix at a time, under `jax.vmap` as well; `linalg.image_by_image`
says why.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg.image_by_image import image_by_image
from structured_obs.linalg.products import matmul

Array = jax.Array

PIECE = 24  # rows that LAPACK is given at once; its triangular solves start threads from 32 x 32 on


class Blocks(NamedTuple):
  """Lower triangle of a banded matrix."""

  own: Array  # [B, b, b]  rows of the same group
  below: Array  # [B, b, b]  rows of the next group


def size_of_block(bandwidth: int) -> int:
  """Returns the block size for a bandwidth."""
  return max(-(-bandwidth // PIECE), 1) * PIECE


def from_band(band: Array) -> Blocks:
  """Returns the blocks of a lower band [n, w + 1], whose entries outside the matrix are not read."""
  size, diagonals = band.shape
  block = size_of_block(diagonals - 1)
  count = -(-size // block)
  row, diagonal = (jax.lax.broadcasted_iota(jnp.int32, band.shape, axis) for axis in (0, 1))
  band = jnp.where(row + diagonal < size, band, 0)
  band = jnp.pad(band, ((0, count * block - size), (0, 2 * block + 1 - diagonals)))
  outside = jax.lax.broadcasted_iota(jnp.int32, band.shape, 0) >= size
  first = jax.lax.broadcasted_iota(jnp.int32, band.shape, 1) == 0
  band = jnp.where(outside & first, 1, band)
  # Row c of a group moves right by c: one entry more in each row than the width it is read with.
  flat = band.reshape(-1).reshape(count, -1)[:, : 2 * block * block]
  columns = jnp.swapaxes(flat.reshape(count, block, 2 * block), 1, 2)
  return Blocks(columns[:, :block], columns[:, block:])


def to_band(blocks: Blocks, size: int, bandwidth: int) -> Array:
  """Returns the lower band [n, w + 1] of blocks; the reverse of `from_band`.

  Args:
    blocks: of a lower triangle.
    size: n.
    bandwidth: w.
  """
  count, block, _ = blocks.own.shape
  columns = jnp.swapaxes(jnp.concatenate(blocks, axis=1), 1, 2)
  flat = jnp.pad(columns.reshape(count, -1), ((0, 0), (0, block)))
  straight = flat.reshape(-1).reshape(count * block, 2 * block + 1)[:size, : bandwidth + 1]
  row, diagonal = (jax.lax.broadcasted_iota(jnp.int32, straight.shape, axis) for axis in (0, 1))
  return jnp.where(row + diagonal < size, straight, 0)


def multiply(blocks: Blocks, x: Array, transposed: bool = False) -> Array:
  """Returns L x, or L^T x if transposed. [n, R] for x [n, R].

  Args:
    blocks: of L.
    x: [n, R].
    transposed: whether to apply L^T.
  """
  tiles = _tiles(x, blocks.own)
  if transposed:
    later = jnp.concatenate([tiles[1:], jnp.zeros_like(tiles[:1])])
    own, below = (jnp.swapaxes(part, 1, 2) for part in blocks)
    product = matmul(own, tiles) + matmul(below, later)
  else:
    carried = matmul(blocks.below, tiles)
    earlier = jnp.concatenate([jnp.zeros_like(tiles[:1]), carried[:-1]])
    product = matmul(blocks.own, tiles) + earlier
  return product.reshape(-1, x.shape[1])[: x.shape[0]]


def square(blocks: Blocks) -> Blocks:
  """Returns the lower triangle of L L^T."""
  gram = matmul(blocks.below, jnp.swapaxes(blocks.below, 1, 2))
  earlier = jnp.concatenate([jnp.zeros_like(gram[:1]), gram[:-1]])
  transposed = jnp.swapaxes(blocks.own, 1, 2)
  own = matmul(blocks.own, transposed) + earlier
  return Blocks(jnp.tril(own), matmul(blocks.below, transposed))


def factorise(blocks: Blocks) -> Blocks:
  """Returns the Cholesky factor of a positive definite matrix given by the blocks of its lower triangle.

  NaN from the first block on that is not positive definite. Differentiable to any order.
  """
  return factorise_and_invert(blocks)[0]


def factorise_and_invert(blocks: Blocks) -> tuple[Blocks, Array]:
  """Returns the same factor, and the inverses of its blocks on the diagonal. [B, b, b]."""
  return _factorise(*blocks)


@jax.custom_jvp
def _factorise(own: Array, below: Array) -> tuple[Blocks, Array]:
  return _block_by_block(own, below)


@_factorise.defjvp
def _factorise_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
  # dL = L phi(L^-1 dA L^-T) block by block, phi the lower triangle with half of the diagonal: products
  # alone, so that the derivative of any order has the same form.
  chol, inverses = _factorise(*primals)

  def step(carried: Array, block: tuple[Array, ...]) -> tuple[Array, tuple[Blocks, Array]]:
    root, link, inverse, d_own, d_below = block
    change = jnp.tril(d_own - carried)
    inner = matmul(matmul(inverse, change + jnp.tril(change, -1).T), inverse.T)
    d_root = matmul(root, jnp.tril(inner) - jnp.diag(jnp.diag(inner)) / 2)
    d_link = matmul(d_below - matmul(link, d_root.T), inverse.T)
    half = matmul(d_link, link.T)
    d_inverse = -matmul(matmul(inverse, d_root), inverse)
    return half + half.T, (Blocks(d_root, d_link), d_inverse)

  inputs = (*chol, inverses, *tangents)
  return (chol, inverses), jax.lax.scan(step, jnp.zeros_like(inverses[0]), inputs)[1]


@image_by_image
def _block_by_block(own: Array, below: Array) -> tuple[Blocks, Array]:
  identity = jnp.diag(jnp.ones_like(own[0, 0]))

  def step(carried: Array, block: Blocks) -> tuple[Array, tuple[Blocks, Array]]:
    left = block.own - carried

    def work() -> tuple[Array, tuple[Blocks, Array]]:
      root, inverse = root_and_inverse(left)
      link = matmul(block.below, inverse.T)
      return matmul(link, link.T), (Blocks(root, link), inverse)

    def skip() -> tuple[Array, tuple[Blocks, Array]]:
      return block.below, (Blocks(left, block.below), left)

    return jax.lax.cond(_is_identity(left, block.below), skip, work)

  return jax.lax.scan(step, jnp.zeros_like(identity), Blocks(own, below))[1]


def _is_identity(own: Array, below: Array) -> Array:
  """Returns whether a block is the identity and has no links, so that nothing is to be done. []."""
  return jnp.all(own == jnp.diag(jnp.ones_like(own[0]))) & jnp.all(below == 0)


@image_by_image
def root_and_inverse(lower: Array) -> tuple[Array, Array]:
  """Returns the Cholesky factor of a matrix and the factor's inverse. [b, b] each.

  NaN unless it is positive definite. Not to be differentiated.

  Args:
    lower: [b, b], b at most `PIECE` or a multiple of it.
  """
  size = lower.shape[0]
  if size <= PIECE:
    return _small_root(lower)

  def place(whole: Array, part: Array, *start: Array | int) -> Array:
    return jax.lax.dynamic_update_slice(whole, part, [jnp.asarray(i, jnp.int32) for i in start])

  def piece(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    root, inverse = state
    first = index * PIECE
    row = jax.lax.dynamic_slice_in_dim(root, first, PIECE)
    column = jax.lax.dynamic_slice_in_dim(lower, first, PIECE, axis=1) - matmul(root, row.T)
    own_root, own = _small_root(jax.lax.dynamic_slice_in_dim(column, first, PIECE))
    below = jax.lax.broadcasted_iota(jnp.int32, column.shape, 0) >= first + PIECE
    root = place(root, jnp.where(below, matmul(column, own.T), 0), 0, first)
    root = place(root, own_root, first, first)
    inverse = place(inverse, -matmul(own, matmul(row, inverse)), first, 0)
    return root, place(inverse, own, first, first)

  # Zeros of the matrix's own kind: what a loop carries varies over devices as the matrix does.
  start = jnp.zeros_like(lower)
  return jax.lax.fori_loop(0, size // PIECE, piece, (start, start))


def _small_root(lower: Array) -> tuple[Array, Array]:
  """Returns `root_and_inverse` of a matrix of at most `PIECE` rows.

  LAPACK starts no threads for it; on busy cores they would wait for each other.
  """
  root = jax.lax.linalg.cholesky(lower, symmetrize_input=False)
  identity = jnp.eye(lower.shape[0], dtype=lower.dtype)
  return root, jax.lax.linalg.triangular_solve(root, identity, left_side=True, lower=True)


@jax.custom_jvp
def inverse_diagonal(below: Array, inverses: Array) -> Array:
  """Returns the diagonal of (L L^T)^-1. [B, b]. Differentiable to any order.

  Args:
    below: [B, b, b], of the blocks of L.
    inverses: [B, b, b], of L's blocks on the diagonal.
  """
  return _diagonal_skipping(below, inverses)


@inverse_diagonal.defjvp
def _inverse_diagonal_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
  return jax.jvp(functools.partial(_diagonal, step=_selected), primals, tangents)


def _diagonal(below: Array, inverses: Array, step: Callable[[Array, Array, Array], Array]) -> Array:
  """Returns the diagonal of each block, computed from the last block to the first. [B, b]."""

  def body(later: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
    own = step(later, *block)
    return own, jnp.diagonal(own)

  return jax.lax.scan(body, jnp.zeros_like(below[0]), (below, inverses), reverse=True)[1]


def _selected(later: Array, link: Array, inverse: Array) -> Array:
  """Returns S_J = R^-T (I + K^T S_N K) R^-1 [b, b], given S_N of the next block.

  R and K are the blocks of L.
  """
  inner = matmul(link.T, matmul(later, link))
  return matmul(inverse.T, inverse + matmul(inner, inverse))


@image_by_image
def _diagonal_skipping(below: Array, inverses: Array) -> Array:
  def step(later: Array, link: Array, inverse: Array) -> Array:
    done = _is_identity(inverse, link)
    return jax.lax.cond(done, lambda: inverse, lambda: _selected(later, link, inverse))

  return _diagonal(below, inverses, step)


def solve(blocks: Blocks, rhs: Array, transposed: bool) -> Array:
  """Returns L^-1 b or L^-T b: [n, R] for b [n, R]. Not to be differentiated; closed under vmap.

  Args:
    blocks: of L.
    rhs: [n, R], b.
    transposed: whether to apply L^-T.
  """
  return _solvers[transposed](*blocks, rhs)


def _make_solver(transposed: bool):
  @image_by_image
  def separate(own: Array, below: Array, rhs: Array) -> Array:
    return _substitute(Blocks(own, below), rhs, transposed)

  solver = jax.custom_batching.custom_vmap(separate)

  @solver.def_vmap
  def rule(
    axis_size: int, in_batched: list[bool], own: Array, below: Array, rhs: Array
  ) -> tuple[Array, bool]:
    if in_batched[0] or in_batched[1]:
      axes = [0 if batched else None for batched in in_batched]
      return jax.vmap(separate, in_axes=axes)(own, below, rhs), True
    # One matrix, more right-hand sides.
    size, sides = rhs.shape[1:]
    joined = jnp.moveaxis(rhs, 0, 2).reshape(size, sides * axis_size)
    solved = solver(own, below, joined).reshape(size, sides, axis_size)
    return jnp.moveaxis(solved, 2, 0), True

  return solver


def _substitute(blocks: Blocks, rhs: Array, transposed: bool) -> Array:
  tiles = _tiles(rhs, blocks.own)
  back = functools.partial(jax.lax.linalg.triangular_solve, left_side=True, lower=True)

  def forward(owed: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    own, below, right = inputs
    found = back(own, right - owed)
    return matmul(below, found), found

  def backward(later: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    own, below, right = inputs
    found = back(own, right - matmul(below.T, later), transpose_a=True)
    return found, found

  step = backward if transposed else forward
  inputs = (blocks.own, blocks.below, tiles)
  _, found = jax.lax.scan(step, jnp.zeros_like(tiles[0]), inputs, reverse=transposed)
  return found.reshape(-1, rhs.shape[1])[: rhs.shape[0]]


_solvers = {transposed: _make_solver(transposed) for transposed in (False, True)}


def _tiles(x: Array, own: Array) -> Array:
  """Returns the rows of x [n, R] as tiles [B, b, R], padded with zeros."""
  count, block, _ = own.shape
  padded = jnp.pad(x, ((0, count * block - x.shape[0]), (0, 0)))
  return padded.reshape(count, block, x.shape[1])
