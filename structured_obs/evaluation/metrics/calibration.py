"""Checks whether a model's covariance is as large as its errors, by squared Mahalanobis distances.

Under a Gaussian of D dimensions the distance q of an image from the mean is chi-square with D degrees
of freedom: q / D is 1 on average, with a standard deviation of sqrt(2 / D). Under a Student t it is
that of the scale matrix, and q / D is F-distributed with D and nu degrees of freedom. The mean alone
says little, because every family that can scale its covariance learns to match it. The spread and the
quantiles show whether the correlations are right, and whether images differ as the model says.

A model has one nu, or one for each image; `inverse_dof` is 1 / nu, and 0 for a Gaussian.

Letters: N images; D = H W C; nu degrees of freedom.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

Inverse = float | np.ndarray  # 1 / nu, [] or [N]

HALVINGS = 100


Sizes = int | np.ndarray  # D; or [N], where images differ in the number of pixels that count


class Calibration(NamedTuple):
  """Calibration of a model on a split. A perfect model has 1 for all but the distance, which is 0."""

  mean: float  # mean(q) over its expectation: above 1 for a covariance that is too small
  spread: float  # sd(q) over its expectation: above 1 if errors vary more than the model predicts
  temperature: float  # the factor of standard deviations with the largest likelihood
  distance: float  # Kolmogorov-Smirnov distance of q from its distribution
  pit_spread: float  # sd of the probability of a smaller q, over that of uniform numbers, 1 / sqrt(12)


def calibration(mahalanobis: np.ndarray, num_dims: Sizes, inverse_dof: Inverse = 0.0) -> Calibration:
  """Returns the calibration from squared Mahalanobis distances per dimension, q / D, of a split.

  The mean and the spread are NaN where a Student t has no finite one: for nu <= 2 and nu <= 4.

  Args:
    mahalanobis: [N], q / D. A value that is not finite makes every result NaN.
    num_dims: D; or [N], where images differ in the number of pixels that count.
    inverse_dof: 1 / nu.

  Raises:
    ValueError: there is no image or no dimension.
  """
  _check(mahalanobis, num_dims)
  if not (np.isfinite(mahalanobis).all() and np.isfinite(inverse_dof).all()):
    return Calibration(*[math.nan] * 5)
  inverse = np.asarray(inverse_dof, np.float64)
  with np.errstate(divide='ignore', invalid='ignore'):
    expected = np.where(inverse < 0.5, 1 / (1 - 2 * inverse), math.nan)
    variance = 2 * (1 + inverse * (num_dims - 2)) / (num_dims * (1 - 4 * inverse)) * expected**2
    deviations = np.sqrt(np.where(inverse < 0.25, variance, math.nan))
  found = np.asarray(mahalanobis, np.float64)
  one = found.size == 1
  probability = below(found, num_dims, inverse)
  return Calibration(
    float(np.mean(found / expected)),
    math.nan if one else float(np.std(found / deviations, ddof=1)),
    best_temperature(found, num_dims, inverse),
    _uniform_distance(probability),
    math.nan if one else float(np.std(probability, ddof=1)) * math.sqrt(12),
  )


def best_temperature(mahalanobis: np.ndarray, num_dims: Sizes, inverse_dof: Inverse = 0.0) -> float:
  """Returns the factor of standard deviations with the largest likelihood of distances q / D [N].

  For a Gaussian it is sqrt(mean(q) / D). For a Student t it is the zero of a monotone function.

  Args:
    mahalanobis: [N], q / D, finite.
    num_dims: D, or [N].
    inverse_dof: 1 / nu.
  """
  found, inverse = np.asarray(mahalanobis, np.float64), np.asarray(inverse_dof, np.float64)
  sizes = np.broadcast_to(num_dims, found.shape)
  if not inverse.any() or not found.all():
    return math.sqrt(float(np.average(found, weights=sizes)))
  heavy = inverse * num_dims

  def surplus(log_square: float) -> float:
    ratio = found * math.exp(-log_square)
    return float(np.average((1 + heavy) * ratio / (1 + heavy * ratio), weights=sizes)) - 1

  low, high = math.log(float(np.min(found))), math.log(float(np.max(found)))
  for _ in range(HALVINGS):
    middle = (low + high) / 2
    low, high = (middle, high) if surplus(middle) > 0 else (low, middle)
  return math.exp((low + high) / 4)


def below(mahalanobis: np.ndarray, num_dims: Sizes, inverse_dof: Inverse = 0.0) -> np.ndarray:
  """Returns the probability, under the model, of a distance below each q / D. [N].

  Args:
    mahalanobis: [N], q / D.
    num_dims: D, or [N].
    inverse_dof: 1 / nu.
  """
  return _tails(mahalanobis, num_dims, inverse_dof)[0]


def quantiles(
  mahalanobis: np.ndarray, num_dims: Sizes, inverse_dof: Inverse = 0.0
) -> tuple[np.ndarray, np.ndarray]:
  """Returns quantiles of q / D for a quantile-quantile plot: expected and observed. [N] each.

  The expected ones are those of the distribution at (i + 1/2) / N. Where images differ in D or nu, both
  are those of the medians, to which distances are moved by their probability.

  Args:
    mahalanobis: [N], q / D. A value that is not finite makes the observed quantiles NaN.
    num_dims: D, or [N].
    inverse_dof: 1 / nu.

  Raises:
    ValueError: there is no image or no dimension.
  """
  _check(mahalanobis, num_dims)
  count, middle = mahalanobis.size, float(np.median(inverse_dof))
  share = (np.arange(count) + 0.5) / count
  size = float(np.median(num_dims))
  expected = _inverse(share, 1 - share, size, middle)
  found = np.asarray(mahalanobis, np.float64)
  if np.ptp(inverse_dof) > 0 or np.ptp(num_dims) > 0:
    found = _inverse(*_tails(found, num_dims, inverse_dof), size, middle)
  return expected, np.sort(found) if np.isfinite(found).all() else np.full(count, math.nan)


def law_distance(mahalanobis: np.ndarray, num_dims: Sizes, inverse_dof: Inverse = 0.0) -> float:
  """Returns the Kolmogorov-Smirnov distance, in [0, 1], of q from its distribution under the model.

  For a perfect model and N images the distance is below 1.36 / sqrt(N) in 19 of 20 cases.

  Args:
    mahalanobis: [N], q / D. A value that is not finite makes the result NaN.
    num_dims: D, or [N].
    inverse_dof: 1 / nu.

  Raises:
    ValueError: there is no image or no dimension.
  """
  return calibration(mahalanobis, num_dims, inverse_dof).distance


def _uniform_distance(probability: np.ndarray) -> float:
  count = probability.size
  ordered, steps = np.sort(probability), np.arange(count + 1) / count
  return float(np.max(np.maximum(np.abs(ordered - steps[1:]), np.abs(ordered - steps[:-1]))))


def _tails(
  mahalanobis: np.ndarray, num_dims: Sizes, inverse_dof: Inverse
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the probabilities of a smaller and of a larger distance, accurate where they are small."""
  found, inverse = np.broadcast_arrays(np.asarray(mahalanobis, np.float64), inverse_dof)
  half, normal = num_dims / 2, inverse == 0
  other = 0.5 / np.where(normal, 1, inverse)
  with np.errstate(invalid='ignore'):  # an infinite distance is NaN
    share = found / (found + 2 * other / num_dims)  # q / (q + nu)
    rest = 1 / (1 + found * num_dims / (2 * other))
  return (
    np.where(normal, special.gammainc(half, half * found), special.betainc(half, other, share)),
    np.where(normal, special.gammaincc(half, half * found), special.betainc(other, half, rest)),
  )


def _inverse(lower: np.ndarray, upper: np.ndarray, num_dims: float, inverse_dof: float) -> np.ndarray:
  """Returns the q / D with these probabilities of a smaller and of a larger one."""
  half, small = num_dims / 2, lower < 0.5
  if inverse_dof == 0:
    ends = special.gammaincinv(half, lower), special.gammainccinv(half, upper)
    return np.where(small, *ends) / half
  other = 0.5 / inverse_dof
  share, rest = special.betaincinv(half, other, lower), special.betaincinv(other, half, upper)
  with np.errstate(divide='ignore'):
    return np.where(small, share / (1 - share), (1 - rest) / rest) * 2 * other / num_dims


def _check(mahalanobis: np.ndarray, num_dims: int | np.ndarray) -> None:
  if mahalanobis.ndim != 1 or not mahalanobis.size or np.min(num_dims) < 1:
    raise ValueError(
      'Calibration needs the distances of at least one image, [N], and num_dims >= 1; got an array '
      f'of shape {mahalanobis.shape} and num_dims={num_dims}.'
    )
