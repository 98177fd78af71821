"""The linear filter of white noise that is best for a set of images, a baseline of denoising.

With m and C the mean and covariance of the images, the estimate of x from y = x + noise of variance s^2
that has the smallest mean squared error among all linear ones is

  m + C (C + s^2 I)^-1 (y - m)

(Wiener filter), the posterior mean of one Gaussian for all images. It takes a dense D x D matrix.

Letters: N images to denoise; M images; H W C image height, width, channels; D = H W C.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import linalg

LARGEST = 8192  # D: a dense matrix of float64 has 512 MiB
ENTRIES = 2**24  # numbers of a chunk of images: 128 MiB of float64


class Moments(NamedTuple):
  """Mean and covariance of a set of images, float64."""

  mean: np.ndarray  # [D]
  covariance: np.ndarray  # [D, D]

  @property
  def parameters(self) -> int:
    """Numbers that the images determine: a mean and a symmetric matrix."""
    return self.mean.size * (self.mean.size + 3) // 2


def moments(images: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> Moments:
  """Returns the mean and covariance of images.

  Args:
    images: [M, H, W, C], at least 2; may be memory-mapped.
    convert: of a few images to the floats that are meant.

  Raises:
    ValueError: there are too few images, or they are larger than `LARGEST`.
  """
  size = math.prod(images.shape[1:])
  if len(images) < 2 or size > LARGEST:
    raise ValueError(
      f'A linear filter needs at least 2 images of at most {LARGEST} values; got {len(images)} of '
      f'{size}.'
    )
  step = max(1, ENTRIES // size)

  def chunk(first: int) -> np.ndarray:
    found = np.asarray(convert(np.asarray(images[first : first + step])), np.float64)
    return found.reshape(len(found), -1)

  starts, mean, covariance = range(0, len(images), step), np.zeros(size), np.zeros((size, size))
  for first in starts:
    mean += chunk(first).sum(axis=0) / len(images)
  for first in starts:
    centred = chunk(first) - mean
    covariance += centred.T @ centred / len(images)
  return Moments(mean, covariance)


def denoise(found: Moments, noisy: np.ndarray, scale: float) -> np.ndarray:
  """Returns the filtered images [N, H, W, C], float64.

  Args:
    found: of clean images.
    noisy: [N, H, W, C].
    scale: standard deviation of the noise, positive.
  """
  residual = np.asarray(noisy, np.float64).reshape(len(noisy), -1) - found.mean
  system = found.covariance + scale**2 * np.eye(found.mean.size)
  # C (C + s^2 I)^-1 = I - s^2 (C + s^2 I)^-1
  removed = scale**2 * linalg.solve(system, residual.T, assume_a='pos').T
  return (found.mean + residual - removed).reshape(noisy.shape)
