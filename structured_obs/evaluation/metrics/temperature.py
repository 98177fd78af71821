"""The temperature that recalibrates a model, found on one split and judged on another.

A constraint on the entropy, an early stop or a small validation set leave covariances too small for the
errors on new images. Scaling every covariance by T^2 is the cheapest cure; with q the squared
Mahalanobis distance of an image and D its size,

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

  temperature: float  # of the images it was found on
  before: calibration.Calibration
  after: calibration.Calibration
  negative_log_prob: np.ndarray  # [N]  -log p(x given mean of z), nats
  tempered: np.ndarray  # [N]  the same at that temperature
  found_on: np.ndarray  # [M]  q / D of the images that the temperature was found on


def recalibrate(found_on: np.ndarray, judged_on: likelihood.Scores, num_dims: int) -> Recalibration:
  """Recalibration of a Gaussian model from its distances on one split and its scores on another.

  Args:
    found_on: [M] q / D of the images that give the temperature.
    judged_on: scores of others.
    num_dims: D.
  """
  temperature = calibration.calibration(found_on, num_dims).temperature
  distance, factor = judged_on.mahalanobis, np.square(np.float64(temperature))
  # Of residuals that are all 0 the temperature is 0, and nothing is finite at it.
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
