"""The sections of an evaluation beside its table of scores, one for each thing it measures.

A section is made where models and data allow it. One more is a function here, and its line in `MAKERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from structured_obs.evaluation import (
  bound_parts,
  closed_form,
  consistency,
  covariance_error,
  features,
  image_measures,
  passes,
  predictive_report,
  quality_report,
  recalibration,
  reconstruction_quality,
  residuals,
  sample_quality,
  truth_pictures,
  whiteness,
)
from structured_obs.evaluation.results import Result

Figures = dict[str, Path]  # path by title


class Evaluated(NamedTuple):
  """What sections are made of."""

  found: Sequence[Result]  # on the same images, of a split
  split: str
  images: np.ndarray  # [N, H, W, C], as stored: those that were scored
  splits: Mapping[str, np.ndarray]  # all images of every split of the models' own data
  seed: int = 0  # of the dequantisation
  own_data: bool = True  # whether the images are of the models' own data
  where: passes.Where = passes.HERE  # passes over images run there
  extractor: features.Extractor | None = None  # that images are compared in; None: random_conv
  measured: Mapping[str, image_measures.Measured] = MappingProxyType({})  # filled in by `make`


class Section(NamedTuple):
  """One part of an evaluation."""

  name: str  # in evaluation.json
  text: str  # Markdown, with its heading
  tree: Any  # for JSON
  arrays: Mapping[str, np.ndarray] = MappingProxyType({})  # for per_image.npz
  draw: Callable[[Path], Figures] | None = None  # directory -> the figures drawn there


def make(evaluated: Evaluated) -> list[Section]:
  """Every section that these models and data allow."""
  evaluated = _with_measures(evaluated)
  made = (maker(evaluated) for maker in MAKERS)
  return [section for section in made if section is not None]


def _with_measures(evaluated: Evaluated) -> Evaluated:
  """With what more than one section is made of."""
  models = [result.trained for result in evaluated.found]
  others = evaluated.splits['train' if evaluated.split != 'train' else 'validation']
  originals = image_measures.Originals(evaluated.images, others)
  measured = image_measures.of_models(
    models, originals, _extractor(evaluated), evaluated.seed, evaluated.where
  )
  return evaluated._replace(measured=measured)


def _extractor(evaluated: Evaluated) -> features.Extractor:
  return evaluated.extractor or features.random_conv(evaluated.found[0].trained.model.image)


def _bound_parts(evaluated: Evaluated) -> Section | None:
  found = [result for result in evaluated.found if bound_parts.applies(result)]
  if not found:
    return None
  tree, arrays = bound_parts.as_json(found), bound_parts.per_image(found)
  return Section('bound_parts', bound_parts.text(found), tree, arrays)


def _truth(evaluated: Evaluated) -> Section | None:
  if not evaluated.own_data or not all(
    result.trained.model.family.gaussian for result in evaluated.found
  ):
    return None
  models = [result.trained for result in evaluated.found]
  found = covariance_error.judge(models, evaluated.split, evaluated.images)
  if not found:
    return None
  return Section(
    'truth_known',
    covariance_error.text(found),
    covariance_error.as_json(found),
    covariance_error.per_image(found),
    lambda directory: truth_pictures.write(directory, models, evaluated.split, evaluated.images),
  )


def _image_quality(evaluated: Evaluated) -> Section | None:
  found = reconstruction_quality.of_measured(evaluated.measured)
  if not found:
    return None

  def draw(directory: Path) -> Figures:
    grid = quality_report.draw_grid(directory / 'grid.png', found)
    spectra = quality_report.draw_spectra(directory / 'spectra.png', found)
    return {'Reconstructions, and means of new images': grid, 'Log spectra': spectra}

  return Section(
    'image_quality',
    quality_report.text(found, _extractor(evaluated)),
    quality_report.as_json(found, _extractor(evaluated)),
    quality_report.per_image(found),
    draw,
  )


def _sample_quality(evaluated: Evaluated) -> Section | None:
  found = sample_quality.of_measured(evaluated.measured, _extractor(evaluated))
  if found is None:
    return None
  return Section('sample_quality', sample_quality.text(found), sample_quality.as_json(found))


def _recalibration(evaluated: Evaluated) -> Section | None:
  found = residuals.recalibrations(evaluated.found, evaluated.splits['validation'], evaluated.where)
  if not found:
    return None
  return Section('recalibration', recalibration.text(found), recalibration.as_json(found))


def _predictive_checks(evaluated: Evaluated) -> Section | None:
  found = residuals.checks(evaluated.found, evaluated.images, evaluated.seed, evaluated.where)
  return Section(
    'predicted_distributions',
    predictive_report.text(found),
    predictive_report.as_json(found),
    predictive_report.per_image(found),
    lambda directory: predictive_report.draw(directory, found),
  )


def _consistency(evaluated: Evaluated) -> Section | None:
  models = [result.trained for result in evaluated.found]
  found = consistency.of_models(models, evaluated.images, evaluated.seed, evaluated.where)
  if not found:
    return None
  arrays = consistency.per_image(found)
  return Section('consistency', consistency.text(found), consistency.as_json(found), arrays)


def _whiteness(evaluated: Evaluated) -> Section | None:
  models = [result.trained for result in evaluated.found]
  found = residuals.whitenesses(models, evaluated.images, evaluated.seed, evaluated.where)
  if not found:
    return None

  def draw(directory: Path) -> Figures:
    return {'Autocorrelation of residuals': whiteness.draw(directory / 'whiteness.png', found)}

  return Section('whiteness', whiteness.text(found), whiteness.as_json(found), draw=draw)


def _closed_form(evaluated: Evaluated) -> Section | None:
  fits = closed_form.of_results(
    evaluated.found, evaluated.images, evaluated.splits['train'], evaluated.seed
  )
  if not fits:
    return None

  def draw(directory: Path) -> Figures:
    title = 'Samples without a network, and of PCA'
    return {title: closed_form.draw(directory / 'without_network.png', fits[0])}

  return Section(
    'closed_form',
    closed_form.text(fits),
    closed_form.as_json(fits),
    closed_form.per_image(fits),
    draw,
  )


MAKERS: tuple[Callable[[Evaluated], Section | None], ...] = (
  _bound_parts,
  _truth,
  _image_quality,
  _sample_quality,
  _predictive_checks,
  _recalibration,
  _whiteness,
  _consistency,
  _closed_form,
)
