"""Regressions of every variable on a few others, all at once, from a covariance matrix or from samples.

Letters: D variables; K others of each; N samples; P variables at once.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Array = jax.Array

ENTRIES = 2**24  # numbers of the samples that are gathered at once: 128 MiB
DEPENDENT = 1e-10  # share of its variance that a variable must have left to count as another one


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


def of_samples(
  samples: NDArray[np.float64], neighbours: NDArray[np.int64], present: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
  """Returns the least-squares coefficients and mean squared residual of each variable on some others.

  Nothing larger than the samples is formed. A variable that is constant, or that others before it in the
  same list determine, takes no part: its coefficient is 0.

  Args:
    samples: [N, D], centred.
    neighbours: [D, K], indices; any where there is none.
    present: [D, K]; the coefficient of an absent one is 0.

  Returns:
    coefficients [D, K] and mean squared residuals [D].
  """
  (count, size), links = samples.shape, neighbours.shape[1]
  columns = np.ascontiguousarray(samples.T)
  coefficients, left = np.zeros((size, links)), np.zeros(size)
  step = max(1, ENTRIES // (count * (links + 1) + links**2))
  for first in range(0, size, step):
    these = slice(first, first + step)
    others = np.where(present[these, :, None], columns[neighbours[these]], 0)  # [P, K, N]
    block = others @ np.swapaxes(others, 1, 2) / count
    right = np.einsum('pkn,pn->pk', others, columns[these]) / count
    coefficients[these] = _solve(block, right)
    predicted = np.einsum('pk,pkn->pn', coefficients[these], others)
    left[these] = np.mean(np.square(columns[these] - predicted), axis=1)
  return coefficients, left


def _solve(block: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
  """Returns solutions [P, K] of positive semidefinite systems [P, K, K], by Gauss and Jordan."""
  system = np.concatenate([block, right[..., None]], axis=-1)
  least = DEPENDENT * np.diagonal(block, axis1=1, axis2=2)
  for pivot in range(right.shape[1]):
    here = system[:, pivot, pivot]
    known = here > least[:, pivot]
    row = np.where(known[:, None], system[:, pivot] / np.where(known, here, 1)[:, None], 0)
    system = system - system[:, :, pivot, None] * row[:, None]
    system[:, pivot] = row
  return system[..., -1]
