"""log |t Q t + s| and the diagonal of its inverse for a dense precision Q, t and s diagonal.

Letters: n size; b side of a tile; N tiles along a side; C matrices; M = t Q t + s.

Rows where t is 0 are those of a diagonal matrix. They are moved behind the others and left out, so that
a conditional costs what its unobserved pixels cost: for m of them m^3 / 3 for the determinant and as
much again for the inverse. How many they are is known when the program runs; loops over tiles end
there. The derivatives are closed forms in the whole inverse, n^3, of any order.

Several matrices are given at once, those of an image's channels: equal ones are factorised once.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import blocks, triangular
from structured_obs.linalg.image_by_image import image_by_image

Array = jax.Array
Columns = Callable[[Array, Array], Array]  # (table, places [b] int32) -> [b, n], these columns of Q

TILE = 264


class _Factor(NamedTuple):
  """Cholesky factor of the rows of M where t is not 0, in tiles."""

  order: Array  # [N, b] int32, the row of M that each row of the factor is
  inverses: Array  # [N, b, b], of the tiles on the diagonal
  links: Array  # [N (N - 1) / 2, b, b]  the tiles below it, row by row


def log_det_and_inverse_diagonal(
  columns: Columns, table: Array, scale: Array, ridge: Array
) -> tuple[Array, Array]:
  """log |M| [C] and the diagonal of M^-1 [C, n] of C matrices; NaN where M is not positive definite.

  Of the two, a compiled program computes what it uses.

  Args:
    columns: gives columns of a symmetric Q; linear in the table, and one object in all calls.
    table: [C, ...], what tells one Q from another.
    scale: [C, n], t. Where it is exactly 0, nothing is differentiated by it.
    ridge: [C, n], s, positive where t is 0.
  """
  return _both(columns, table, scale, ridge)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _both(columns: Columns, table: Array, scale: Array, ridge: Array) -> tuple[Array, Array]:
  return _image_by_image(columns)(table, scale, ridge)


@_both.defjvp
def _both_jvp(columns, primals, tangents):
  def dense(table: Array, scale: Array, ridge: Array) -> Array:
    whole = columns(table, jnp.arange(scale.size, dtype=jnp.int32))
    return scale[:, None] * whole * scale[None, :] + jnp.diag(ridge)

  matrix, change = jax.jvp(jax.vmap(dense), primals, tangents)
  inverse = jax.vmap(_inverse)(matrix)
  moved = _matmul(inverse, change)
  log_det = jnp.trace(moved, axis1=1, axis2=2)
  return _both(columns, *primals), (log_det, -jnp.sum(moved * inverse, axis=2))


@functools.cache
def _image_by_image(columns: Columns):
  return image_by_image(functools.partial(_of_channels, columns))


def _of_channels(columns: Columns, table: Array, scale: Array, ridge: Array):
  first = _first_of_equal(table, scale, ridge)
  repeats = first != jnp.arange(len(first), dtype=first.dtype)
  left = jnp.where(repeats[:, None], 0, scale)  # nothing is left to do for these
  factors = jax.vmap(_factoriser(columns))(table, left, ridge)
  log_dets = jax.vmap(_log_det)(factors.inverses, left, ridge)
  inverse = jax.vmap(_inverse_diagonal)(*factors, left, ridge)
  return log_dets[first], inverse[first]


@jax.custom_jvp
def _inverse(matrix: Array) -> Array:
  return _by_cholesky(matrix)


@_inverse.defjvp
def _inverse_jvp(primals, tangents):
  inverse = _inverse(*primals)
  return inverse, -_matmul(_matmul(inverse, tangents[0]), inverse)


@image_by_image
def _by_cholesky(matrix: Array) -> Array:
  chol = jnp.linalg.cholesky(matrix)
  root = triangular.solve(chol, jnp.diag(jnp.ones_like(chol[0])))
  return _matmul(root.T, root)


def _matmul(left: Array, right: Array) -> Array:
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _first_of_equal(*arrays: Array) -> Array:
  """For each of C problems the first that is equal to it, of arrays [C, ...]. [C] int32."""
  count = len(arrays[0])
  equal = jnp.eye(count, dtype=bool)  # NaN equals nothing
  if count > 1:
    flat = (array.reshape(count, -1) for array in arrays)
    pairs = (jnp.all(x[:, None] == x[None], axis=2) for x in flat)
    equal |= functools.reduce(jnp.logical_and, pairs)
  return jnp.argmax(equal, axis=1).astype(jnp.int32)


@functools.cache
def _factoriser(columns: Columns):
  return image_by_image(functools.partial(_factorise, columns))


def _factorise(columns: Columns, table: Array, scale: Array, ridge: Array) -> _Factor:
  size, tile = scale.size, _side(scale.size)
  count = -(-size // tile)
  order = jnp.argsort(scale == 0, stable=True).astype(jnp.int32)
  order = jnp.pad(order, (0, count * tile - size))
  real = jnp.arange(count * tile) < jnp.sum(scale != 0)
  scales = jnp.where(real, scale[order], 0).reshape(count, tile)
  ridges = jnp.where(real, ridge[order], 1).reshape(count, tile)
  order = order.reshape(count, tile)
  steps = _steps(scale)

  def column(j: Array, factor: _Factor) -> _Factor:
    panel = columns(table, order[j]) * scales[j][:, None]

    def left(i: Array, links: Array) -> Array:
      """Tile (i, j) of M less what the columns before j have explained of it."""
      entries = scales[i][:, None] * panel[:, order[i]].T
      if count == 1:
        return entries
      return jax.lax.fori_loop(
        0, j, lambda k, rest: rest - _matmul(_link(links, i, k), _link(links, j, k).T), entries
      )

    own = left(j, factor.links) + jnp.diag(ridges[j])
    inverse = blocks.root_and_inverse(own)[1]

    def below(i: Array, links: Array) -> Array:
      link = _matmul(left(i, links), inverse.T)
      return jax.lax.dynamic_update_index_in_dim(links, link, _place(i, j), axis=0)

    links = jax.lax.fori_loop(j + 1, steps, below, factor.links) if count > 1 else factor.links
    return factor._replace(inverses=factor.inverses.at[j].set(inverse), links=links)

  identity = jnp.diag(jnp.ones_like(scale, shape=(tile,)))
  inverses = jnp.broadcast_to(identity, (count, tile, tile))
  links = jnp.zeros_like(scale, shape=(count * (count - 1) // 2, tile, tile))
  start = _Factor(order, inverses, links)
  return _for_each(steps, count, column, start)


def _log_det(inverses: Array, scale: Array, ridge: Array) -> Array:
  diagonals = jnp.diagonal(inverses, axis1=1, axis2=2)
  left_out = jnp.sum(jnp.where(scale == 0, jnp.log(ridge), 0))
  return left_out - 2 * jnp.sum(jnp.log(diagonals))


@image_by_image
def _inverse_diagonal(
  order: Array, inverses: Array, links: Array, scale: Array, ridge: Array
) -> Array:
  """The squared norms of the columns of L^-1, one column of tiles after the other."""
  count = len(inverses)
  steps = _steps(scale)

  def column(j: Array, norms: Array) -> Array:
    def below(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
      found, norm = state
      rest = jax.lax.fori_loop(
        j, i, lambda k, rest: rest + _matmul(_link(links, i, k), found[k]), jnp.zeros_like(found[0])
      )
      entries = -_matmul(inverses[i], rest)
      return found.at[i].set(entries), norm + jnp.sum(jnp.square(entries), axis=0)

    found = jnp.zeros_like(inverses).at[j].set(inverses[j])
    norm = jnp.sum(jnp.square(inverses[j]), axis=0)
    if count > 1:
      _, norm = jax.lax.fori_loop(j + 1, steps, below, (found, norm))
    return norms.at[j].set(norm)

  norms = _for_each(steps, count, column, jnp.zeros_like(inverses[:, 0]))
  size = scale.size
  places, norms = order.reshape(-1)[:size], norms.reshape(-1)[:size]
  spread = jnp.zeros_like(scale).at[places].set(norms, unique_indices=True)
  return jnp.where(scale == 0, 1 / ridge, spread)


def _steps(scale: Array) -> Array:
  """How many rows of tiles have anything to do."""
  return -(-jnp.sum(scale != 0, dtype=jnp.int32) // _side(scale.size))


def _side(size: int) -> int:
  return min(TILE, blocks.size_of_block(size))


def _for_each(steps: Array, count: int, step: Callable, start):
  """A loop over the rows of tiles that have anything to do; of one row of tiles, none."""
  if count == 1:
    return step(jnp.zeros_like(steps), start)
  return jax.lax.fori_loop(0, steps, step, start)


def _place(row: Array, column: Array) -> Array:
  return row * (row - 1) // 2 + column


def _link(links: Array, row: Array, column: Array) -> Array:
  return jax.lax.dynamic_index_in_dim(links, _place(row, column), keepdims=False)
