"""Decompositions of one matrix by iteration, that end whatever is in it.

LAPACK's singular value decomposition may go on for ever where an entry is infinite, and JAX cannot be
interrupted meanwhile. Here the results are NaN unless every entry is finite.
"""

from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding

Array = jax.Array


@sharding.on_own_mesh
def svd(matrix: Array) -> tuple[Array, Array, Array]:
  """Thin singular value decomposition of [n, m]: U [n, k], values [k] and V^T [k, m]; k = min(n, m)."""
  safe, spoil = where_finite(matrix)
  u, values, vt = jnp.linalg.svd(safe, full_matrices=False)
  return u + spoil, values + spoil, vt + spoil


@sharding.on_own_mesh
def eigh(matrix: Array) -> tuple[Array, Array]:
  """Eigenvalues [n], smallest first, and eigenvectors [n, n], in columns, of a symmetric matrix."""
  safe, spoil = where_finite(matrix)
  values, vectors = jnp.linalg.eigh(safe)
  return values + spoil, vectors + spoil


def where_finite(matrix: Array) -> tuple[Any, Array]:
  """The matrix and 0 if every entry is finite, else zeros and NaN."""
  finite = jnp.all(jnp.isfinite(matrix))
  return jnp.where(finite, matrix, 0), jnp.where(finite, 0, jnp.nan).astype(matrix.dtype)
