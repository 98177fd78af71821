"""Figures of predicted covariances beside the true ones, and samples of both.

Letters: N images; H W C image height, width, channels; D = H W C.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, figures 3 to 6.
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from structured_obs import plotting
from structured_obs.data.sources import synthetic
from structured_obs.evaluation import finite
from structured_obs.evaluation.figures import labels
from structured_obs.evaluation.sections import true_covariance
from structured_obs.evaluation.sections.base import Evaluated, Section
from structured_obs.runs.trained import Trained

SHOWN = 6  # images
SAMPLES = 2  # of each distribution


def write(
  directory: str | Path, models: Sequence[Trained], split: str, images: np.ndarray
) -> dict[str, Path]:
  """Draws the figures for the first images of a split.

  Args:
    directory: of the PNG files.
    models: with means given and covariances known.
    split: of the images.
    images: [N, H, W, 2 C], the first of the split.

  Returns:
    Paths by title.
  """
  directory, shown = Path(directory), images[:SHOWN]
  examples = synthetic.split_examples(models[0].config.data, split)
  truth = true_covariance.truth_of(list(itertools.islice(examples, len(shown))))
  covariances = {'truth': truth.covariance} | {
    trained.name: _covariance(trained, shown) for trained in models
  }
  samples = {name: _samples(truth.mean, found) for name, found in covariances.items()}
  of = functools.partial(labels.title, models=models)
  x = truth.mean + truth.residual.reshape(truth.mean.shape)
  return {
    'Covariances': _matrices(directory / 'covariances.png', covariances, of('Covariances')),
    'Samples': _drawn(directory / 'true_samples.png', truth.mean, x, samples, of('Samples')),
    **_columns(directory / 'columns.png', covariances, truth.mean, of('Covariances with single pixels')),
  }


def _covariance(trained: Trained, images: np.ndarray) -> np.ndarray:
  """Returns the covariances [N, D, D] that a model predicts, float64."""
  params = true_covariance.reconstruct(trained, images)
  return true_covariance.invert(true_covariance.precisions(trained.model.family, params))[1]


def _samples(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
  """Returns samples [S, N, H, W, C] of N(mean, covariance), with the same white noise for all."""
  noise = np.random.default_rng(0).normal(size=(SAMPLES, len(mean), covariance.shape[1], 1))
  known = finite.of_images(covariance)
  values, vectors = np.linalg.eigh(covariance[known])
  root = np.full(covariance.shape, np.nan)
  # The symmetric root, so that equal noise gives comparable images.
  root[known] = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.swapaxes(1, 2)
  return mean + (root @ noise).reshape(SAMPLES, *mean.shape)


def _matrices(path: Path, covariances: dict[str, np.ndarray], title: str) -> Path:
  largest = float(np.abs(covariances['truth']).max())
  rows = [
    plotting.Row(name, found[..., None], 'signed', limit=largest) for name, found in covariances.items()
  ]
  return plotting.image_rows(path, rows, title=title)


def _drawn(
  path: Path, mean: np.ndarray, x: np.ndarray, samples: dict[str, np.ndarray], title: str
) -> Path:
  """Draws samples of every distribution; as signals, if the images are one pixel high or wide."""
  if 1 in mean.shape[1:3]:
    flat = {'mean': mean, 'x': x} | {name: found[0] for name, found in samples.items()}
    return plotting.signals(path, {name: f.reshape(len(mean), -1) for name, f in flat.items()}, title)
  rows = [plotting.Row('mean', mean), plotting.Row('x', x)]
  for i in range(SAMPLES):
    rows += [plotting.Row(f'{name}\nsample {i + 1}', found[i]) for name, found in samples.items()]
  return plotting.image_rows(path, rows, title=title)


def _columns(
  path: Path, covariances: dict[str, np.ndarray], mean: np.ndarray, title: str
) -> dict[str, Path]:
  """Draws covariances of all pixels with a few, for images; for signals the matrices show them."""
  height, width, channels = mean.shape[1:]
  if 1 in (height, width):
    return {}
  rows = []
  for row, column in ((height // 2, width // 2), (height // 3, width // 2), (height // 2, width // 3)):
    pixel = (row * width + column) * channels
    picked = {name: found[:, pixel].reshape(mean.shape) for name, found in covariances.items()}
    largest = float(np.abs(picked['truth']).max())
    rows += [
      plotting.Row(f'{name}\n({row}, {column})', found[..., :1], 'signed', (row, column), largest)
      for name, found in picked.items()
    ]
  return {'Covariances with single pixels': plotting.image_rows(path, rows, title=title)}


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  if not evaluated.own_data or not all(
    result.trained.model.family.gaussian for result in evaluated.found
  ):
    return None
  models = [result.trained for result in evaluated.found]
  found = true_covariance.judge(models, evaluated.split, evaluated.images)
  if not found:
    return None
  return Section(
    'truth_known',
    true_covariance.text(found),
    true_covariance.as_json(found),
    true_covariance.per_image(found),
    lambda directory: write(directory, models, evaluated.split, evaluated.images),
  )
