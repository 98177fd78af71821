"""`photos`: random crops of the photographs in the scikit-image wheel; no download.

Seven colour photographs, split by photograph: no crop of a validation or test image shares its scene
with a training image (only one of the motorcycle's two views is used). A crop is a window of once,
twice or four times the target size, shrunk to it; the windows depend on `split_seed` alone.
"""

import functools
import importlib.util
import os
from typing import NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode, order
from structured_obs.data.sources import base

PHOTOGRAPHS = (  # by split: training, validation, test
  ('astronaut.png', 'hubble_deep_field.jpg', 'ihc.png', 'motorcycle_left.png', 'rocket.jpg'),
  ('chelsea.png',),
  ('coffee.png',),
)
CROPS = 10_000  # if `limit` is 0
SIZE = 32  # if `height` or `width` is 0
FACTORS = (1, 2, 4)  # sizes of the windows that crops are shrunk from, in crops; as far as they fit


def find(config: DataConfig, argument: str) -> base.Source:
  """Finds the photographs in the installed scikit-image; `argument` is ''.

  Raises:
    ImportError: scikit-image is not installed.
    FileNotFoundError: this scikit-image lacks a photograph.
  """
  del argument
  spec = importlib.util.find_spec('skimage')
  if spec is None or not spec.submodule_search_locations:
    raise decode.missing('scikit-image')
  folder = os.path.join(spec.submodule_search_locations[0], 'data')
  names = [name for group in PHOTOGRAPHS for name in group]
  absent = [name for name in names if not os.path.exists(os.path.join(folder, name))]
  if absent:
    raise FileNotFoundError(
      f"The installed scikit-image lacks {', '.join(absent)} in "
      f"{folder}; install another version of it for "
      "--config.data.source=photos."
    )
  content = [(name, os.path.getsize(os.path.join(folder, name))) for name in names]
  return base.Source('photos', base.digest(content), lambda: _open(config, folder, names))


class _Crops(NamedTuple):
  """The windows of N crops."""

  split: np.ndarray  # [N] index into splits.SPLITS
  photograph: np.ndarray  # [N] index into the names
  factor: np.ndarray  # [N] window's size in crops
  corner: np.ndarray  # [N, 2] top, left


def _crops(config: DataConfig, folder: str, names: list[str]) -> _Crops:
  """Draws the crops of all splits."""
  total = config.limit or CROPS
  held_out = [
    max(1, round(fraction * total)) if fraction else 0
    for fraction in (config.validation_fraction, config.test_fraction)
  ]
  if total <= sum(held_out):
    raise ValueError(
      f'{total} crops leave none to train on: raise --config.data.limit, or lower '
      '--config.data.validation_fraction and --config.data.test_fraction.'
    )
  size = np.array([config.height or SIZE, config.width or SIZE])
  sizes = np.array([_photograph(folder, name).shape[:2] for name in names])
  if np.any(size > sizes):
    raise ValueError(
      f'Crops of {size[0]} x {size[1]} pixels are larger than the photographs; use at most '
      f'--config.data.height={sizes[:, 0].min()} --config.data.width={sizes[:, 1].min()}.'
    )
  parts, first = [], 0
  for split, count in enumerate([total - sum(held_out), *held_out]):
    raw = order.draws(4 * count, config.split_seed, split).reshape(4, -1).astype(np.uint64)
    photograph = first + (raw[0] % np.uint64(len(PHOTOGRAPHS[split]))).astype(np.int64)
    first += len(PHOTOGRAPHS[split])
    fitting = np.sum([np.all(factor * size <= sizes, 1) for factor in FACTORS], 0)
    factor = np.array(FACTORS)[(raw[1] % fitting[photograph].astype(np.uint64)).astype(np.int64)]
    room = sizes[photograph] - factor[:, None] * size + 1
    corner = (raw[2:].T % room.astype(np.uint64)).astype(np.int64)
    parts.append(_Crops(np.full(count, split), photograph, factor, corner))
  return _Crops(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@functools.cache
def _photograph(folder: str, name: str) -> np.ndarray:
  """Returns one whole photograph, uint8 [H, W, 3]; cached, because the seven take only 7 MB."""
  return decode.decode(os.path.join(folder, name), name)


def _open(config: DataConfig, folder: str, names: list[str]) -> base.Records:
  """Returns random access to the crops."""
  height, width = config.height or SIZE, config.width or SIZE
  to = decode.target(config)._replace(height=height, width=width)
  crops = _crops(config, folder, names)

  def load(index: int) -> base.Example:
    top, left = crops.corner[index]
    image = _photograph(folder, names[crops.photograph[index]])
    factor = crops.factor[index]
    window = image[top : top + factor * height, left : left + factor * width]
    return decode.fit(np.ascontiguousarray(window), to), None

  def describe(index: int) -> str:
    return f'{names[crops.photograph[index]]} at {crops.corner[index]}'

  return base.Records(len(crops.split), load, describe, base.version('scikit-image'), splits=crops.split)


KIND = base.Kind(find)
