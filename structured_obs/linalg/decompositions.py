"""Decompositions of one matrix that always end, whatever its entries are.

LAPACK's singular value decomposition may never end where an entry is infinite, and JAX does not respond
to interrupts meanwhile. Here the results are NaN unless every entry is finite.
"""

from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding

Array = jax.Array


@sharding.on_own_mesh
def svd(matrix: Array) -> tuple[Array, Array, Array]:
  """Returns the thin singular value decomposition of [n, m]: U [n, k], values [k] and V^T [k, m].

  Here k = min(n, m).
  """
  safe, spoil = where_finite(matrix)
  u, values, vt = jnp.linalg.svd(safe, full_matrices=False)
  return u + spoil, values + spoil, vt + spoil


@sharding.on_own_mesh
def eigh(matrix: Array) -> tuple[Array, Array]:
  """Returns the eigenvalues [n] of a symmetric matrix, ascending, and eigenvector columns [n, n]."""
  safe, spoil = where_finite(matrix)
  values, vectors = jnp.linalg.eigh(safe)
  return values + spoil, vectors + spoil


def where_finite(matrix: Array) -> tuple[Any, Array]:
  """Returns the matrix and 0 if every entry is finite, else zeros and NaN."""
  finite = jnp.all(jnp.isfinite(matrix))
  return jnp.where(finite, matrix, 0), jnp.where(finite, 0, jnp.nan).astype(matrix.dtype)
