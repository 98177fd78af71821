"""Recalibrates a model by a temperature, and by the weight of its tails; both fitted on another split.

A constraint on the entropy, early stopping or a small validation set leave covariances too small for
the errors on new images. The cheapest remedy scales every covariance by T^2. With q the squared
Mahalanobis distance of an image and D its size,

  log p_T = log p + q (1 - 1 / T^2) / 2 - D log T,

whose mean over images is largest at T^2 = mean(q) / D. If images differ more in q than a Gaussian
allows, no temperature helps. One more number does, the degrees of freedom nu of a Student t with T^2
times the covariance as its scale matrix (`distributions.student`). Temperature and nu together are the
most likely ones.

Letters: N images; M validation images; D = H W C; nu degrees of freedom.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from structured_obs.evaluation import likelihood
from structured_obs.evaluation.metrics import calibration

LEAST, MOST = 0.1, 1e6  # nu lies between them; at the upper end tails are those of a Gaussian
STEPS = 60  # of the search: nu within 1e-8


class Tails(NamedTuple):
  """A Student t fitted to distances."""

  dof: float  # nu
  temperature: float  # the scale matrix is temperature^2 times the covariance, or scale matrix, before


class Recalibration(NamedTuple):
  """One model before and after its covariances are scaled by temperature^2, and as a Student t."""

  temperature: float  # of the images it was fitted on
  before: calibration.Calibration
  after: calibration.Calibration
  negative_log_prob: np.ndarray  # [N]  -log p(x given mean of z), nats
  tempered: np.ndarray  # [N]  the same at that temperature
  found_on: np.ndarray  # [M]  q / D of the images that the temperature was fitted on
  tails: Tails  # of the same images
  student: calibration.Calibration
  heavy: np.ndarray  # [N]  -log p of the Student t
  # [N] each, of a smaller distance: before, at the temperature, and as a Student t.
  probabilities: tuple[np.ndarray, ...]


def recalibrate(
  found_on: np.ndarray,
  judged_on: likelihood.Scores,
  num_dims: int,
  inverse_dof: calibration.Inverse = 0.0,
) -> Recalibration:
  """Returns the recalibration of a model from distances on one split and scores on another.

  Args:
    found_on: [M] q / D of the images that determine temperature and nu.
    judged_on: scores of other images.
    num_dims: D.
    inverse_dof: [M] or [], 1 / nu of the model on the first images; 0 for a Gaussian.
  """
  temperature = calibration.calibration(found_on, num_dims, inverse_dof).temperature
  tails, own = fit_tails(found_on, num_dims), judged_on.inverse_dof
  heavy = 1 / tails.dof
  # If all residuals are 0 the temperature is 0, and the density at it is not finite.
  with np.errstate(divide='ignore', invalid='ignore'):
    factors = np.array([1.0, temperature, tails.temperature])
    distances = [judged_on.mahalanobis / factor**2 for factor in factors]
    pairs = list(zip(distances, (own, own, heavy), strict=True))
    radial = [_log_density(found, num_dims, inverse) for found, inverse in pairs]
    tempered, student = (
      radial[0] - one + num_dims * np.log(factor)
      for one, factor in zip(radial[1:], factors[1:], strict=True)
    )
  calibrations = [calibration.calibration(found, num_dims, inverse) for found, inverse in pairs]
  return Recalibration(
    temperature=temperature,
    before=calibrations[0],
    after=calibrations[1],
    negative_log_prob=-judged_on.log_prob,
    tempered=-judged_on.log_prob + tempered,
    found_on=found_on,
    tails=tails,
    student=calibrations[2],
    heavy=-judged_on.log_prob + student,
    probabilities=tuple(calibration.below(found, num_dims, inverse) for found, inverse in pairs),
  )


def fit_tails(mahalanobis: np.ndarray, num_dims: int) -> Tails:
  """Returns the most likely nu, from 0.1 to 1e6, and its temperature, for distances q / D [M].

  Both are NaN unless all distances are finite and positive.

  Args:
    mahalanobis: [M], q / D.
    num_dims: D.
  """
  found = np.asarray(mahalanobis, np.float64)
  if not (np.isfinite(found).all() and (found > 0).all()):
    return Tails(math.nan, math.nan)

  def likelihood_of(log_dof: float) -> float:
    inverse = math.exp(-log_dof)
    temperature = calibration.best_temperature(found, num_dims, inverse)
    density = _log_density(found / temperature**2, num_dims, inverse)
    return float(np.mean(density)) - num_dims * math.log(temperature)

  low, high = math.log(LEAST), math.log(MOST)
  golden = (math.sqrt(5) - 1) / 2
  ends = [high - golden * (high - low), low + golden * (high - low)]
  values = [likelihood_of(end) for end in ends]
  for _ in range(STEPS):
    if values[0] > values[1]:
      high, ends, values = ends[1], [0.0, ends[0]], [0.0, values[0]]
      ends[0] = high - golden * (high - low)
      values[0] = likelihood_of(ends[0])
    else:
      low, ends, values = ends[0], [ends[1], 0.0], [values[1], 0.0]
      ends[1] = low + golden * (high - low)
      values[1] = likelihood_of(ends[1])
  log_dof = (low + high) / 2
  dof = math.exp(log_dof)
  return Tails(dof, calibration.best_temperature(found, num_dims, 1 / dof))


def _log_density(mahalanobis: np.ndarray, num_dims: int, inverse_dof: calibration.Inverse) -> np.ndarray:
  """Returns the log density of images at distances q / D [N], for a scale matrix of determinant 1."""
  q, inverse = np.broadcast_arrays(num_dims * np.asarray(mahalanobis, np.float64), inverse_dof)
  normal, half = inverse == 0, num_dims / 2
  dof = 1 / np.where(normal, 1, inverse)
  constant = special.gammaln(dof / 2 + half) - special.gammaln(dof / 2) - half * np.log(dof / 2)
  radial = np.where(normal, -q / 2, constant - (dof / 2 + half) * np.log1p(q / dof))
  return radial - half * math.log(2 * math.pi)
