"""scikit-learn's 1,797 handwritten digits, 8 x 8, gray, 17 levels; with labels."""

from typing import Any

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data.sources import base
from structured_obs.data.sources.base import Kind, Records, Source


def find(config: DataConfig, argument: str) -> Source:
  """Finds scikit-learn's digits, which need no configuration."""
  del config, argument
  return Source('digits', 'scikit-learn load_digits', _open)


def _open() -> Records:
  release = base.version('scikit-learn')
  from sklearn import datasets

  bunch: Any = datasets.load_digits()
  images = bunch.images.astype(np.uint8)[..., None]
  return Records(
    len(images), lambda i: (images[i], int(bunch.target[i])), lambda i: f'digit {i}', release, levels=17
  )


KIND = Kind(find)
