"""Where images come from: `data.source` by name, with nothing read before it is asked for.

`find(config)` looks a source up (a folder is listed, no image is opened) and identifies it;
`Source.open` then gives random access to its images. To add a source: a function DataConfig,
argument -> Source, and one line in SOURCES.
"""

import difflib
from collections.abc import Callable

from structured_obs.config import DataConfig
from structured_obs.data.sources.base import Source


def _digits(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import digits

  del config, argument
  return digits.find()


def _photos(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import photos

  del argument
  return photos.find(config)


def _folder(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import folder

  return folder.find(config, argument)


def _npz(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import npz

  del config
  return npz.find(argument)


def _nifti(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import nifti

  return nifti.find(config, argument)


def _tfds(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import tfds

  return tfds.find(config, argument)


def _synthetic(config: DataConfig, argument: str) -> Source:
  from structured_obs.data.sources import synthetic

  del argument
  return synthetic.find(config.source)


SOURCES: dict[str, Callable[[DataConfig, str], Source]] = {
  'digits': _digits,
  'photos': _photos,
  'folder': _folder,
  'npz': _npz,
  'nifti': _nifti,
  'tfds': _tfds,
  'splines': _synthetic,
  'ellipses': _synthetic,
}
_ARGUMENTS = {'folder': 'PATH', 'npz': 'PATH', 'nifti': 'PATH', 'tfds': 'NAME'}


def find(config: DataConfig) -> Source:
  """Finds the source that `config.source` names.

  Raises:
    ValueError: for an unknown name (the nearest one is suggested), or a missing or needless
      argument.
    FileNotFoundError: where there is nothing at a path, saying what to put there.
  """
  kind, colon, argument = config.source.partition(':')
  spelled = {name: f'{name}:{_ARGUMENTS[name]}' if name in _ARGUMENTS else name for name in SOURCES}
  if kind not in SOURCES:
    near = spelled[difflib.get_close_matches(kind, SOURCES, 1, 0)[0]]
    raise ValueError(
      f'--config.data.source is {config.source!r}, which is none of '
      f'{", ".join(spelled.values())}; did you mean {near!r}?'
    )
  if bool(argument) != (kind in _ARGUMENTS) or (colon and not argument):
    raise ValueError(
      f'--config.data.source is {config.source!r}, but must have the form {spelled[kind]!r}.'
    )
  return SOURCES[kind](config, argument)
