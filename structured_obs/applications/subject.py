"""Which predicted distribution p(x|z) to work on, and images from files as a model sees them.

A subject is written `test:INDEX`, the reconstruction of an image of the test split; `prior:SEED`, of a
latent drawn from the prior, with `prior:SEED:CLASS` of this class in a label-conditional model; or the
path of an image file, which is reconstructed.

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

FORMS = 'test:INDEX, prior:SEED, prior:SEED:CLASS or the path of an image file'
_FILE_LEVELS = 256


class Wanted(NamedTuple):
  """A subject as it was asked for."""

  kind: str  # 'test', 'prior' or 'file'
  number: int = 0  # index or seed
  path: str = ''  # of the file
  label: int | None = None  # class of a new image; None leaves it to the model


class Subject(NamedTuple):
  """One predicted distribution."""

  name: str  # for people and for files: 'test_3', 'prior_0', 'prior_0_class_7', the file's name
  params: Any  # of one image
  image: np.ndarray | None  # [H, W, C]  in [-1, 1], what was encoded; None for the prior


def parse(text: str) -> Wanted:
  """What a subject's name asks for.

  Raises:
    ValueError: it is none of `FORMS`.
    FileNotFoundError: it is taken for a path, and there is no such file.
  """
  known = re.fullmatch(r'test:(\d+)|prior:(\d+)(?::(\d+))?', text.strip(), re.ASCII)
  if known and known[1]:
    return Wanted('test', int(known[1]))
  if known:
    return Wanted('prior', int(known[2]), label=int(known[3]) if known[3] else None)
  if text.startswith(('test:', 'prior:')):
    raise ValueError(
      f'The subject must be {FORMS}, with whole numbers from 0 as index, seed and class; got {text!r}.'
    )
  if not Path(text).is_file():
    raise FileNotFoundError(f'The subject must be {FORMS}; there is no file {text!r}.')
  return Wanted('file', path=text)


def find(trained: Trained, prepared: Prepared, wanted: Wanted) -> Subject:
  """The distribution that was asked for.

  Raises:
    ValueError: there is no such test image, the model has no prior, or it needs more than an image
      to predict a distribution.
  """
  if wanted.kind == 'prior':
    return _new(trained, wanted.number, wanted.label)
  if wanted.kind == 'test':
    split = prepared.images['test']
    if wanted.number >= len(split):
      raise ValueError(
        f'There is no test image {wanted.number}; there are {len(split)}, counted from 0.'
      )
    name, levels = f'test_{wanted.number}', trained.spec.levels
    stored = np.asarray(split[wanted.number : wanted.number + 1])
  else:
    if trained.spec.condition:
      raise ValueError(
        f'{trained.workdir} is of a model that is given more than an image, which {wanted.path} does '
        'not hold; use test:INDEX.'
      )
    name, levels = Path(wanted.path).stem, _FILE_LEVELS
    stored = read_files(trained, [wanted.path])
  x = pixels.to_unit(stored, levels)
  return Subject(name, _first(trained.reconstruct(x)), views.observed(trained.model, x)[0])


def images_at(trained: Trained, prepared: Prepared, indices: Sequence[str]) -> jax.Array:
  """Images of the test split by their indices as text, [N, H, W, C] as the model sees them.

  Raises:
    ValueError: an index is no number, or there is no such image.
  """
  split = prepared.images['test']
  for text in indices:
    if not text.strip().isdecimal() or int(text) >= len(split):
      raise ValueError(f'There is no test image {text!r}; there are {len(split)}, counted from 0.')
  stored = np.stack([np.asarray(split[int(text)]) for text in indices])
  return pixels.to_unit(stored, trained.spec.levels)


def read_files(trained: Trained, paths: Sequence[str]) -> np.ndarray:
  """Image files, cut and resized to the model's images as its data were. [N, H, W, C] uint8."""
  to = target(trained)
  return np.stack([decode.fit(decode.decode(path, path), to) for path in paths])


def target(trained: Trained) -> decode.Target:
  """How an image becomes one of the model's size."""
  config, spec = trained.config.data, trained.spec
  return decode.Target(spec.height, spec.width, spec.channels, config.crop, config.resample)


def _new(trained: Trained, seed: int, label: int | None) -> Subject:
  """The distribution at a latent of the prior."""
  if not trained.model.traits.has_prior:
    raise ValueError(
      f'{trained.workdir} is of a model without a prior of latents, so prior:{seed} has no meaning; use '
      'test:INDEX.'
    )
  count = classes_of(trained.model)
  if label is not None and label >= count:
    has = f'classes 0 to {count - 1}' if count else 'no classes'
    raise ValueError(f'The model of {trained.workdir} has {has}; prior:{seed}:{label} asks for {label}.')
  labels = None if label is None else jnp.full(1, label, jnp.int32)
  key = jax.random.fold_in(jax.random.key(seed), 0)
  params = trained.generate(key[None], labels)
  name = f'prior_{seed}' if label is None else f'prior_{seed}_class_{label}'
  return Subject(name, _first(params), None)


def _first(params: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf[0], params)
