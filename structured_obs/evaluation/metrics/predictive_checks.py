"""Checks errors against a predicted distribution: its marginals, differences and conditionals.

For p(x|z), z the mean of q(z|x), and the dequantised images of the likelihoods (for a discrete family,
the images themselves):

  PIT       probability of a smaller value of every pixel, uniform if marginals are right
  distance  squared Mahalanobis distance, of the family's own distribution (chi-square, or F for a
            Student t) if the covariance is right
  variogram mean over neighbours i, j of (|x_i - x_j|^p - E |X_i - X_j|^p)^2, p = 1/2: small only for
            right correlations, which no score of marginals detects
  hidden    -log p(right half | left half, z) per hidden value

Distances come with the likelihoods. The other checks use fewer images the larger these are, so that no
model is too large for them. The hidden half is left out if a family has no exact conditional.

Letters: T images; N of them, the first; S samples; H W C image height, width, channels; D = H W C;
M bins.

Reference: Scheuerer and Hamill, "Variogram-based proper scoring rules", 2015, equation 11.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.data import pixels
from structured_obs.distributions import elliptical, gaussian
from structured_obs.distributions.base import Family
from structured_obs.evaluation.metrics import calibration
from structured_obs.evaluation.results import Result
from structured_obs.objectives import bounds
from structured_obs.runs import trained as opened

Array = jax.Array

MOST, LEAST = 256, 8  # N lies between them,
PIXELS = 2**18  # with N D as large as this if possible
SAMPLES = 64  # S, of the variogram
POWER = 0.5  # p
LAGS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 4), (4, 0))  # rows down, columns right
BINS = 50  # M
VARIOGRAM, HIDDEN = 'variogram_score', 'hidden_half_bits_per_value'
HIDDEN_NATS = 'hidden_half_nats_per_value'  # instead of HIDDEN, for data without gray levels


class Checks(NamedTuple):
  """Checks of one model."""

  result: Result  # on T images
  scores: Mapping[str, np.ndarray]  # [N] VARIOGRAM, and HIDDEN if it is known
  pit_by_image: np.ndarray | None  # [N, M]  fraction of pixels in each bin; None without a covariance

  @property
  def discrete(self) -> bool:
    """Whether the model is discrete: probabilities of gray levels rather than densities."""
    return opened.is_discrete(self.result.trained)

  @property
  def pit(self) -> np.ndarray | None:
    """Fraction of all pixels in each bin, [M]; None without a covariance."""
    return None if self.pit_by_image is None else self.pit_by_image.mean(axis=0)

  @property
  def pit_distance(self) -> float | None:
    """Kolmogorov-Smirnov distance of PIT from the uniform distribution; None without a covariance."""
    return None if self.pit is None else uniform_distance(self.pit)

  @property
  def distance_of_q(self) -> float | None:
    """Kolmogorov-Smirnov distance of q, of T images, from its law; None without a covariance."""
    result = self.result
    if not elliptical.has_covariance(result.trained.model.family):
      return None
    scores = result.scores
    return calibration.law_distance(scores.mahalanobis, result.num_dims, scores.inverse_dof)


def of_scores(result: Result, scores: Mapping[str, Any]) -> Checks:
  """Returns the checks of one model, from the results of `of_image` for each of N images."""
  trained, settings, kept = result.trained, result.settings, dict(scores)
  pit_by_image = kept.pop('pit', None)
  if HIDDEN in kept:
    height, width, channels = trained.model.image
    hidden, log_p = height * (width - width // 2) * channels, kept.pop(HIDDEN)
    if settings.levels:
      unit = 1.0 if opened.is_discrete(trained) else pixels.bin_width(settings.levels)
      kept[HIDDEN] = np.asarray(bounds.bits_per_dim(log_p, hidden, unit))
    else:
      kept[HIDDEN_NATS] = -log_p / hidden
  return Checks(result, kept, pit_by_image)


def num_images(size: int) -> int:
  """Returns N for images of D values, if there are as many."""
  return min(MOST, max(LEAST, PIXELS // size))


def of_image(family: Family, key: Array, params: Any, x: Array) -> dict[str, Array]:
  """Returns scores [], of the hidden half log p in nats, and 'pit' [M], of one image.

  Args:
    family: of p(x|z).
    key: of the samples.
    params: of one image.
    x: [H, W, C].
  """
  found = {VARIOGRAM: variogram_score(family, key, params, x)}
  log_p = masked_log_prob(family, params, x, _right_half(x))
  if log_p is not None:
    found[HIDDEN] = log_p
  if elliptical.has_covariance(family):
    pit = elliptical.pixel_cdf(family, params, x)
    variance = elliptical.primitives(family).variance(params)
    known = jnp.isfinite((x - family.mean(params)) / jnp.sqrt(variance)) & jnp.isfinite(variance)
    bins = jnp.clip((pit * BINS).astype(jnp.int32), 0, BINS - 1).reshape(-1)
    counts = jnp.zeros(BINS, x.dtype).at[bins].add(1 / x.size)
    # Values that are not finite have no bin; they must not count in another pixel's.
    found['pit'] = jnp.where(jnp.all(known & jnp.isfinite(pit)), counts, jnp.nan)
  return found


def _right_half(x: Array) -> Array:
  """Returns True at the pixels of an image that are hidden. [H, W, C]."""
  return jnp.zeros_like(x, jnp.bool_).at[:, x.shape[1] // 2 :].set(True)


def masked_log_prob(family: Family, params: Any, x: Array, hidden: Array) -> Array | None:
  """Returns the log density, or probability, of an image's hidden pixels given the others. [], nats.

  Args:
    family: with a covariance, or of independent pixels.
    params: of one image.
    x: [H, W, C].
    hidden: [H, W, C] bool; all channels of a pixel are hidden together.

  Returns:
    The log density; None if the family has no exact conditional at this size.
  """
  if elliptical.has_covariance(family):
    given = gaussian.condition(family, params, x, ~hidden)
    return None if given.variance is None else given.log_prob(x)
  if family.log_prob_by_pixel is None:
    return None
  return jnp.sum(jnp.where(hidden[..., 0], family.log_prob_by_pixel(params, x), 0))


def variogram_score(family: Family, key: Array, params: Any, x: Array) -> Array:
  """Returns the mean over neighbours of (|x_i - x_j|^p - E |X_i - X_j|^p)^2, by samples. [].

  Args:
    family: of p(x|z).
    key: of the samples.
    params: of one image.
    x: [H, W, C].
  """
  draws = jax.lax.map(lambda k: variogram(family.sample(k, params)), jax.random.split(key, SAMPLES))
  error = jnp.square(variogram(x) - jnp.mean(draws, axis=0))
  # The mean of S samples has a variance of its own, which is not the model's error.
  surplus = jnp.var(draws, axis=0, ddof=1) / SAMPLES
  pairs = neighbours(x.shape).astype(x.dtype)
  return jnp.sum((error - surplus) * pairs) / jnp.sum(pairs)


def variogram(x: Array) -> Array:
  """Returns |x_i - x_j|^p for the pairs at each lag, 0 without a pair. [lags, H, W, C]."""
  apart = [jnp.abs(x - jnp.roll(x, (-down, -right), (0, 1))) ** POWER for down, right in LAGS]
  return jnp.stack(apart) * neighbours(x.shape).astype(x.dtype)


def neighbours(shape: tuple[int, ...]) -> Array:
  """Returns 1 for pixels with a neighbour at the lag inside the image, otherwise 0. [lags, H, W, C]."""
  height, width, channels = shape
  found = np.zeros((len(LAGS), height, width, channels), np.float32)
  for i, (down, right) in enumerate(LAGS):
    found[i, : max(height - down, 0), : max(width - right, 0)] = 1
  return jnp.asarray(found)


def uniform_distance(pit: np.ndarray) -> float:
  """Returns the Kolmogorov-Smirnov distance of fractions in equal bins [M] from uniform."""
  return float(np.max(np.abs(np.cumsum(pit) - np.arange(1, len(pit) + 1) / len(pit))))
