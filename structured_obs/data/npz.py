"""`npz:PATH`: images that are already arrays, in one .npz file.

The file holds either one array of images ('image', 'images' or 'x', or the only array there is), or
one by split ('train', 'x_train', 'train_images', ...). Arrays are [N, H, W] or [N, H, W, C], C 1 or
3, uint8; other numbers are taken only where they are whole and between 0 and 255. Labels are read
from 'label', 'labels', 'y', 'y_train', 'train_labels', ... where present.
"""

import functools
import os
import zipfile

import numpy as np

from structured_obs.data import sources
from structured_obs.data.splits import SPLITS

_ALIASES = {'train': ('train',), 'validation': ('validation', 'valid', 'val'), 'test': ('test',)}
_ANY = ('image', 'images', 'x')


def find(path: str) -> sources.Source:
  """Finds an .npz file, without reading its arrays.

  Raises:
    FileNotFoundError: where there is no such file.
    ValueError: where it is no .npz file, or holds no array of images.
  """
  path = os.path.abspath(os.path.expanduser(path))
  if not os.path.isfile(path):
    raise FileNotFoundError(f'--config.data.source names the file {path}, which does not exist.')
  if not zipfile.is_zipfile(path):
    raise ValueError(f'--config.data.source names {path}, which is not an .npz file or is damaged; '
                     'numpy.savez_compressed writes one.')
  with np.load(path) as file:
    images = _images(path, file.files)
    labels = [_label_name(file.files, name) for name in images.values()]
  return sources.Source(f'npz:{path}', sources.digest((path, sources.stamp(path))),
                        lambda: _open(path, images, labels))


def _images(path: str, keys: list[str]) -> dict[str, str]:
  """Finds which array holds which split: {split, or '' for undivided images: key}."""
  found = {split: key for split in SPLITS for alias in _ALIASES[split] for key in keys
           if key in (alias, f'x_{alias}', f'{alias}_x', f'{alias}_images', f'{alias}_image')}
  if 'train' in found:
    return found
  undivided = [key for key in _ANY if key in keys] or (keys if len(keys) == 1 else [])
  if not undivided or found:
    raise ValueError(f"{path} holds the arrays {', '.join(keys)}; it must hold 'image', or 'train' "
                     "with 'test' and 'validation' where they exist.")
  return {'': undivided[0]}


def _label_name(keys: list[str], images: str) -> str | None:
  """Finds the key of the labels that belong to an array of images."""
  for alias in (alias for aliases in _ALIASES.values() for alias in aliases):
    if alias in images.split('_'):
      names = [f'y_{alias}', f'{alias}_y', f'{alias}_labels', f'{alias}_label']
      return next((key for key in names if key in keys), None)
  return next((key for key in ('label', 'labels', 'y') if key in keys), None)


def _open(path: str, images: dict[str, str], label_keys: list[str | None]) -> sources.Records:
  """Gives random access to the images; one array is in memory at a time."""
  # Images of one split follow each other, so the array in hand is nearly always the one asked for.
  read = functools.lru_cache(maxsize=1)(functools.partial(_read, path))
  lengths = [len(read(key)) for key in images.values()]
  starts = np.cumsum([0, *lengths])
  keys = list(images.values())

  def locate(index: int) -> tuple[str, int]:
    part = int(np.searchsorted(starts, index, 'right')) - 1
    return keys[part], index - int(starts[part])

  def load(index: int) -> sources.Example:
    key, row = locate(index)
    return read(key)[row], None if labels is None else int(labels[index])

  labels = _labels(path, label_keys, lengths)
  divided = '' not in images
  splits = np.repeat([SPLITS.index(name) for name in images], lengths) if divided else None
  return sources.Records(int(starts[-1]), load, lambda i: '{}[{}]'.format(*locate(i)), 'npz',
                         splits=splits)


def _labels(path: str, keys: list[str | None], lengths: list[int]) -> np.ndarray | None:
  """Reads the labels of all images, [N] int32, or None where some are missing."""
  with np.load(path) as file:
    parts = [file[key].reshape(-1) for key in keys if key is not None]
  if [len(part) for part in parts] != lengths or not all(part.dtype.kind in 'iu' for part in parts):
    return None
  return np.concatenate(parts).astype(np.int32)


def _read(path: str, key: str) -> np.ndarray:
  """Reads and checks one array of images, uint8 [N, H, W, C].

  Raises:
    ValueError: naming the array, what is wrong with it and what would be right.
  """
  with np.load(path, allow_pickle=False) as file:
    try:
      array = file[key]
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
      raise ValueError(f'Array {key!r} of {path} cannot be read: {error}') from error
  label = f'Array {key!r} of {path}, {array.dtype} of shape {array.shape},'
  if array.ndim == 3:
    array = array[..., None]
  if array.ndim != 4 or array.shape[-1] not in (1, 3) or array.size == 0:
    raise ValueError(f'{label} must have the shape [N, H, W] or [N, H, W, C] with C 1 or 3, '
                     'channels last, and at least one pixel.')
  if array.dtype.kind not in 'iuf':
    raise ValueError(f'{label} must hold numbers: uint8, 0 to 255.')
  return array if array.dtype == np.uint8 else _whole(array, label)


def _whole(array: np.ndarray, label: str) -> np.ndarray:
  """Converts an array of another type to uint8 where that changes no value."""
  bad = np.argwhere(~np.isfinite(array))
  if len(bad):
    raise ValueError(f'{label} holds NaN or infinity, first in image {bad[0][0]}; repair or remove '
                     'it.')
  low, high = array.min(), array.max()
  if array.dtype.kind == 'f' and high <= 1:
    raise ValueError(f'{label} lies in [{low:g}, {high:g}], but must be uint8, 0 to 255: multiply '
                     'by 255 and round, if 1 is white.')
  if low < 0 or high > 255 or np.any(array != np.round(array)):
    raise ValueError(f'{label} holds values from {low:g} to {high:g} that are not all whole '
                     'numbers from 0 to 255: convert it to uint8.')
  return array.astype(np.uint8)
