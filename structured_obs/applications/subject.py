"""Finds the predicted distribution p(x|z) to work on, and reads image files as a model sees them.

A subject is written `test:INDEX`, the reconstruction of an image of the test split; `prior:SEED`, a
latent drawn from the prior, or `prior:SEED:CLASS` of this class in a label-conditional model; or the
path of an image file to reconstruct.

Letters: N images; H W C image height, width, channels.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.data import decode, pixels
from structured_obs.data.prepare import Prepared
from structured_obs.evaluation.figures import views
from structured_obs.models.base import classes_of
from structured_obs.runs.trained import Trained

Array = jax.Array

FORMS = 'test:INDEX, prior:SEED, prior:SEED:CLASS or the path of an image file'
_FILE_LEVELS = 256


class Wanted(NamedTuple):
  """A parsed subject."""

  kind: str  # 'test', 'prior' or 'file'
  number: int = 0  # index or seed
  path: str = ''  # of the file
  label: int | None = None  # class of a new image; None lets the model choose


class Subject(NamedTuple):
  """One predicted distribution."""

  name: str  # in titles and file names: 'test_3', 'prior_0', 'prior_0_class_7', the file's name
  params: Any  # of one image
  image: np.ndarray | None  # [H, W, C]  in [-1, 1], the encoded image; None for the prior
  given: Array | None = None  # [H, W, ...]  what was encoded: the image and what comes with it


def parse(text: str) -> Wanted:
  """Parses a subject.

  Raises:
    ValueError: it has none of the `FORMS`.
    FileNotFoundError: it is taken for a path, and there is no such file.
  """
  known = re.fullmatch(r'test:(\d+)|prior:(\d+)(?::(\d+))?', text.strip(), re.ASCII)
  if known and known[1]:
    return Wanted('test', int(known[1]))
  if known:
    return Wanted('prior', int(known[2]), label=int(known[3]) if known[3] else None)
  if text.startswith(('test:', 'prior:')):
    raise ValueError(
      f'--subject={text} is invalid; it must be {FORMS}, with whole numbers from 0 as index, seed and '
      'class.'
    )
  if not Path(text).is_file():
    raise FileNotFoundError(f'--subject={text}: there is no such file; the subject must be {FORMS}.')
  return Wanted('file', path=text)


def find(trained: Trained, prepared: Prepared, wanted: Wanted) -> Subject:
  """Returns the predicted distribution of a subject.

  Args:
    trained: the model.
    prepared: its data.
    wanted: the parsed subject.

  Raises:
    ValueError: there is no such test image, the model has no prior, or it needs more than an image to
      predict a distribution.
  """
  if wanted.kind == 'prior':
    return _new(trained, wanted.number, wanted.label)
  if wanted.kind == 'file':
    return of_file(trained, Path(wanted.path).stem, decode.decode(wanted.path, wanted.path))
  split = prepared.images['test']
  if wanted.number >= len(split):
    raise ValueError(
      f'There is no test image {wanted.number}; the split has {len(split)}, counted from 0.'
    )
  name, levels = f'test_{wanted.number}', trained.spec.levels
  stored = np.asarray(split[wanted.number : wanted.number + 1])
  return of_stored(trained, name, stored, levels)


def of_file(trained: Trained, name: str, image: np.ndarray) -> Subject:
  """Returns the predicted distribution of an image of a file, cropped and resized as the model's data.

  Args:
    trained: the model.
    name: of the image.
    image: uint8 [h, w, 1 or 3], of any size.

  Raises:
    ValueError: the model needs more than an image to predict a distribution.
  """
  if trained.spec.condition or trained.spec.masked:
    raise ValueError(
      f'The model of {trained.workdir} is given more than an image, which {name} does not '
      'contain; use --subject=test:INDEX.'
    )
  return of_stored(trained, name, decode.fit(image, target(trained))[None], _FILE_LEVELS)


def of_stored(trained: Trained, name: str, stored: np.ndarray, levels: int) -> Subject:
  """Returns the predicted distribution of an image as it is stored, [1, H, W, ...] of gray levels.

  Args:
    trained: the model.
    name: of the subject.
    stored: uint8, with all that the model is given.
    levels: number of gray levels; 0 for real numbers.
  """
  x = pixels.to_unit(stored, levels)
  return Subject(name, _first(trained.reconstruct(x)), views.observed(trained.model, x)[0], x[0])


def images_at(trained: Trained, prepared: Prepared, indices: Sequence[str]) -> jax.Array:
  """Returns images of the test split by their indices as text, [N, H, W, C] as the model sees them.

  Args:
    trained: the model.
    prepared: its data.
    indices: as typed.

  Raises:
    ValueError: an index is not a number, or there is no such image.
  """
  split = prepared.images['test']
  for text in indices:
    if not text.strip().isdecimal() or int(text) >= len(split):
      raise ValueError(f'There is no test image {text!r}; the split has {len(split)}, counted from 0.')
  stored = np.stack([np.asarray(split[int(text)]) for text in indices])
  return pixels.to_unit(stored, trained.spec.levels)


def read_files(trained: Trained, paths: Sequence[str]) -> np.ndarray:
  """Reads image files, cropped and resized as the model's data. [N, H, W, C] uint8."""
  to = target(trained)
  return np.stack([decode.fit(decode.decode(path, path), to) for path in paths])


def target(trained: Trained) -> decode.Target:
  """Returns how images are cropped and resized to the model's size."""
  config, spec = trained.config.data, trained.spec
  return decode.Target(spec.height, spec.width, spec.channels, config.crop, config.resample)


def _new(trained: Trained, seed: int, label: int | None) -> Subject:
  """Returns the distribution at a latent of the prior."""
  if not trained.model.traits.has_prior:
    raise ValueError(
      f'The model of {trained.workdir} has no prior of latents, so prior:{seed} is invalid; use '
      '--subject=test:INDEX.'
    )
  count = classes_of(trained.model)
  if label is not None and label >= count:
    has = f'classes 0 to {count - 1}' if count else 'no classes'
    raise ValueError(
      f'--subject=prior:{seed}:{label} is invalid: the model of {trained.workdir} has {has}.'
    )
  labels = None if label is None else jnp.full(1, label, jnp.int32)
  key = jax.random.fold_in(jax.random.key(seed), 0)
  params = trained.generate(key[None], labels)
  name = f'prior_{seed}' if label is None else f'prior_{seed}_class_{label}'
  return Subject(name, _first(params), None)


def _first(params: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf[0], params)
