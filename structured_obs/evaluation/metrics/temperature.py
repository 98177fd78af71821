"""Recalibrates a model by a temperature, fitted on one split and judged on another.

A constraint on the entropy, early stopping or a small validation set leave covariances too small for the
errors on new images. The cheapest remedy scales every covariance by T^2. With q the squared Mahalanobis
distance of an image and D its size,

  log p_T = log p + q (1 - 1 / T^2) / 2 - D log T,

whose mean over images is largest at T^2 = mean(q) / D.

Letters: N images; M validation images; D = H W C.
"""

from typing import NamedTuple

import numpy as np

from structured_obs.evaluation import likelihood
from structured_obs.evaluation.metrics import calibration


class Recalibration(NamedTuple):
  """One model before and after its covariances are scaled by temperature^2."""

  temperature: float  # of the images it was fitted on
  before: calibration.Calibration
  after: calibration.Calibration
  negative_log_prob: np.ndarray  # [N]  -log p(x given mean of z), nats
  tempered: np.ndarray  # [N]  the same at that temperature
  found_on: np.ndarray  # [M]  q / D of the images that the temperature was fitted on


def recalibrate(found_on: np.ndarray, judged_on: likelihood.Scores, num_dims: int) -> Recalibration:
  """Returns the recalibration of a Gaussian model from distances on one split and scores on another.

  Args:
    found_on: [M] q / D of the images that determine the temperature.
    judged_on: scores of other images.
    num_dims: D.
  """
  temperature = calibration.calibration(found_on, num_dims).temperature
  distance, factor = judged_on.mahalanobis, np.square(np.float64(temperature))
  # If all residuals are 0 the temperature is 0, and the density at it is not finite.
  with np.errstate(divide='ignore', invalid='ignore'):
    tempered = distance / factor
    gain = 0.5 * num_dims * (distance - tempered - np.log(factor))
  return Recalibration(
    temperature,
    calibration.calibration(distance, num_dims),
    calibration.calibration(tempered, num_dims),
    -judged_on.log_prob,
    -judged_on.log_prob - gain,
    found_on,
  )
