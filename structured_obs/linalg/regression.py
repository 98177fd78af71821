"""Regressions of every variable on a few others, all at once, from a covariance matrix.

Letters: D variables; K others of each.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def on_neighbours(covariance: Array, neighbours: Array, present: Array) -> tuple[Array, Array]:
  """Returns the coefficients and residual variance of each variable given some others.

  D systems of size K are eliminated side by side. Without exchanges of rows, which a positive definite
  matrix never needs; one that is not gives a variance that is not positive, or NaN.

  Args:
    covariance: [D, D].
    neighbours: [D, K] int, indices; any where there is none.
    present: [D, K] bool, static or traced; the coefficient of an absent one is 0.

  Returns:
    coefficients [D, K] and variances [D].

  Raises:
    ValueError: the shapes do not match.
  """
  size, count = neighbours.shape
  if covariance.shape != (size, size) or present.shape != neighbours.shape:
    raise ValueError(
      'covariance must be [D, D], and neighbours and present [D, K]; '
      f'got {covariance.shape}, {neighbours.shape} and {present.shape}.'
    )
  own = jnp.arange(size, dtype=neighbours.dtype)[:, None]
  others = jnp.where(present, neighbours, own)
  both = present[:, :, None] & present[:, None, :]
  identity = jnp.eye(count, dtype=covariance.dtype)[None]
  block = jnp.where(both, covariance[others[:, :, None], others[:, None, :]], identity)
  right = jnp.where(present, covariance[own, others], 0)

  def eliminate(pivot: Array, system: Array) -> Array:
    row = jax.lax.dynamic_index_in_dim(system, pivot, axis=1)
    row = row / jax.lax.dynamic_index_in_dim(row, pivot, axis=2)
    reduced = system - jax.lax.dynamic_index_in_dim(system, pivot, axis=2) * row
    return jax.lax.dynamic_update_slice_in_dim(reduced, row, pivot, axis=1)

  system = jnp.concatenate([block, right[..., None]], axis=-1)
  if count:
    system = jax.lax.fori_loop(0, count, eliminate, system)
  coefficients = system[..., -1]
  return coefficients, jnp.diag(covariance) - jnp.sum(coefficients * right, axis=-1)
