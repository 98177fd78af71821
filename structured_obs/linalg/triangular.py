"""Solves with dense triangular matrices that are safe and differentiable under vmap.

The batched LAPACK calls of JAX's CPU backend wait for each other on the pool they run on: two
independent ones in one program can hang for ever. Here a CPU solves one matrix after the other, as
fast; derivatives of any order are solves again (`lax.custom_linear_solve`).
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array


def solve(lower: Array, rhs: Array) -> Array:
  """L^-1 b for a lower triangular L [n, n], whose upper part is not read, and b [n, S]. [n, S]."""
  return _solve(lower, rhs, transposed=False)


def solve_transposed(lower: Array, rhs: Array) -> Array:
  """L^-T b for a lower triangular L [n, n], whose upper part is not read, and b [n, S]. [n, S]."""
  return _solve(lower, rhs, transposed=True)


def _solve(lower: Array, rhs: Array, transposed: bool) -> Array:
  matrix = jnp.tril(lower)
  matrix = matrix.T if transposed else matrix

  def multiply(v: Array) -> Array:
    return jnp.matmul(matrix, v, precision=jax.lax.Precision.HIGHEST)

  def forward(_, b: Array) -> Array:
    return _one_by_one[transposed](lower, b)

  def backward(_, b: Array) -> Array:
    return _one_by_one[not transposed](lower, b)

  return jax.lax.custom_linear_solve(multiply, rhs, forward, backward)


def _make(transposed: bool):
  """`(lower, rhs) -> solution`, one system at a time on a CPU."""
  solve_one = functools.partial(
    jax.lax.linalg.triangular_solve, left_side=True, lower=True, transpose_a=transposed
  )

  @jax.custom_batching.custom_vmap
  def one(lower: Array, rhs: Array) -> Array:
    return solve_one(lower, rhs)

  @one.def_vmap
  def _many(axis_size, in_batched, lower, rhs):
    spread = [
      x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
      for x, batched in zip((lower, rhs), in_batched, strict=True)
    ]
    on_cpu = functools.partial(_map, one)
    return jax.lax.platform_dependent(*spread, cpu=on_cpu, default=jax.vmap(solve_one)), True

  return one


def _map(function, lower: Array, rhs: Array) -> Array:
  return jax.lax.map(lambda pair: function(*pair), (lower, rhs))


_one_by_one = {transposed: _make(transposed) for transposed in (False, True)}
