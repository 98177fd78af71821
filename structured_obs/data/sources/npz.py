"""`npz:PATH`: images that are already arrays, in one .npz file.

The file has either one array of images ('image', 'images' or 'x', or the only array besides the
labels), or one per split ('train', 'x_train', 'train_images', 'X_test', 'x_val', ...). Arrays are [N,
H, W] or [N, H, W, C], C 1 or 3, uint8; other numbers must be whole and from 0 to 255. Labels are whole
numbers, read from 'label', 'labels', 'y', 'y_train', 'train_labels', ... if present. Names are compared
without case and signs such as '_'.
"""

import functools
import os
import re
import zipfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode, headers
from structured_obs.data.sources import base
from structured_obs.data.splits import SPLITS

_ALIASES = {
  'train': ('train', 'training'),
  'validation': ('validation', 'valid', 'val', 'dev'),
  'test': ('test', 'testing'),
}
_IMAGES = ('x', 'image', 'images', 'img', 'imgs', '')  # '': the name of a split suffices
_LABELS = ('y', 'label', 'labels')
_AGAIN = 'Write the file again, such as by numpy.savez_compressed.'
_SMALLEST, _LARGEST = np.iinfo(np.int32).min, np.iinfo(np.int32).max  # of labels


class _Layout(NamedTuple):
  """The arrays of a file by their role, by split, or by '' if the images have no splits."""

  members: dict[str, zipfile.ZipInfo]  # of all arrays, by their names
  images: dict[str, str]
  labels: dict[str, str]


def find(config: DataConfig, path: str) -> base.Source:
  """Finds an .npz file, without reading its arrays.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not an .npz file, or its names do not identify the images.
  """
  del config
  path = os.path.abspath(os.path.expanduser(path))
  shown = decode.printable(path)
  if not os.path.isfile(path):
    wrong = 'is no file' if os.path.exists(path) else 'does not exist'
    raise FileNotFoundError(f'--config.data.source=npz:{shown} {wrong}.')
  if not zipfile.is_zipfile(path):
    raise ValueError(f'--config.data.source=npz:{shown} is not an .npz file or is damaged. {_AGAIN}')
  layout = _layout(shown, _members(path))
  identity = base.digest([path, base.stamp(path), layout.images, layout.labels])
  return base.Source(f'npz:{shown}', identity, lambda: _open(path, layout))


def _members(path: str) -> dict[str, zipfile.ZipInfo]:
  """Lists the arrays of a file by name."""
  found: dict[str, zipfile.ZipInfo] = {}
  with decode.reading(path, 'opened', _AGAIN), zipfile.ZipFile(path) as archive:
    for member in archive.infolist():
      key = member.filename.removesuffix('.npy')
      if key in found:
        raise ValueError(f'it has two arrays named {key!r}')
      if key != member.filename:
        found[key] = member
  return found


def _layout(shown: str, members: dict[str, zipfile.ZipInfo]) -> _Layout:
  """Finds the images and the labels of a file by the names of its arrays.

  Raises:
    ValueError: there are no images, or two arrays for the same ones.
  """
  images, labels = _by_split(members, _IMAGES), _by_split(members, _LABELS)
  if not images:  # then the only array that is not labels, whatever its name
    rest = set(members).difference(*labels.values())
    images = {'': list(rest)} if len(rest) == 1 else {}
  if 'train' in images:
    images.pop('', None)
  elif list(images) != ['']:
    held = f'the arrays {", ".join(members)}' if members else 'no arrays'
    raise ValueError(
      f"{shown} has {held}; it must have 'image', or 'train' and optionally 'test' and 'validation'."
    )
  labels = {split: keys for split, keys in labels.items() if split in images}
  for keys in (*images.values(), *labels.values()):
    if len(keys) > 1:
      raise ValueError(
        f'{shown} has the arrays {", ".join(keys)}, whose names mean the same: '
        'rename all but one of them.'
      )
  return _Layout(
    members,
    {split: key for split, (key,) in images.items()},
    {split: key for split, (key,) in labels.items()},
  )


def _by_split(keys: Iterable[str], words: tuple[str, ...]) -> dict[str, list[str]]:
  """Finds the arrays whose names have one of these words before or after the name of a split.

  Returns:
    {split, or '' if the name has none: names of arrays}, in the order of the splits.
  """
  found: dict[str, list[str]] = {}
  for split, aliases in (*_ALIASES.items(), ('', ('',))):
    names = {name for alias in aliases for word in words for name in (word + alias, alias + word)}
    fitting = [key for key in keys if re.sub('[^a-z0-9]', '', key.lower()) in names - {''}]
    if fitting:
      found[split] = fitting
  return found


def _open(path: str, layout: _Layout) -> base.Records:
  """Returns random access to the images; one array is in memory at a time."""
  # Images of one split follow each other, so the cached array is nearly always the right one.
  read = functools.lru_cache(maxsize=1)(lambda key: _images(path, key, layout.members[key]))
  keys = list(layout.images.values())
  lengths = [len(read(key)) for key in keys]
  starts = np.cumsum([0, *lengths])
  labels = [
    None
    if split not in layout.labels
    else _labels(path, layout.labels[split], layout.members[layout.labels[split]], length)
    for split, length in zip(layout.images, lengths, strict=True)
  ]

  def locate(index: int) -> tuple[int, int]:
    part = int(np.searchsorted(starts, index, 'right')) - 1
    return part, index - int(starts[part])

  def load(index: int) -> base.Example:
    part, row = locate(index)
    known = labels[part]
    return read(keys[part])[row], None if known is None else int(known[row])

  def describe(index: int) -> str:
    part, row = locate(index)
    return f'{keys[part]}[{row}]'

  splits = np.repeat([SPLITS.index(name) for name in layout.images if name], lengths)
  return base.Records(
    int(starts[-1]),
    load,
    describe,
    'npz',
    splits=splits if len(splits) else None,
    notes=lambda: _notes(decode.printable(path), layout),
  )


