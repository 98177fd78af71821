"""Projections: the member of a family nearest to a given Gaussian, by KL(N(mean, covariance) || member).

Of all that a Gaussian member's KL depends on, the second moments of N(mean, covariance) are enough. D
residuals have exactly these, the columns of sqrt(D) covariance^1/2, and the nearest member is the fit to
them (`fitting`). A family that is not Gaussian is fitted to more of them, spread as a Gaussian's.

Letters: H W C image height, width, channels; D = H W C.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from structured_obs.distributions import base, fitting, posterior
from structured_obs.distributions.fitting import Float64

Array = jax.Array
P = TypeVar('P')  # a family's parameters

SAMPLES = 2048  # at least, that a family which is not Gaussian is fitted to; and to measure its KL
ASYMMETRY = 1e-4  # of the largest entry: more is a mistake, not rounding


class Projection(NamedTuple, Generic[P]):
  """The nearest member of a family, and how near it is."""

  params: P  # of one image
  kl: float  # KL(N(mean, covariance) || member), nats
  standard_error: float  # of the KL: 0 for a Gaussian family, whose KL is exact


def project(
  family: base.Family[P],
  mean: ArrayLike,
  covariance: ArrayLike | Callable[[Array], Array],
  max_iterations: int = fitting.MAX_ITERATIONS,
) -> Projection[P]:
  """Returns the member of least KL(N(mean, covariance) || member), with the attained KL.

  It is what `fitting.fit` returns for infinitely many samples of N(mean, covariance), and as exact. The
  work is that of dense matrices, D^3.

  Args:
    family: of a density, any family or wrapper.
    mean: [H, W, C].
    covariance: [D, D], pixels in C order, positive definite; or its product with an image [H, W, C] ->
      [H, W, C], such as `functools.partial(family.gaussian.covariance_matvec, params)`.
    max_iterations: as of `fitting.fit`.

  Raises:
    ValueError: the family gives probabilities of gray levels; the image has more than 4,096 pixels; the
      covariance is not symmetric and positive definite, or of another shape.
  """
  centre = np.asarray(mean)
  base.check_shape('mean', jnp.asarray(centre), (None, None, None))
  dtype = fitting.result_dtype(centre)
  if family.levels:
    raise ValueError('project needs a family of densities; this one gives probabilities of gray levels.')
  matrix = _positive_definite(_dense(covariance, centre), centre.shape)
  root = np.asarray(np.linalg.cholesky(matrix), np.float64)
  with jax.enable_x64(True):
    doubles = fitting.checked_mean(centre, centre.shape)
    residuals = (_moments if family.gaussian else _spread)(root).reshape(-1, *doubles.shape)
    sample = fitting.Sample(doubles + residuals, doubles, max_iterations)
    params = fitting.from_outputs(family, fitting.outputs(family, sample), dtype)
  return Projection(params, *_divergence(family, params, doubles, root))


def _moments(root: Float64) -> Float64:
  """Returns D residuals with the second moments of a covariance root root^T. [D, D]."""
  return math.sqrt(len(root)) * root.T


def _spread(root: Float64) -> Float64:
  """Returns residuals with these second moments and squared distances as those of a Gaussian. [n, D].

  Sets of D orthogonal directions, turned at random, each of one quantile of the distances.
  """
  size, rng = len(root), np.random.default_rng(0)
  sets = max(2, -(-SAMPLES // size))
  normal = np.asarray([statistics.NormalDist().inv_cdf((k + 0.5) / sets) for k in range(sets)])
  share = 2 / (9 * size)  # Wilson and Hilferty's quantiles of chi-square
  distances = np.maximum(1 - share + normal * math.sqrt(share), 0) ** 3
  lengths = np.sqrt(size * distances / np.mean(distances))
  turns = [np.asarray(np.linalg.qr(rng.standard_normal((size, size)))[0]) for _ in range(sets)]
  return np.concatenate([length * turn @ root.T for length, turn in zip(lengths, turns, strict=True)])


def _divergence(family: base.Family[P], params: P, mean: Float64, root: Float64) -> tuple[float, float]:
  """Returns the KL from the Gaussian of this mean and covariance, and its standard error."""
  size, log_diag = len(root), float(np.sum(np.log(np.diag(root))))
  if family.gaussian is not None:
    images = mean + _moments(root).reshape(-1, *mean.shape)
    entropy = log_diag + 0.5 * size * (1 + base.LOG_2PI)
    return max(0.0, -entropy - fitting.mean_log_prob(family, params, images)), 0.0
  # The difference of the two log densities varies less than either, and over an image and its mirror
  # image less than over two.
  noise = np.random.default_rng(1).standard_normal((SAMPLES // 2, size))
  noise = np.concatenate([noise, -noise])
  own = -0.5 * (np.sum(np.square(noise), axis=1) + size * base.LOG_2PI) - log_diag
  images = mean + (noise @ root.T).reshape(-1, *mean.shape)
  pairs = (own - fitting.log_probs(family, params, images)).reshape(2, -1).mean(axis=0)
  return float(np.mean(pairs)), float(np.std(pairs, ddof=1) / math.sqrt(len(pairs)))


def _dense(covariance: ArrayLike | Callable[[Array], Array], mean: NDArray[Any]) -> Float64:
  """Returns the covariance as a matrix [D, D], from its product with every pixel if it is a function."""
  if mean.size > posterior.MAX_DENSE_SIZE:
    raise posterior.too_dense('project', mean.size, posterior.MAX_DENSE_SIZE)
  if not callable(covariance):
    return np.asarray(covariance, np.float64)
  one_by_one = jnp.eye(mean.size, dtype=jnp.result_type(mean)).reshape(mean.size, *mean.shape)
  columns = jax.lax.map(covariance, one_by_one, batch_size=fitting.TOGETHER)
  if columns.shape != one_by_one.shape:
    raise ValueError(
      f'The product with the covariance must be an image of shape {mean.shape}; got {columns.shape[1:]}.'
    )
  return np.asarray(columns, np.float64).reshape(mean.size, mean.size)


def _positive_definite(covariance: Float64, image: tuple[int, ...]) -> Float64:
  """Returns the symmetric part of a covariance; raises ValueError where it is none."""
  size = math.prod(image)
  if covariance.shape != (size, size):
    raise ValueError(
      f'covariance must have shape {(size, size)} for images of shape {image}; got {covariance.shape}.'
    )
  if not np.all(np.isfinite(covariance)):
    raise ValueError('covariance must be finite numbers; at least one is not.')
  if np.max(np.abs(covariance - covariance.T)) > ASYMMETRY * np.max(np.abs(covariance)):
    raise ValueError('covariance must be a symmetric matrix; it differs from its transpose.')
  symmetric = (covariance + covariance.T) / 2
  least = float(np.linalg.eigvalsh(symmetric)[0])
  if not least > 1e-13 * float(np.max(np.diag(symmetric))):
    raise ValueError(
      f'covariance must be positive definite; its smallest eigenvalue is {least:.3g}. Of a singular one '
      'every KL divergence is infinite: add noise to its diagonal.'
    )
  return symmetric
