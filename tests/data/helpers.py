"""Small image files and folders for the tests of `structured_obs.data`."""

import dataclasses
import os
from typing import Any

import numpy as np
from PIL import Image

from structured_obs.config import DataConfig
from structured_obs.data.prepare import Prepared


def random_images(count: int, height: int = 6, width: int = 5, channels: int = 3) -> np.ndarray:
  """Returns uint8 noise, [N, H, W, C]."""
  shape = (count, height, width, channels)
  return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def save_png(path: Any, image: np.ndarray) -> None:
  """Writes one image [H, W, C] as a file, and the folders it needs."""
  os.makedirs(os.path.dirname(path), exist_ok=True)
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def folder(path: Any, images: np.ndarray) -> str:
  """Writes images as PATH/00/000.png, PATH/01/001.png, ... over three folders."""
  for i, image in enumerate(images):
    save_png(path / f'{i % 3:02}' / f'{i:03}.png', image)
  return f'folder:{path}'


def config(tmp_path: Any, source: str, **fields: Any) -> DataConfig:
  """Returns a configuration that caches under `tmp_path`; options of source and crop are fields too."""
  known = {field.name for field in dataclasses.fields(DataConfig)}
  if 'crops' in fields:
    fields['crop_options'] = {'crops': fields.pop('crops')}
  options = {name: fields.pop(name) for name in list(fields) if name not in known}
  cache = str(tmp_path / 'cache')
  return DataConfig(source=source, options=options, cache_dir=cache, **fields)


def labels(prepared: Prepared, split: str) -> np.ndarray:
  """Returns the labels of a split, which must have some."""
  found = prepared.labels[split]
  assert found is not None
  return found
