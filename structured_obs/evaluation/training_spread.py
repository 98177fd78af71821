"""Tells misfit from overfitting, by the spread of q of training images beside that of the others.

q is the squared Mahalanobis distance of an image's residual. If its spread is above 1 on the images that
a model was trained on too, the family cannot describe how residuals differ from image to image (misfit);
if it is above 1 on other images only, the covariance has learnt the training images (overfitting).
Training images are scored as the others are, without augmentation.

Letters: N images, as many of either; D = H W C.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from structured_obs.distributions import elliptical
from structured_obs.evaluation import finite, passes, residuals, tables
from structured_obs.evaluation.metrics import calibration
from structured_obs.evaluation.results import Result

MOST = 1000  # N
LEAST_EXCESS = 0.1  # of a spread over 1, or over another, relative to it, that is worth a sentence
SURE = 2.0  # standard errors that a difference must have


class Spread(NamedTuple):
  """A spread of q and its standard error."""

  value: float
  error: float


def with_training(
  found: Sequence[Result], training: np.ndarray, where: passes.Where = passes.HERE
) -> list[Result]:
  """Returns results with the distances of training images, for models with a covariance.

  Args:
    found: on other images of the same data.
    training: images that the models were trained on, as stored; the first are measured, as many as there
      are scored images, at most `MOST`.
    where: devices to run on, and the directory to keep unfinished work in.
  """
  filled = []
  for result in found:
    model = result.trained.model
    chosen = training[: min(MOST, len(result.scores.elbo))]
    if len(chosen) and not model.masked and elliptical.has_covariance(model.family):
      distances = residuals.distances(result.trained, np.asarray(chosen), where)
      result = result._replace(training=distances)
    filled.append(result)
  return filled


def spread(mahalanobis: np.ndarray, num_dims: int, inverse_dof: calibration.Inverse = 0.0) -> Spread:
  """Returns sd(q) over its expectation, with the standard error of a sample's standard deviation.

  The error uses the fourth moment: sqrt((m4 - s^4) / N) / (2 s).

  Args:
    mahalanobis: [N], q / D.
    num_dims: D.
    inverse_dof: 1 / nu.
  """
  value = calibration.calibration(mahalanobis, num_dims, inverse_dof).spread
  centred = np.asarray(mahalanobis, np.float64) - np.mean(mahalanobis)
  square, fourth = np.mean(centred**2), np.mean(centred**4)
  if not (math.isfinite(value) and square > 0):
    return Spread(value, math.nan)
  relative = math.sqrt(max(0.0, fourth / square**2 - 1) / len(centred)) / 2
  return Spread(value, value * relative)


def text(found: Sequence[Result]) -> str:
  """Returns a sentence per model that says misfit, overfitting, both or neither; '' without distances.

  Training images whose distance is not finite are named.

  Args:
    found: of `with_training`.
  """
  known = [result for result in found if result.training is not None]
  distances = {f'{one.trained.name}: q / D': one.training[0] for one in known if one.training}
  bad = finite.sentences(distances, 'training images')
  return tables.paragraphs(' '.join(map(_sentence, known)), bad)


def _sentence(result: Result) -> str:
  assert result.training is not None
  size, count = result.trained.model.image.size, len(result.training[0])
  scores = result.scores
  training = spread(result.training[0], size, result.training[1])
  others = spread(scores.mahalanobis[:count], size, scores.inverse_dof[:count])
  told = f'{training.value:.2f} on {count} training images and {others.value:.2f} on as many others'
  if not all(map(math.isfinite, (*training, *others))):
    return f'{result.trained.name}: the spread of q is {told}, so misfit and overfitting cannot be told.'
  return f'{result.trained.name}: the spread of q is {told}: {_verdict(training, others)}.'


def _verdict(training: Spread, others: Spread) -> str:
  """Returns what the two spreads mean."""
  one = Spread(1.0, 0.0)
  further = _above(others, training)
  if not _above(others, one):
    return 'neither misfit nor overfitting'
  if not _above(training, one):
    return 'overfitting, as residuals vary more than predicted on images that were not seen only'
  if further:
    return 'misfit, as training images vary more than predicted too, and overfitting on top'
  return 'misfit, not overfitting, as training images vary more than predicted as well'


def _above(first: Spread, second: Spread) -> bool:
  """Returns whether a spread is larger by more than chance, and by more than is worth telling."""
  difference = first.value - second.value
  return difference > max(LEAST_EXCESS * second.value, SURE * math.hypot(first.error, second.error))
