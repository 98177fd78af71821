"""Synthetic images whose true mean and covariance are known: splines and ellipses.

An example is a pure function of a seed and its number: a mean is drawn, the covariance follows from it,
and the image is one sample of N(mean, covariance). Models train on images and means; the covariances
are for evaluation.

The generators of the paper were never published. These follow its description and sizes. The constants
that it leaves open are chosen so that the rows of its Tables 1 and 2 that need no network, the truth and
the best independent pixels, nearly agree. In expectation over the 1,000 test examples, with all
constants in the log densities, as `launch.evaluate` reports them:

                                            splines               ellipses
                                         paper     here        paper      here
  -log p under the truth                 18.65    18.34         -286    -287.5
  -log p under the true variances        42.64    42.03         -149    -147.8
  KL(true variances || truth)            72.06    71.71          707     704
  Frobenius norm of their difference      3.81     3.74         1.80      2.36

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, section 5.1.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import order, splits
from structured_obs.data.sources import base

TRAIN, TEST = 35_000, 1_000  # examples of the source; a validation split is drawn from the first
SEED = 0  # of the examples as a source

_POINTS = 50  # of a spline
_KNOTS = 7
_SIDE = 16  # of an ellipse's image


class Example(NamedTuple):
  """One image and the distribution that it was drawn from. Float64."""

  x: np.ndarray  # [H, W, 1]
  mean: np.ndarray  # [H, W, 1]
  covariance: np.ndarray  # [D, D], pixels in C order


def spline(seed: int, index: int) -> Example:
  """Returns a smooth signal of 50 points, [1, 50, 1], with noise that is rough where it is high.

  The mean is tanh of a natural cubic spline through 7 evenly spaced knots of N(0, 0.8^2). The noise
  has the standard deviation s_i = 0.56 exp(0.8 mean_i), and the correlation is 0.89 of Gibbs' kernel
  of length l_i = 1.95 exp(-0.8 mean_i) points, the rest being independent:

    k_ij = sqrt(2 l_i l_j / (l_i^2 + l_j^2)) exp(-(i - j)^2 / (l_i^2 + l_j^2)).

  Reference for the kernel: Gibbs, "Bayesian Gaussian Processes for Regression and Classification",
  1997, equation 3.61.
  """
  numbers = _normal(_KNOTS + _POINTS, seed, index)
  mean = np.tanh(_spline_basis() @ (0.8 * numbers[:_KNOTS]))
  scale, length = 0.56 * np.exp(0.8 * mean), 1.95 * np.exp(-0.8 * mean)
  place = np.arange(_POINTS)
  squares = np.add.outer(length**2, length**2)
  kernel = np.sqrt(2 * np.outer(length, length) / squares)
  kernel *= np.exp(-(np.subtract.outer(place, place) ** 2) / squares)
  correlation = 0.89 * kernel + 0.11 * np.eye(_POINTS)
  return _example(mean, np.outer(scale, scale) * correlation, numbers[_KNOTS:], (1, _POINTS, 1))


def ellipse(seed: int, index: int) -> Example:
  """Returns a bright ellipse, [16, 16, 1], with noise along its longer axis, strongest inside it.

  The centre is uniform in [5, 10]^2 pixels. The half axes a and b are the larger and the smaller of two
  numbers, uniform in [3, 6.5] and in [1.5, 4], and the angle of the larger is uniform in [0, pi).
  Ordering them makes the covariance a function of the mean, as in the paper. With u and v a pixel's
  coordinates along the two axes, from the centre,

    mask = 1 / (1 + exp(-3.5 (1 - sqrt((u / a)^2 + (v / b)^2)))),  mean = 1.6 mask - 0.8,
    cov_ij = 0.477^2 m_i m_j exp(-(u_i - u_j)^2 / (2 12^2) - (v_i - v_j)^2 / (2 0.4^2)) + 0.0572^2 d_ij

  with m = 0.137 + 0.863 mask. Mirrored ellipses, and those turned by a right angle, are equally likely.
  """
  row, column, first, second, angle = _uniform(5, seed, index, 0)
  rows, columns = np.mgrid[:_SIDE, :_SIDE] - 5 * (1 + np.array([row, column]))[:, None, None]
  cosine, sine = math.cos(math.pi * angle), math.sin(math.pi * angle)
  u, v = (columns * cosine + rows * sine).ravel(), (rows * cosine - columns * sine).ravel()
  axes = 3 + 3.5 * first, 1.5 + 2.5 * second
  radius = np.hypot(u / max(axes), v / min(axes))
  mask = 1 / (1 + np.exp(-3.5 * (1 - radius)))
  strength = 0.477 * (0.137 + 0.863 * mask)
  along, across = np.subtract.outer(u, u) / 12, np.subtract.outer(v, v) / 0.4
  lines = np.outer(strength, strength) * np.exp(-(along**2 + across**2) / 2)
  covariance = lines + 0.0572**2 * np.eye(u.size)
  return _example(1.6 * mask - 0.8, covariance, _normal(u.size, seed, index, 1), (_SIDE, _SIDE, 1))


GENERATORS: dict[str, Callable[[int, int], Example]] = {'splines': spline, 'ellipses': ellipse}


def find(config: DataConfig, argument: str) -> base.Source:
  """Finds a generator: real-valued images with their mean as condition, in float32."""
  del argument
  name = config.source
  return base.Source(name, f'{name} of seed {SEED}', functools.partial(_records, name))


def split_examples(config: DataConfig, split: str) -> Iterator[Example]:
  """Yields the examples of a split, in the order of the prepared images, with their covariances.

  Raises:
    ValueError: the configuration's source is not synthetic, or there is no such split.
  """
  if config.source not in GENERATORS:
    raise ValueError(
      f'The truth is known for the sources {" and ".join(GENERATORS)} only; got {config.source!r}.'
    )
  if split not in splits.SPLITS:
    raise ValueError(f'split must be one of {", ".join(splits.SPLITS)}; got {split!r}.')
  assigned = splits.assign(TRAIN + TEST, _official(), config)
  for index in np.flatnonzero(assigned == splits.SPLITS.index(split)):
    yield GENERATORS[config.source](SEED, int(index))


def _records(name: str) -> base.Records:
  generate = GENERATORS[name]

  def load(index: int) -> base.Example:
    example = generate(SEED, index)
    return np.concatenate([example.x, example.mean], axis=-1).astype(np.float32), None

  return base.Records(
    TRAIN + TEST, load, lambda index: f'{name} {index}', base.version('numpy'), levels=0,
    splits=_official(), condition=1,
  )  # fmt: skip


def _official() -> np.ndarray:
  """Returns the index into `splits.SPLITS` of every example. [N]."""
  return np.repeat([splits.SPLITS.index('train'), splits.SPLITS.index('test')], (TRAIN, TEST))


def _example(
  mean: np.ndarray, covariance: np.ndarray, noise: np.ndarray, image: tuple[int, int, int]
) -> Example:
  """Returns the image for given white noise."""
  x = mean + _cholesky(covariance) @ noise
  return Example(x.reshape(image), mean.reshape(image), covariance)


def _cholesky(matrix: np.ndarray, block: int = 16) -> np.ndarray:
  """Returns the lower Cholesky factor [D, D], by products too small for BLAS to use threads.

  NumPy's own takes ten times as long at these sizes when its threads share the cores.
  """
  factor = np.zeros_like(matrix)
  for k in range(0, len(matrix), block):
    here, below = slice(k, k + block), slice(k + block, None)
    rest = matrix[k:, here] - factor[k:, :k] @ factor[here, :k].T
    factor[here, here] = np.linalg.cholesky(rest[:block])
    factor[below, here] = np.linalg.solve(factor[here, here], rest[block:].T).T
  return factor


@functools.cache
def _spline_basis() -> np.ndarray:
  """Returns natural cubic splines through the knots, one 1 and zeros each. [points, knots]."""
  # With spacing 1, second derivatives m (0 at both ends) satisfy m_{i-1} + 4 m_i + m_{i+1} = 6 times
  # the second difference of the values.
  inner = _KNOTS - 2
  system = 4 * np.eye(inner) + np.eye(inner, k=1) + np.eye(inner, k=-1)
  curvature = np.zeros((_KNOTS, _KNOTS))
  curvature[1:-1] = np.linalg.solve(system, 6 * np.diff(np.eye(_KNOTS), 2, axis=0))
  place = np.linspace(0, _KNOTS - 1, _POINTS)
  left = np.minimum(place.astype(int), _KNOTS - 2)
  t = (place - left)[:, None]
  straight = (1 - t) * np.eye(_KNOTS)[left] + t * np.eye(_KNOTS)[left + 1]
  bend = ((1 - t) ** 3 - (1 - t)) * curvature[left] + (t**3 - t) * curvature[left + 1]
  return straight + bend / 6


def _uniform(count: int, *seed: int) -> np.ndarray:
  """Returns numbers in [0, 1), the same on every machine. [count]."""
  return (order.draws(count, *seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _normal(count: int, *seed: int) -> np.ndarray:
  """Returns standard normal numbers, by the method of Box and Muller. [count]."""
  pairs = _uniform(2 * count, *seed).reshape(2, count)
  return np.sqrt(-2 * np.log1p(-pairs[0])) * np.cos(2 * math.pi * pairs[1])


KIND = base.Kind(find)
