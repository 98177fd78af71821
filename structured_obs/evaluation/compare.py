"""Evaluates trained runs on the same images and compares them, in one table and one report."""

import dataclasses
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from structured_obs.data import prepare, sources
from structured_obs.data.prepare import DataSpec, Prepared
from structured_obs.devices import mesh
from structured_obs.evaluation import (
  explanation,
  passes,
  report,
  results,
  sections,
  tables,
  training_spread,
)
from structured_obs.evaluation import features as featuress
from structured_obs.evaluation.features import Extractor
from structured_obs.evaluation.metrics import feature_distances
from structured_obs.evaluation.results import Result
from structured_obs.evaluation.sections import base
from structured_obs.models import intermediate_images
from structured_obs.runs import restore
from structured_obs.runs.trained import Trained


class Request(NamedTuple):
  """What to evaluate, and how."""

  split: str = 'test'
  checkpoint: str = 'best'  # see `restore.restore`
  num_images: int = 0  # use only the first N images; 0 for all
  samples: int = 0  # of the importance-weighted bound; 0 for the first run's configuration
  seed: int = 0  # of the dequantisation and the latents
  # Network whose features compare images: a name of one of these forms, or an extractor of `of_user`.
  features: str | Extractor = featuress.DEFAULT
  pixel_noise: bool = True  # whether samples in figures have a family's floor of independent pixel noise
  sample_mode: str = 'sample'  # 'mode': new samples in distances are modes, of mixtures
  generated: int = 0  # new images of each model in distances; 0 for as many as are evaluated
  reference: str = ''  # split of the runs' data that distances are from; '' for the evaluated images
  data: str = ''  # source of images other than the runs' own, as data.source; '' for their own


DEFAULT = Request()
UNFINISHED = '.partial'  # in the directory of a report: work of an interrupted evaluation
ALL = 'all'  # the split of other data that are not split


class Compared(NamedTuple):
  """The result of an evaluation."""

  text: str  # the table, an explanation of its numbers, and the sections
  report: Path  # Markdown; figures, and scores as JSON and per image, are beside it


def evaluate(
  workdirs: Mapping[str, str | Path],
  directory: str | Path,
  request: Request = DEFAULT,
  say: Callable[[str], None] = lambda line: None,
) -> Compared:
  """Evaluates runs, with differences from the first one, and writes the report.

  An interrupted evaluation resumes where it stopped when called again, see `evaluation.resume`. On
  several hosts it restarts.

  Args:
    workdirs: of the runs, by their names in tables.
    directory: of the report.
    request: images and number of samples.
    say: callback for progress messages.

  Raises:
    FileNotFoundError: a run, a checkpoint or the data are missing.
    ValueError: the runs were trained on different data, other data do not suit them, or the network of
      features is unknown.
  """
  opened = [restore.load(path, request.checkpoint, name) for name, path in workdirs.items()]
  models, own = [trained for trained, _ in opened], opened[0][1]
  results.check_comparable(models[0], models[1:])
  shown = [
    one._replace(model=intermediate_images.by_pixel_noise(one.model, request.pixel_noise))
    for one in models
  ]
  data, split = own, request.split
  if request.data:
    data, split = other_data(models[0], request.data, split)
  _check_images(models, own, request)
  extractor = request.features
  if isinstance(extractor, str):
    extractor = featuress.find(extractor, models[0].model.image, own, say)
  images = data.images['train' if split == ALL else split][: request.num_images or None]
  source = f' of {data.spec.source}' if request.data else ''
  say(f'Evaluating {", ".join(workdirs)} on {len(images)} images of the {split} split{source}.')
  unfinished = Path(directory) / UNFINISHED
  if unfinished.is_dir():
    say(f'Resuming the interrupted evaluation in {unfinished}, as far as its work still applies.')
  where = passes.Where(mesh.make_mesh(), unfinished, say)
  found = _scored(models, images, request, where, own.images['train'])
  asked = {'where': where, 'extractor': extractor, **_asked(request)}
  further = sections.make(base.Evaluated(found, split, images, own.images, **asked))
  about: dict[str, Any] = {
    'data': data.spec.source,
    'split': split,
    'checkpoint': request.checkpoint,
    'seed': request.seed,
    'devices': f'{len(jax.devices())} x {jax.devices()[0].device_kind}',
    'command': command(workdirs, request),
  }
  written = report.write_evaluation(directory, found, images, about, further, shown)
  shutil.rmtree(unfinished, ignore_errors=True)
  parts = [results.comparison_table(found), training_spread.text(found), explanation.text(found)]
  return Compared(tables.paragraphs(*parts, *(section.text for section in further)), written)


