"""Banded matrices as dense blocks: the form in which LAPACK and matrix products do the work.

Letters: n size; w bandwidth; b block size, at least w; B blocks; R right-hand sides.

Columns are cut into B groups of b. Since b >= w, a group of a lower-triangular banded matrix has entries
in its own rows and in the rows of the next group only. Padded columns are those of the identity.

On a CPU, LAPACK is called for one matrix at a time, under `jax.vmap` as well: batched calls of that
backend wait for each other on the pool they run on, and two at a time can hang for ever.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Blocks(NamedTuple):
  """Lower triangle of a banded matrix."""

  own: Array  # [B, b, b]  rows of the same group
  below: Array  # [B, b, b]  rows of the next group


def size_of_block(bandwidth: int) -> int:
  """Block size for a bandwidth."""
  return max(-(-bandwidth // 8) * 8, 16)


def from_band(band: Array) -> Blocks:
  """Blocks of a lower band [n, w + 1], whose entries outside the matrix are not read."""
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
  flat = band.reshape(count, -1)[:, : 2 * block * block]
  columns = jnp.swapaxes(flat.reshape(count, block, 2 * block), 1, 2)
  return Blocks(columns[:, :block], columns[:, block:])


def to_band(blocks: Blocks, size: int, bandwidth: int) -> Array:
  """Lower band [n, w + 1] of blocks; the reverse of `from_band`."""
  count, block, _ = blocks.own.shape
  columns = jnp.swapaxes(jnp.concatenate(blocks, axis=1), 1, 2)
  flat = jnp.pad(columns.reshape(count, -1), ((0, 0), (0, block)))
  straight = flat.reshape(count * block, 2 * block + 1)[:size, : bandwidth + 1]
  row, diagonal = (jax.lax.broadcasted_iota(jnp.int32, straight.shape, axis) for axis in (0, 1))
  return jnp.where(row + diagonal < size, straight, 0)


def multiply(blocks: Blocks, x: Array, transposed: bool = False) -> Array:
  """L x or L^T x: [n, R] for x [n, R]."""
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
  """Lower triangle of L L^T."""
  gram = matmul(blocks.below, jnp.swapaxes(blocks.below, 1, 2))
  earlier = jnp.concatenate([jnp.zeros_like(gram[:1]), gram[:-1]])
  transposed = jnp.swapaxes(blocks.own, 1, 2)
  own = matmul(blocks.own, transposed) + earlier
  return Blocks(jnp.tril(own), matmul(blocks.below, transposed))


def factorise(blocks: Blocks) -> Blocks:
  """Cholesky factor of a positive definite matrix given by the blocks of its lower triangle.

  NaN from the first block on that is not positive definite. Differentiable to any order.
  """
  return _factorise(*blocks)[0]


@jax.custom_jvp
def _factorise(own: Array, below: Array) -> tuple[Blocks, Array]:
  """Blocks of L, and the inverses of those on its diagonal [B, b, b]."""

  def step(carried: Array, block: tuple[Array, Array]) -> tuple[Array, tuple[Blocks, Array]]:
    root, inverse = _root(block[0] - carried)
    link = matmul(block[1], inverse.T)
    return matmul(link, link.T), (Blocks(root, link), inverse)

  return jax.lax.scan(step, jnp.zeros_like(own[0]), (own, below))[1]


@_factorise.defjvp
def _factorise_jvp(primals, tangents):
  # dL = L phi(L^-1 dA L^-T) block by block, phi the lower triangle with half of the diagonal: products
  # alone, so that the derivative of any order has the same form.
  chol, inverses = _factorise(*primals)

  def step(carried: Array, block):
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


def _one_by_one(function):
  """`function` with a rule for vmap: a loop on a CPU, a batch elsewhere."""
  wrapped = jax.custom_batching.custom_vmap(function)

  @wrapped.def_vmap
  def rule(axis_size, in_batched, *arrays):
    arrays = tuple(
      x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
      for x, batched in zip(arrays, in_batched, strict=True)
    )
    loop = functools.partial(jax.lax.map, lambda one: wrapped(*one))
    together = jax.vmap(function)
    found = jax.lax.platform_dependent(
      *arrays, cpu=lambda *stacked: loop(stacked), default=lambda *stacked: together(*stacked)
    )
    return found, jax.tree.map(lambda _: True, found)

  return wrapped


@_one_by_one
def _root(lower: Array) -> tuple[Array, Array]:
  """Halves the matrix until LAPACK, which starts threads for large ones, has only small ones to do."""
  size = lower.shape[0]
  if size <= 40:
    root = jax.lax.linalg.cholesky(lower, symmetrize_input=False)
    identity = jnp.eye(size, dtype=lower.dtype)
    return root, jax.lax.linalg.triangular_solve(root, identity, left_side=True, lower=True)
  half = size // 2
  first, first_inverse = _root(lower[:half, :half])
  link = matmul(lower[half:, :half], first_inverse.T)
  last, last_inverse = _root(lower[half:, half:] - matmul(link, link.T))
  zero = jnp.zeros_like(lower, shape=(half, size - half))
  corner = -matmul(last_inverse, matmul(link, first_inverse))
  return (
    jnp.block([[first, zero], [link, last]]),
    jnp.block([[first_inverse, zero], [corner, last_inverse]]),
  )


def solve(blocks: Blocks, rhs: Array, transposed: bool) -> Array:
  """L^-1 b or L^-T b: [n, R] for b [n, R]. Not to be differentiated; closed under vmap."""
  return _solvers[transposed](*blocks, rhs)


def _make_solver(transposed: bool):
  @_one_by_one
  def separate(own: Array, below: Array, rhs: Array) -> Array:
    return _substitute(Blocks(own, below), rhs, transposed)

  solver = jax.custom_batching.custom_vmap(separate)

  @solver.def_vmap
  def rule(axis_size, in_batched, own, below, rhs):
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
  """[n, R] -> [B, b, R], padded with zeros."""
  count, block, _ = own.shape
  padded = jnp.pad(x, ((0, count * block - x.shape[0]), (0, 0)))
  return padded.reshape(count, block, x.shape[1])
