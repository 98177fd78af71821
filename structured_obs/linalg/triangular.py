"""Solves with dense triangular matrices that are safe and differentiable under vmap.

A CPU solves one matrix after the other, which is safe and as fast as a batch (see
`linalg.image_by_image`). Derivatives of any order are solves again (`lax.custom_linear_solve`).
"""

import functools

import jax
import jax.numpy as jnp

from structured_obs.linalg import products, sharding
from structured_obs.linalg.image_by_image import image_by_image

Array = jax.Array


def solve(lower: Array, rhs: Array) -> Array:
  """Returns L^-1 b [n, S] for b [n, S] and the lower triangle L of a matrix [n, n]."""
  return _solve(lower, rhs, transposed=False)


def solve_transposed(lower: Array, rhs: Array) -> Array:
  """Returns L^-T b [n, S] for b [n, S] and the lower triangle L of a matrix [n, n]."""
  return _solve(lower, rhs, transposed=True)


@sharding.on_own_mesh
def _solve(lower: Array, rhs: Array, transposed: bool) -> Array:
  matrix = jnp.tril(lower)
  matrix = matrix.T if transposed else matrix

  def multiply(v: Array) -> Array:
    return products.matmul(matrix, v)

  def forward(_, b: Array) -> Array:
    return _one_by_one[transposed](lower, b)

  def backward(_, b: Array) -> Array:
    return _one_by_one[not transposed](lower, b)

  return jax.lax.custom_linear_solve(multiply, rhs, forward, backward)


_one_by_one = {
  transposed: image_by_image(
    functools.partial(
      jax.lax.linalg.triangular_solve, left_side=True, lower=True, transpose_a=transposed
    )
  )
  for transposed in (False, True)
}