def command(workdirs: Mapping[str, str | Path], request: Request) -> str:
  """Returns the command line of an evaluation, without what is the default."""
  first, *others = map(str, workdirs.values())
  words = ['python -m launch.evaluate', f'--workdir={first}']
  words += [f'--compare={",".join(others)}'] if others else []
  for field, value in request._asdict().items():
    if value == getattr(DEFAULT, field) or not isinstance(value, str | int):
      continue
    name = 'data_source' if field == 'data' else field
    words.append(f'--no{name}' if value is False else f'--{name}={value}')
  return shlex.join(words).replace("'python -m launch.evaluate'", words[0])


def _asked(request: Request) -> dict[str, Any]:
  """Returns the fields of `sections.base.Evaluated` that a request has."""
  fields = {name: getattr(request, name) for name in ('seed', 'generated', 'reference', 'sample_mode')}
  return {**fields, 'own_data': not request.data}


def _check_images(models: Sequence[Trained], own: Prepared, request: Request) -> None:
  """Raises a ValueError, naming the flag, if these models and data have not the images to compare."""
  least = feature_distances.NEIGHBOURS + 1
  if 0 < request.generated < least:
    raise ValueError(
      f'--generated={request.generated} is too few for a distance of features; it must be 0, for as '
      f'many as are evaluated, or at least {least}.'
    )
  if request.reference and len(own.images.get(request.reference, ())) < least:
    raise ValueError(
      f'--reference={request.reference} names a split of {len(own.images.get(request.reference, ()))} '
      f'images; a distance of features needs at least {least}. Name another split of {own.spec.source}.'
    )
  for trained in models:
    try:
      intermediate_images.by_mode(trained.model, request.sample_mode)
    except ValueError as error:
      raise ValueError(
        f'--sample_mode={request.sample_mode} does not suit {trained.workdir}: {error}'
      ) from error


def _scored(
  models: Sequence[Trained],
  images: np.ndarray,
  request: Request,
  where: passes.Where,
  training: np.ndarray,
) -> list[Result]:
  """Returns scores of all models, with the settings of the first one, and q of training images."""
  settings = results.settings_of(models[0].config, models[0].spec, request.samples)
  found = [
    results.evaluate(
      trained,
      images,
      settings._replace(dequantize=trained.config.objective.dequantize),
      where,
      request.seed,
    )
    for trained in models
  ]
  if request.data or request.split == 'train':
    return found
  return training_spread.with_training(found, training, where)


def other_data(trained: Trained, source: str, split: str) -> tuple[Prepared, str]:
  """Opens images that a model was not trained on, cropped to its size as its own data were.

  Args:
    trained: the model.
    source: as `data.source` of a configuration.
    split: of the images.

  Returns:
    The images, and their split: 'all', stored under 'train', if the source has no splits.

  Raises:
    FileNotFoundError, ImportError: as `prepare.prepare`.
    ValueError: the images differ from the model's in shape or gray levels, or lack this split.
  """
  config, spec = trained.config.data, trained.spec
  whole = sources.instead(config, source)
  whole = dataclasses.replace(whole, limit=0, validation_fraction=0.0, test_fraction=0.0)
  if spec.channels == 3:  # a folder of gray images only would otherwise stay gray
    whole = dataclasses.replace(whole, channels=3)
  found = prepare.prepare(whole)
  if _told(found.spec) != _told(spec):
    raise ValueError(
      f'--data_source={source} has images of {_told(found.spec)}, but {trained.workdir} was trained on '
      f'images of {_told(spec)}; use images of the same kind.'
    )
  known = [name for name, count in found.spec.counts.items() if count]
  if split not in known and known != ['train']:
    raise ValueError(
      f'--data_source={source} has no {split} images; use --split with one of {", ".join(known)}.'
    )
  return found, split if known != ['train'] else ALL


def _told(spec: DataSpec) -> str:
  size = ' x '.join(map(str, spec.stored))
  classes = f', with {len(spec.class_counts)} classes' if spec.class_counts else ''
  return f'{size} {f"pixels of {spec.levels} levels" if spec.levels else "real numbers"}{classes}'
