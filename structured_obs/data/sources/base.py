"""The interface of a source of images: random access, and an identity that changes with the images."""

import hashlib
import json
import os
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode
from structured_obs.option_records import Record

# uint8 [H, W, C], C 1 or 3, or float32 [H, W, C + condition]; and a label, if there are labels.
Example = tuple[np.ndarray, int | None]


class Records(NamedTuple):
  """Random access to N images."""

  size: int  # N
  load: Callable[[int], Example]
  describe: Callable[[int], str]  # index -> name of the image in messages
  version: str  # of what the images are read from
  levels: int = 256  # pixels are 0 .. levels - 1; 0 for real numbers
  splits: np.ndarray | None = None  # [N] index into splits.SPLITS, if the source has splits
  threads: int = 1  # number of threads that speed up `load`
  condition: int = 0  # channels behind an image's own that a model is given, such as a known mean
  groups: np.ndarray | None = None  # [N] 0, 1, ...: images that stay in one split, such as a subject's
  # Sentences about the images that a user should know, such as skipped files; called once, after the
  # last `load`.
  notes: Callable[[], list[str]] = list
  class_names: tuple[str, ...] = ()  # of label 0, 1, ..., if the classes have names
  # Index -> which pixels count, bool [H, W], with a `data.mask` that the source has.
  mask: Callable[[int], np.ndarray] | None = None


class Source(NamedTuple):
  """A source that was found, but not read."""

  name: str  # as in the configuration, paths made absolute
  identity: str  # changes when the images do: a digest of names, sizes and times
  open: Callable[[], Records]


class Kind(NamedTuple):
  """One kind of source, as named in --config.data.source."""

  find: Callable[[DataConfig, str], Source]  # (resolved section `data`, argument) -> what is found
  options: Record = None  # of --config.data.options
  argument: str = ''  # what follows its name and a colon, such as 'PATH'


class Files(NamedTuple):
  """Options of a source whose images are decoded from files."""

  skip_corrupt: bool = False  # leave unreadable images out and count them, instead of an error


def digest(content: Any) -> str:
  """Returns the SHA-256, in hexadecimal, of anything JSON can express."""
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def stamp(path: str) -> tuple[int, int]:
  """Returns a file's size in bytes and modification time in ns, to detect changes.

  Both are 0 for a file that cannot be inspected, such as a broken link: reading it reports why.
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
