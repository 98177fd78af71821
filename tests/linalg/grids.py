"""Sparse lower-triangular factors on small grids, and their dense matrices, written entry by entry."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.linalg import sparse_triangular
from structured_obs.linalg.sparse_triangular import Factor, Offsets


class Grid(NamedTuple):
  """One factor; entries that lead out of the image are not 0 and must not be read."""

  factor: Factor
  offsets: Offsets
  dense: NDArray[np.float64]  # [H W, H W]


# Signals, images smaller than the filter, no links, offsets that are no square's.
CASES: tuple[tuple[tuple[int, int], Offsets], ...] = (
  ((5, 7), sparse_triangular.offsets(3)),
  ((6, 4), sparse_triangular.offsets(5)),
  ((1, 9), sparse_triangular.offsets(5)),
  ((9, 1), sparse_triangular.offsets(3)),
  ((3, 3), sparse_triangular.offsets(7)),
  ((4, 5), ()),
  ((4, 6), ((0, 1), (0, 3), (1, -4), (2, 2))),
  ((5, 5), ((1, -1),)),
)


def make(shape: tuple[int, int], offsets: Offsets, seed: int = 0) -> Grid:
  rng = np.random.default_rng(seed)
  diag = np.exp(0.3 * rng.normal(size=shape))
  weights = 0.3 * rng.normal(size=(*shape, len(offsets)))
  dense = np.diag(diag.ravel())
  for row, column in np.ndindex(shape):
    for k, (down, right) in enumerate(offsets):
      if row + down < shape[0] and 0 <= column + right < shape[1]:
        target = (row + down) * shape[1] + column + right
        dense[target, row * shape[1] + column] = weights[row, column, k]
  dtype = jnp.zeros(()).dtype
  return Grid(Factor(jnp.asarray(diag, dtype), jnp.asarray(weights, dtype)), offsets, dense)