def _notes(shown: str, layout: _Layout) -> list[str]:
  """Returns sentences about arrays that are not used, if there are any."""
  used = {*layout.images.values(), *layout.labels.values()}
  unused = [key for key in layout.members if key not in used]
  notes = [f'{shown} has arrays that are not used: {", ".join(unused)}.'] if unused else []
  if layout.labels and layout.labels.keys() != layout.images.keys():
    lacking = [key for split, key in layout.images.items() if split not in layout.labels]
    notes.append(f'{shown} has labels, but none for {", ".join(lacking)}; so none are kept.')
  return notes


def _array(path: str, key: str, member: zipfile.ZipInfo) -> np.ndarray:
  """Reads one array, after checking its header.

  Raises:
    UnreadableImage: it is damaged, or has Python objects; the message names it.
  """
  with decode.reading(f'Array {key!r} of {path}', advice=_AGAIN), zipfile.ZipFile(path) as archive:
    with archive.open(member) as file:
      first = np.lib.format.read_magic(file) == (1, 0)
      header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
      shape, _, dtype = header(file)
      if dtype.hasobject:
        raise ValueError('it has Python objects, which may run any code, instead of numbers')
      headers.compare(headers.size(shape, dtype), member.file_size - file.tell())
    with archive.open(member) as file:
      return np.lib.format.read_array(file, allow_pickle=False)


def _label(path: str, key: str, array: np.ndarray) -> str:
  """Returns the subject of a message's sentence."""
  return decode.printable(f'Array {key!r} of {path}, {array.dtype} of shape {array.shape},')


def _labels(path: str, key: str, member: zipfile.ZipInfo, number: int) -> np.ndarray:
  """Reads and checks the labels of `number` images, whole numbers [N] of at most 32 bits.

  Raises:
    ValueError: naming the array, the problem and the fix.
  """
  array = _array(path, key, member)
  label = _label(path, key, array)
  aside = 'or rename it, so that it is not used'
  if array.size != number:
    hot = '; numpy.argmax(..., 1) makes them of one-hot rows' if array.shape[:1] == (number,) else ''
    raise ValueError(
      f'{label} must have one label for each of {number} images{hot}. Correct it, {aside}.'
    )
  if array.dtype.kind not in 'biuf':
    raise ValueError(
      f'{label} must have whole numbers as labels; numpy.unique(..., '
      f'return_inverse=True) makes them from names. Convert it, {aside}.'
    )
  array = array.reshape(-1)
  if array.dtype.kind == 'f':  # the bounds do not fit narrower types
    array = array.astype(np.promote_types(array.dtype, np.float64))
  bad = np.flatnonzero(~((array >= _SMALLEST) & (array <= _LARGEST) & (array == np.floor(array))))
  if len(bad):
    raise ValueError(
      f'{label} must have labels of at most 32 bits, whole numbers, but label '
      f'{bad[0]} is {array[bad[0]]}. Number the classes 0, 1, ..., {aside}.'
    )
  return array


def _images(path: str, key: str, member: zipfile.ZipInfo) -> np.ndarray:
  """Reads and checks one array of images, uint8 [N, H, W, C].

  Raises:
    ValueError: naming the array, the problem and the fix.
  """
  array = _array(path, key, member)
  label = _label(path, key, array)
  if array.ndim == 3:
    array = array[..., None]
  if array.ndim != 4 or array.shape[-1] not in (1, 3) or array.size == 0:
    raise ValueError(
      f'{label} must have the shape [N, H, W] or [N, H, W, C] with C 1 or 3, '
      'channels last, and at least one pixel.'
    )
  if array.dtype.kind not in 'iuf':
    white = ': multiply by 255, if True is white' if array.dtype.kind == 'b' else ''
    raise ValueError(f'{label} must have numbers: uint8, 0 to 255{white}.')
  return array if array.dtype == np.uint8 else _whole(array, label)


def _whole(array: np.ndarray, label: str) -> np.ndarray:
  """Converts an array of another type to uint8 if that changes no value."""
  bad = np.argwhere(~np.isfinite(array))
  if len(bad):
    raise ValueError(f'{label} has NaN or infinity, first in image {bad[0][0]}; repair or remove it.')
  low, high = array.min(), array.max()
  if array.dtype.kind == 'f' and low >= -1 and high <= 1:
    how = (
      'multiply by 255 and round, if 1 is white'
      if low >= 0
      else ('add 1, multiply by 127.5 and round, if -1 is black and 1 is white')
    )
    raise ValueError(f'{label} lies in [{low:g}, {high:g}], but must be uint8, 0 to 255: {how}.')
  if low < 0 or high > 255 or (array.dtype.kind == 'f' and np.any(array != np.round(array))):
    how = ': divide by 257 and round, if 65535 is white' if low >= 0 and 255 < high <= 65535 else ''
    raise ValueError(
      f'{label} has values from {low:g} to {high:g} that are not all whole '
      f'numbers from 0 to 255: convert it to uint8{how}.'
    )
  return array.astype(np.uint8)


KIND = base.Kind(find, argument='PATH')
