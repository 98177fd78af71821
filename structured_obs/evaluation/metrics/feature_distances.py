"""Distances between two sets of images by their features: Frechet, KID, precision and recall, coverage.

All are sample estimates in float64 and depend on the number of images: the Frechet distance is biased
upwards by about 1 / N, the kernel distance (KID) is unbiased. Reports therefore show both, always with
N. If features are not finite in float32, every distance is NaN.

Letters: N M images of the two sets; F features; k neighbours.

References: Heusel et al., "GANs trained by a two time-scale update rule", 2017; Binkowski et al.,
"Demystifying MMD GANs", 2018; Kynkaanniemi et al., "Improved precision and recall metric", 2019; Naeem
et al., "Reliable fidelity and diversity metrics", 2020.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float64]  # [N, F]

BLOCK = 1024  # rows of a matrix of distances in memory at once
NEIGHBOURS = 5  # k of `fidelity`
MOST_COMPARED = 2000  # images of a set in `kernel_difference`


class Kernel(NamedTuple):
  """An estimate by subsets, with its spread."""

  value: float  # mean over the subsets
  deviation: float  # standard deviation over the subsets; NaN for one subset


class Difference(NamedTuple):
  """How much farther one set is than another, in units of the kernel distance."""

  value: float
  standard_error: float


class Fidelity(NamedTuple):
  """How two sets cover each other, by balls around each image that reach its k-th neighbour."""

  precision: float  # fraction of new images inside a real image's ball
  recall: float  # fraction of real images inside a new image's ball
  density: float  # mean number of real balls that contain a new image, over k; may exceed 1
  coverage: float  # fraction of real images whose ball contains a new one


def frechet(real: Features, new: Features) -> float:
  """Returns the Frechet distance |m - m'|^2 + tr(S + S' - 2 (S S')^1/2) of Gaussians fitted to features.

  The trace of the root is that of (R' S R)^1/2 with S' = R R', whose eigenvalues are real: they are the
  squared singular values of the centred features' product. No covariance is formed.

  Args:
    real: [N, F].
    new: [M, F].

  Raises:
    ValueError: either set has fewer than two images, or they differ in features.
  """
  real, new = check(real, new, 2)
  if not _usable(real, new):
    return math.nan
  mean = float(np.sum(np.square(real.mean(0) - new.mean(0))))
  first, second = (_centred(features) for features in (real, new))
  spread = float(np.sum(np.square(first)) + np.sum(np.square(second)))
  # tr (S S')^1/2 is the nuclear norm of first second^T: its shape is the smaller of samples, features.
  root = float(np.sum(np.linalg.svd(_reduced(first) @ _reduced(second).T, compute_uv=False)))
  return mean + spread - 2 * root


def _centred(features: Features) -> Features:
  return (features - features.mean(0)) / math.sqrt(len(features) - 1)


def _reduced(centred: Features) -> Features:
  """Returns a factor R with the same R^T R as the rows, and at most as many rows as features."""
  if len(centred) <= centred.shape[1]:
    return centred
  return np.asarray(np.linalg.qr(centred, mode='r'))


def kernel_distance(
  real: Features, new: Features, subsets: int = 100, size: int = 1000, seed: int = 0
) -> Kernel:
  """Returns the kernel inception distance: unbiased squared MMD of the cubic kernel (x.y / F + 1)^3.

  Args:
    real: [N, F].
    new: [M, F].
    subsets: number of random subsets to average; one of all images if either set is no larger than
      `size`.
    size: of a subset; at most the smaller set's.
    seed: of the subsets.

  Raises:
    ValueError: either set has fewer than two images, or they differ in features.
  """
  real, new = check(real, new, 2)
  if not _usable(real, new):
    return Kernel(math.nan, math.nan)
  size = min(size, len(real), len(new))
  if size == max(len(real), len(new)):
    return Kernel(_squared_mmd(real, new), math.nan)
  rng = np.random.default_rng(seed)
  found = [
    _squared_mmd(*(features[rng.choice(len(features), size, replace=False)] for features in (real, new)))
    for _ in range(subsets)
  ]
  return Kernel(float(np.mean(found)), float(np.std(found, ddof=1)) if subsets > 1 else math.nan)


def _similarity(a: Features, b: Features) -> Features:
  base = a @ b.T / a.shape[1] + 1
  return base * base * base  # many times faster than a power; finite by `_usable`


def _squared_mmd(first: Features, second: Features) -> float:
  def within(features: Features) -> float:
    matrix, count = _similarity(features, features), len(features)
    return float((matrix.sum() - np.trace(matrix)) / (count * (count - 1)))

  return within(first) + within(second) - 2 * float(_similarity(first, second).mean())


def kernel_difference(
  real: Features, first: Features, second: Features, most: int = MOST_COMPARED
) -> Difference:
  """Returns how much farther a first set is from the real one than a second set, by `kernel_distance`.

  The rows of the two sets belong to the same images, such as images with and without noise, so that most
  of what is due to chance is in both. The standard error is that of the leading term, a mean over images
  of either set.

  Args:
    real: [N, F].
    first: [M, F].
    second: [M, F].
    most: images of a set that are used; the first ones.

  Raises:
    ValueError: there are fewer than two images, or the sets differ in features or in M.
  """
  (real, first), (_, second) = check(real, first, 2), check(real, second, 2)
  if len(first) != len(second):
    raise ValueError(f'Paired sets must have equally many images; got {len(first)} and {len(second)}.')
  real, first, second = real[:most], first[:most], second[:most]
  if not _usable(real, first, second):
    return Difference(math.nan, math.nan)
  (value, own, others), (less, its_own, its_others) = (_influence(real, x) for x in (first, second))
  variances = [np.var(a - b, ddof=1) / len(a) for a, b in ((own, its_own), (others, its_others))]
  return Difference(value - less, float(np.sqrt(np.sum(variances))))


def _influence(real: Features, new: Features) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
  """Returns the terms of the squared MMD that depend on new images, and each image's part [M], [N]."""
  count = len(new)
  within, across = _similarity(new, new), _similarity(real, new)
  np.fill_diagonal(within, 0)
  rows = within.sum(1) / (count - 1)
  value = float(rows.mean() - 2 * across.mean())
  return value, 2 * (rows - across.mean(0)), -2 * across.mean(1)


def fidelity(real: Features, new: Features, k: int = NEIGHBOURS) -> Fidelity:
  """Returns precision, recall, density and coverage by k-nearest-neighbour balls.

  Args:
    real: [N, F].
    new: [M, F].
    k: neighbours.

  Raises:
    ValueError: either set has at most k images, or they differ in features.
  """
  real, new = check(real, new, k + 1)
  if not _usable(real, new):
    return Fidelity(*[math.nan] * len(Fidelity._fields))
  real_radius, new_radius = _radius(real, k), _radius(new, k)
  inside = np.zeros(len(new), np.int64)  # number of real balls that contain each new image
  recalled = np.zeros(len(real), bool)
  covered = np.zeros(len(real), bool)
  for first in range(0, len(real), BLOCK):
    rows = slice(first, first + BLOCK)
    squared = _squared_distances(real[rows], new)
    held = squared <= real_radius[rows, None]
    inside += held.sum(0)
    covered[rows] = held.any(1)
    recalled[rows] = (squared <= new_radius[None]).any(1)
  return Fidelity(
    precision=float((inside > 0).mean()),
    recall=float(recalled.mean()),
    density=float(inside.mean() / k),
    coverage=float(covered.mean()),
  )


def _radius(features: Features, k: int) -> NDArray[np.float64]:
  """Returns the squared distance from each image to its k-th neighbour in its own set. [N]."""
  found = [
    np.partition(_squared_distances(features[first : first + BLOCK], features), k, axis=1)[:, k]
    for first in range(0, len(features), BLOCK)
  ]
  return np.concatenate(found)


def _squared_distances(first: Features, second: Features) -> NDArray[np.float64]:
  """Returns squared distances [N, M], at least exactly 0."""
  squares = np.sum(np.square(first), 1)[:, None] + np.sum(np.square(second), 1)[None]
  return np.maximum(squares - 2 * first @ second.T, 0)


def _usable(*sets: Features) -> bool:
  """Returns whether all features are finite in float32, so that cubes of products are in float64."""
  return all(bool(np.all(np.abs(features) <= np.finfo(np.float32).max)) for features in sets)


def check(real: Features, new: Features, least: int) -> tuple[Features, Features]:
  """Returns both sets in float64.

  Args:
    real: [N, F].
    new: [M, F].
    least: smallest number of images.

  Raises:
    ValueError: unless both have at least `least` images and the same features.
  """
  real, new = np.asarray(real, np.float64), np.asarray(new, np.float64)
  if real.ndim != 2 or new.ndim != 2 or real.shape[1] != new.shape[1]:
    raise ValueError(
      'Features must be [images, features], with equally many features in both sets; got shapes '
      f'{real.shape} and {new.shape}.'
    )
  if min(len(real), len(new)) < least:
    raise ValueError(
      f'A distance of features needs at least {least} images in each set; got {len(real)} and '
      f'{len(new)}.'
    )
  return real, new
