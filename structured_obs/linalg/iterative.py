"""Solves and eigenpairs of a symmetric positive definite matrix that is known only by its products.

Each function returns its relative residual, so that callers can see whether the iteration converged.

Letters: n size.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import decompositions
from structured_obs.linalg.products import power_of_two

Array = jax.Array
Matvec = Callable[[Array], Array]  # [n] -> [n]

DENSE_SIZE = 512  # up to here a dense eigendecomposition is the fast and safe way
MAX_DENSE_SIZE = 4096  # up to here it is at least possible


class Solution(NamedTuple):
  """Solution of a linear system and how good it is."""

  value: Array  # [n]
  residual: Array  # []  |A x - b| / |b|
  iterations: Array  # [] int32


class Eigenpairs(NamedTuple):
  """Leading eigenpairs and how good they are."""

  values: Array  # [k], largest first
  vectors: Array  # [k, n], orthonormal rows
  residual: Array  # [k]  |A v - value v| / value


def conjugate_gradient(
  matvec: Matvec,
  rhs: Array,
  precondition: Matvec | None = None,
  max_iterations: int = 1000,
) -> Solution:
  """Solves A x = b by preconditioned conjugate gradients, to about the precision of the type.

  Differentiable to any order in whatever the products close over: a derivative is another such solve.

  Args:
    matvec: of a symmetric positive definite A; zero rows are fine where b is zero too.
    rhs: [n], b.
    precondition: of an approximate inverse of A, symmetric positive definite too.
    max_iterations: the iteration ends here at the latest.
  """
  _check_vector(rhs)
  inverse = precondition if precondition is not None else lambda v: v
  tolerance = 10 * float(jnp.finfo(rhs.dtype).eps)

  def iterate(product: Matvec, b: Array) -> tuple[Array, Array]:
    scale = power_of_two(b)
    b = b / scale
    goal = tolerance**2 * jnp.sum(jnp.square(b))

    def going(state: tuple[Array, ...]) -> Array:
      _, residual, _, _, count = state
      return (jnp.sum(jnp.square(residual)) > goal) & (count < max_iterations)

    def step(state: tuple[Any, ...]) -> tuple[Array, ...]:
      value, residual, direction, slope, count = state
      # In units of the direction and of its image, however small or large the matrix is.
      unit = power_of_two(direction)
      along = direction / unit
      image = product(along)
      size = power_of_two(image)
      length = slope / unit / jnp.sum(along * (image / size))
      residual = residual - length * (image / size)
      near = inverse(residual) / inverse_unit
      next_slope = jnp.sum(residual * near)
      next_direction = near + (next_slope / slope) * direction
      return value + length / size * along, residual, next_direction, next_slope, count + 1

    near = inverse(b)
    inverse_unit = power_of_two(near)
    near = near / inverse_unit
    none = jnp.sum(jnp.zeros_like(b, jnp.int32), dtype=jnp.int32)  # on b's mesh, unlike a Python number
    start = jnp.zeros_like(b), b, near, jnp.sum(b * near), none
    value, *_, count = jax.lax.while_loop(going, step, start)
    return scale * value, count

  solution = jax.lax.custom_linear_solve(matvec, rhs, iterate, symmetric=True, has_aux=True)
  value, iterations = solution
  found, right = jax.lax.stop_gradient((value, rhs))
  unit = power_of_two(right)
  norm = jnp.linalg.norm(right / unit)
  error = jax.lax.stop_gradient(matvec(found / unit)) - right / unit
  return Solution(value, jnp.linalg.norm(error) / jnp.where(norm > 0, norm, 1), iterations)


def top_eigenpairs(matvec: Matvec, size: int, k: int, dtype: jnp.dtype) -> Eigenpairs:
  """Returns the largest k eigenvalues and their vectors.

  Up to `DENSE_SIZE` by a dense eigendecomposition, beyond it by locally optimal block preconditioned
  conjugate gradients, whose residual is to be looked at where the spectrum has no gap. These find up to
  a fifth of all eigenpairs; more take the dense way up to `MAX_DENSE_SIZE`.

  Args:
    matvec: product with a symmetric positive definite matrix.
    size: n.
    k: number of eigenpairs.
    dtype: of the vectors.

  Raises:
    TypeError, ValueError: unless k is whole, 1 <= k <= n, and 5 k < n beyond the largest dense size.
  """
  if isinstance(k, bool) or not isinstance(k, numbers.Integral):
    raise TypeError(f'k must be a whole number; got {k!r}.')
  if not 1 <= k <= size:
    raise ValueError(f'k must be from 1 to the number of pixels, {size}; got {k}.')
  start = jax.random.normal(jax.random.key(0), (size, k), dtype)
  image = matvec(start[:, 0])
  unit = power_of_two(image)
  _, spoil = decompositions.where_finite(image)

  def scaled(v: Array) -> Array:
    # If a product is not finite, iterations use the identity, and the result is NaN.
    return jnp.where(jnp.isnan(spoil), v, matvec(v) / unit)

  if size <= DENSE_SIZE or (5 * k >= size and size <= MAX_DENSE_SIZE):
    dense = jax.vmap(scaled)(jnp.eye(size, dtype=dtype))
    values, columns = decompositions.eigh((dense + dense.T) / 2)
    values, vectors = values[::-1][:k], columns.T[::-1][:k]
  elif 5 * k >= size:
    raise ValueError(f'k must be below a fifth of the number of pixels, {size}; got {k}.')
  else:
    from jax.experimental.sparse import (
      linalg as sparse_linalg,  # it takes as long to import as half of jax
    )

    product = jax.vmap(scaled, in_axes=1, out_axes=1)
    values, columns, _ = sparse_linalg.lobpcg_standard(product, start, m=200)
    vectors = columns.T
  values, vectors = values + spoil, vectors + spoil
  error = jax.lax.stop_gradient(jax.vmap(scaled)(vectors) - values[:, None] * vectors)
  return Eigenpairs(unit * values, vectors, jnp.linalg.norm(error, axis=1) / values)


def _check_vector(rhs: Array) -> None:
  if jnp.ndim(rhs) != 1 or not jnp.issubdtype(jnp.result_type(rhs), jnp.floating):
    raise ValueError(
      f'rhs must be one vector [n] of floats; got {jnp.result_type(rhs)} of shape {jnp.shape(rhs)}. '
      'Map over further right-hand sides with jax.vmap.'
    )
