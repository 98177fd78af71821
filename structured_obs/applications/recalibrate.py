"""Saves a trained Gaussian model as the Student t that fits validation images best.

Images differ more in the size of their residuals than a Gaussian of thousands of pixels allows. A factor
of all standard deviations and the degrees of freedom, fitted together on validation images, mend that
without training; see `evaluation.metrics.temperature`. The new workdir is that of the same model with
the wrapper `student` around its family.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from structured_obs.config import Config
from structured_obs.evaluation import residuals
from structured_obs.evaluation.metrics import calibration, temperature
from structured_obs.evaluation.metrics.temperature import Tails
from structured_obs.runs import variant
from structured_obs.runs.trained import Trained

WRAPPER = 'student'


class Recalibrated(NamedTuple):
  """What was fitted."""

  tails: Tails
  before: calibration.Calibration  # of the images it was fitted on
  after: calibration.Calibration
  num_images: int


def fit(trained: Trained, images: np.ndarray) -> Recalibrated:
  """Returns temperature and degrees of freedom that are the most likely ones of images.

  Args:
    trained: a model of a Gaussian family.
    images: [N, H, W, C] as stored, such as those of the validation split.

  Raises:
    ValueError: the family is not Gaussian, there are no images, or some have no finite distance.
  """
  if trained.model.family.gaussian is None:
    raise ValueError(
      f'{trained.name} has no Gaussian family, whose Student t could be saved; it has '
      f'{trained.config.likelihood.family!r} with the wrappers {trained.config.likelihood.wrappers!r}.'
    )
  if not len(images):
    raise ValueError('There are no validation images to fit; set --config.data.validation in training.')
  distance, _ = residuals.distances(trained, images)
  size = trained.model.image.size
  tails = temperature.fit_tails(distance, size)
  if not np.isfinite(tails.dof):
    raise ValueError('Distances of validation images from their means are 0, or not finite.')
  return Recalibrated(
    tails,
    calibration.calibration(distance, size),
    calibration.calibration(distance / tails.temperature**2, size, 1 / tails.dof),
    len(distance),
  )


def configured(config: Config, tails: Tails) -> Config:
  """Returns the configuration of the Student t around a configuration's family."""
  chosen = config.likelihood
  student: dict[str, Any] = {
    'dof': 'fixed',
    'initial_dof': tails.dof,
    'temperature': tails.temperature,
  }
  likelihood = dataclasses.replace(
    chosen,
    wrappers=(*chosen.wrappers, WRAPPER),
    wrapper_options={**chosen.wrapper_options, WRAPPER: student},
  )
  return dataclasses.replace(config, likelihood=likelihood)


def save(trained: Trained, which: str, tails: Tails, output: Path, command: str = '') -> int:
  """Writes a workdir of the Student t of a model; returns the step of its checkpoint.

  Args:
    trained: the model, of a Gaussian family.
    which: checkpoint it was opened at, 'best', 'latest' or a step.
    tails: of `fit`.
    output: workdir to make; it must be empty or not exist.
    command: that made it, for its run.json.

  Raises:
    ValueError: as `variant.save`.
  """
  return variant.save(Path(trained.workdir), which, output, configured(trained.config, tails), command)


def text(found: Recalibrated) -> str:
  """Returns sentences about what was fitted."""
  before, after = found.before, found.after
  return (
    f'Fitted on {found.num_images} validation images: temperature {found.tails.temperature:.4f} and '
    f'{found.tails.dof:.4g} degrees of freedom.\n'
    f'Kolmogorov-Smirnov distance of q from its distribution: {before.distance:.3f} before, '
    f'{after.distance:.3f} after. Spread of its probability, 1 if uniform: {before.pit_spread:.3f} '
    f'before, {after.pit_spread:.3f} after.'
  )
