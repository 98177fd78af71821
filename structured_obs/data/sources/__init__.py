"""Where images come from: `data.source` by name, with nothing read before it is asked for.

`find(config)` looks a source up (a folder is listed, no image is opened) and identifies it;
`Source.open` then gives random access to its images. To add a source: a function DataConfig,
argument -> Source, and one line in SOURCES.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode

# uint8 [H, W, C], C 1 or 3, or float32 [H, W, C + condition]; and a label, where there are labels.
Example = tuple[np.ndarray, int | None]


class Records(NamedTuple):
  """Random access to N images."""
  size: int  # N
  load: Callable[[int], Example]
  describe: Callable[[int], str]  # index -> what an error calls the image
  version: str  # of what the images are read from
  levels: int = 256  # pixels are 0 .. levels - 1; 0 for real numbers
  splits: np.ndarray | None = None  # [N] index into splits.SPLITS, where the source has splits
  threads: int = 1  # how many threads may call `load` at once with profit
  condition: int = 0  # channels behind an image's own that a model is given, such as a known mean
  groups: np.ndarray | None = None  # [N] 0, 1, ...: images that no split may divide, as of a subject
  # Sentences on what the source noticed, asked for once after the last `load`: what a user would want to
  # know of these images, such as files that were passed over.
  notes: Callable[[], list[str]] = list
  class_names: tuple[str, ...] = ()  # of label 0, 1, ..., where the classes have names


class Source(NamedTuple):
  """A source that has been found, but not read."""
  name: str  # as in the configuration, paths made absolute
  identity: str  # changes when the images do: a digest of names, sizes and times
  open: Callable[[], Records]


def digest(content: Any) -> str:
  """Returns the SHA-256, in hexadecimal, of anything JSON can hold."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stamp(path: str) -> tuple[int, int]:
  """Returns the size in bytes and the modification time in ns of a file, to notice changes.

  Of a file that cannot be looked at, such as a link that leads nowhere, both are 0: reading it says why.
  """
  try:
    status = os.stat(path)
  except OSError:
    return 0, 0
  return status.st_size, status.st_mtime_ns


def version(package: str, extra: str = 'data') -> str:
  """Returns the installed version of a distribution, such as 'scikit-learn 1.5.0'."""
  try:
    return f'{package} {metadata.version(package)}'
  except metadata.PackageNotFoundError as error:
    raise decode.missing(package, extra) from error


def _digits(config: DataConfig, argument: str) -> Source:
  """scikit-learn's 1,797 handwritten digits, 8 x 8, gray, 17 levels; with labels."""
  del config, argument
  return Source('digits', 'scikit-learn load_digits', _open_digits)


def _open_digits() -> Records:
  release = version('scikit-learn')
  from sklearn import datasets
  bunch: Any = datasets.load_digits()
  images = bunch.images.astype(np.uint8)[..., None]
  return Records(len(images), lambda i: (images[i], int(bunch.target[i])), lambda i: f'digit {i}',
                 release, levels=17)


def _photos(config: DataConfig, argument: str) -> Source:
  from structured_obs.data import photos
  del argument
  return photos.find(config)


def _folder(config: DataConfig, argument: str) -> Source:
  from structured_obs.data import folder
  return folder.find(config, argument)


def _npz(config: DataConfig, argument: str) -> Source:
  from structured_obs.data import npz
  del config
  return npz.find(argument)


def _nifti(config: DataConfig, argument: str) -> Source:
  from structured_obs.data import nifti
  return nifti.find(config, argument)


def _tfds(config: DataConfig, argument: str) -> Source:
  from structured_obs.data import tfds_source
  return tfds_source.find(config, argument)


def _synthetic(config: DataConfig, argument: str) -> Source:
  from structured_obs.data import synthetic
  del argument
  return synthetic.find(config.source)


SOURCES: dict[str, Callable[[DataConfig, str], Source]] = {
    'digits': _digits, 'photos': _photos, 'folder': _folder, 'npz': _npz, 'nifti': _nifti,
    'tfds': _tfds, 'splines': _synthetic, 'ellipses': _synthetic}
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
    raise ValueError(f'--config.data.source is {config.source!r}, which is none of '
                     f'{", ".join(spelled.values())}; did you mean {near!r}?')
  if bool(argument) != (kind in _ARGUMENTS) or (colon and not argument):
    raise ValueError(f'--config.data.source is {config.source!r}, but must have the form '
                     f'{spelled[kind]!r}.')
  return SOURCES[kind](config, argument)
