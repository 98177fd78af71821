"""Random sparse factors on image grids, and the dense float64 matrices that they stand for."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.linalg.sparse_triangular import Factor, Offsets


def default_dtype() -> Any:
  return jnp.zeros(()).dtype


def tolerance(float64: float, float32: float) -> float:
  """The bound that belongs to the run's precision."""
  return float64 if default_dtype() == jnp.float64 else float32


def random_factor(height: int, width: int, offsets: Offsets, strength: float = 0.9) -> Factor:
  """A factor whose pixels follow the later ones with the given sum of absolute coefficients."""
  rng = np.random.default_rng(height * width)
  diag = np.exp(0.3 * rng.normal(size=(height, width)))
  weights = rng.normal(size=(height, width, len(offsets))) - 1
  total = np.sum(np.abs(weights), axis=-1, keepdims=True) + 1e-9
  weights = strength * diag[..., None] * weights / total
  return Factor(*(jnp.asarray(x, default_dtype()) for x in (diag, weights)))


def dense_factor(factor: Factor, offsets: Offsets) -> NDArray[np.float64]:
  """L entry by entry. [n, n], float64."""
  diag, weights = (np.asarray(x, np.float64) for x in factor)
  height, width = diag.shape
  matrix = np.diag(diag.ravel())
  for r, c, k in np.ndindex(weights.shape):
    i, j = r + offsets[k][0], c + offsets[k][1]
    if i < height and 0 <= j < width:
      matrix[i * width + j, r * width + c] = weights[r, c, k]
  return matrix
