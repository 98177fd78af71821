"""Leading eigenpairs of a covariance known by its products with a few vectors at once, in NumPy.

Each product may be one pass through images that are too many, or too large, for a matrix.

Letters: D size; k eigenpairs.

Reference: Halko, Martinsson and Tropp, "Finding structure with randomness", 2011.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

OVERSAMPLING = 20  # directions beyond those asked for, which speed the iteration up
MAX_ROUNDS = 100


def leading(product: Callable[[Matrix], Matrix], size: int, k: int) -> tuple[Matrix, Matrix]:
  """Returns the largest k eigenvalues [k] and eigenvectors [D, k] of a covariance, by products.

  The iteration ends when the eigenvalues no longer change by more than a part in 1e7, or after 100
  products.

  Args:
    product: of the covariance with vectors [D, K].
    size: D.
    k: at most D.
  """
  width = min(k + OVERSAMPLING, size)
  basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, width)))[0]
  last, count = np.zeros(k), 0
  while True:
    image, count = product(basis), count + 1
    # Rayleigh and Ritz: the best eigenpairs inside the span of the basis.
    inner = basis.T @ image
    values, rotation = np.linalg.eigh((inner + inner.T) / 2)
    values, rotation = values[::-1], rotation[:, ::-1]
    settled = np.sum(np.abs(values[:k] - last)) <= 1e-7 * np.sum(values[:k])
    if settled or width == size or count == MAX_ROUNDS:
      return values[:k], basis @ rotation[:, :k]
    last = values[:k]
    basis = np.linalg.qr(image @ rotation)[0]
