"""Probabilistic PCA: the low-rank plus isotropic Gaussian of the largest likelihood, in closed form.

With l_1 >= l_2 >= ... the eigenvalues of the images' covariance, u_j its eigenvectors and

  cov = P P^T + s2 I,   P = U_R (L_R - s2 I)_+^1/2,

the likelihood is largest at s2 = the mean of the D - R eigenvalues that are left out; with s2 given, P
is the best factor. It is a reference for fits of this family by gradients.

Images may be too many, or too large, for a covariance or a matrix of inner products: the eigenvectors
come from subspace iteration (`linalg.subspace`), and each round is one pass through the images, a few
at a time.

Letters: N images; D = H W C; R rank.

Reference: Tipping and Bishop, "Probabilistic Principal Component Analysis", 1999, equations 7 and 8.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, low_rank
from structured_obs.linalg import subspace

ENTRIES = 2**24  # numbers of a chunk of images: 128 MiB of float64

Convert = Callable[[np.ndarray], np.ndarray]  # images as stored -> numbers that are analysed


class Moments(NamedTuple):
  """Mean and leading principal components of images, float64. Variances are sums over N, not N - 1."""

  mean: np.ndarray  # [H, W, C]
  variances: np.ndarray  # [k], largest first
  directions: np.ndarray  # [k, H, W, C], orthonormal
  total: float  # sum of all D variances

  @property
  def size(self) -> int:
    """D."""
    return self.mean.size


def moments(images: np.ndarray, k: int, convert: Convert | None = None) -> Moments:
  """Returns the mean and k leading principal components of images.

  Memory: a few times D (k + 20) numbers and one chunk of images. The iteration ends when the variances
  of the k components no longer change by more than a part in 1e7, or after 100 passes.

  Args:
    images: [N, H, W, C], N at least 2; may be memory-mapped.
    k: at least 1, at most D.
    convert: of a few images to the floats that are meant; None takes them as they are.

  Raises:
    TypeError, ValueError: k or the images' shape is invalid, or a value of them is not finite.
  """
  _check(images, k)
  convert = convert or (lambda batch: batch)
  shape = images.shape[1:]
  mean, total = np.zeros(math.prod(shape)), 0.0
  for chunk in _chunks(images, convert):
    mean += chunk.sum(axis=0) / len(images)
  for chunk in _chunks(images, convert):
    total += float(np.sum((chunk - mean) ** 2)) / len(images)
  if not math.isfinite(total):
    raise ValueError('images must be finite numbers whose squares float64 holds; at least one is not.')

  def product(basis: np.ndarray) -> np.ndarray:
    found = np.zeros_like(basis)
    for chunk in _chunks(images, convert):
      centred = chunk - mean
      found += centred.T @ (centred @ basis)
    return found / len(images)

  variances, vectors = subspace.leading(product, mean.size, k)
  directions = np.ascontiguousarray(vectors.T).reshape(k, *shape)
  return Moments(mean.reshape(shape), np.maximum(variances, 0), directions, total)


def with_noise(images: Moments, variance: float) -> Moments:
  """Returns the moments of the same images with independent noise of this variance added to every pixel.

  That of dequantisation is bin^2 / 12: what is fitted is then what a training with it sees in the mean.
  """
  if not 0 <= variance < math.inf:
    raise ValueError(f'The variance of added noise must be at least 0 and finite; got {variance}.')
  return images._replace(
    variances=images.variances + variance, total=images.total + variance * images.size
  )


def optimum(
  images: Moments,
  rank: int,
  noise_variance: float | None = None,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> low_rank.LowRank:
  """Returns the parameters of the largest likelihood, `cov_diag` one number.

  Args:
    images: with at least `rank` components.
    rank: R, from 0 to below D.
    noise_variance: s2, where it is given; None finds the best.
    dtype: of the parameters.

  Raises:
    ValueError: the rank is out of range, or the best noise variance is 0, where images fill R dimensions
      only: then there is no largest likelihood.
  """
  known = min(len(images.variances), images.size - 1)
  base.check_count('rank', rank, 0, known, 'the number of known components, and below that of pixels')
  kept = images.variances[:rank]
  noise = noise_variance
  if noise is None:
    noise = (images.total - float(kept.sum())) / (images.size - rank)
  if not 1e-12 * images.total < noise * images.size < math.inf:
    raise ValueError(
      f'The noise variance must be positive and finite, but is {noise:.3g}: with it the likelihood has '
      'no maximum. Give a noise_variance, add noise to the images, or take a smaller rank.'
    )
  scale = np.sqrt(np.maximum(kept - noise, 0))
  factor = np.moveaxis(images.directions[:rank] * scale[:, None, None, None], 0, -1)
  return low_rank.LowRank(*(jnp.asarray(a, dtype) for a in (images.mean, factor, noise)))


def mean_log_prob(images: Moments, params: low_rank.LowRank) -> float:
  """Returns the mean log density of images under their `optimum`, from the eigenvalues alone.

  Nats.

  Args:
    images: as the optimum was made of.
    params: that optimum.
  """
  rank, noise = params.cov_factor.shape[-1], float(params.cov_diag)
  kept = images.variances[:rank]
  model = np.maximum(kept, noise)
  rest = images.total - float(kept.sum())
  log_det = float(np.log(model).sum()) + (images.size - rank) * math.log(noise)
  distance = float((kept / model).sum()) + rest / noise
  return -0.5 * (images.size * math.log(2 * math.pi) + log_det + distance)


def _chunks(images: np.ndarray, convert: Convert) -> Iterator[np.ndarray]:
  """Yields a few images at a time as float64 [n, D]."""
  step = max(1, ENTRIES // math.prod(images.shape[1:]))
  for first in range(0, len(images), step):
    chunk = convert(np.asarray(images[first : first + step]))
    yield np.asarray(chunk, np.float64).reshape(len(chunk), -1)


def _check(images: np.ndarray, k: int) -> None:
  if images.ndim != 4 or len(images) < 2:
    raise ValueError(
      'images must be at least two, in one array of shape (N, height, width, channels); got the '
      f'shape {images.shape}.'
    )
  base.check_count('k', k, 1, math.prod(images.shape[1:]), 'the number of pixels')
