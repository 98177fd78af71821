"""Random sparse factors of image grids, and the same as bands for LAPACK."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.linalg import sparse_triangular
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array


def random_factors(size: int, pattern: Offsets, batch: int, strength: float = 0.9) -> Factor:
  """Returns factors of images whose pixels depend on later ones, with coefficients of sum `strength`.

  Args:
    size: H = W.
    pattern: K offsets.
    batch: B.
    strength: below 1; the closer, the farther the correlations reach.

  Returns:
    diag [B, H, W] and weights [B, H, W, K], float32.
  """
  rng = np.random.default_rng(0)
  diag = np.exp(0.3 * rng.normal(size=(batch, size, size)))
  weights = -np.abs(rng.normal(size=(batch, size, size, len(pattern))))
  total = np.sum(np.abs(weights), axis=-1, keepdims=True) + 1e-9
  weights = jnp.asarray(strength * diag[..., None] * weights / total, jnp.float32)
  mask = jax.vmap(functools.partial(sparse_triangular.mask, offsets=pattern))
  return Factor(jnp.asarray(diag, jnp.float32), mask(weights))


def normal(*shape: int) -> Array:
  """Returns white noise, float32."""
  return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def bands(factors: Factor, pattern: Offsets) -> Any:
  """Returns LAPACK's lower `ab` of each factor. [B, w + 1, n], float32, NumPy."""
  diag, weights = (np.asarray(x) for x in factors)
  batch, height, width = diag.shape
  shifts = [dr * width + dc for dr, dc in pattern]
  found = np.zeros((batch, max(shifts, default=0) + 1, height * width), np.float32)
  found[:, 0] = diag.reshape(batch, -1)
  for k, shift in enumerate(shifts):
    found[:, shift] += weights[..., k].reshape(batch, -1)
  return found


def lower(band: Any) -> Any:
  """Returns SciPy's sparse matrix of one lower band [w + 1, n]. CSC, [n, n]."""
  from scipy import sparse

  size = band.shape[1]
  diagonals = [d for d in range(min(len(band), size)) if np.any(band[d])]
  # dia_matrix keeps column j of a lower diagonal at j, as a band does.
  shape = (size, size)
  return sparse.dia_matrix((band[diagonals], [-d for d in diagonals]), shape=shape).tocsc()
