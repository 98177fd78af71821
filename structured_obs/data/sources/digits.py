"""scikit-learn's 1,797 handwritten digits, 8 x 8, gray, 17 levels; with labels."""

from typing import Any

import numpy as np

from structured_obs.data.sources import base
from structured_obs.data.sources.base import Records, Source


def find() -> Source:
  """scikit-learn's 1,797 handwritten digits, 8 x 8, gray, 17 levels; with labels."""
  return Source('digits', 'scikit-learn load_digits', _open)


def _open() -> Records:
  release = base.version('scikit-learn')
  from sklearn import datasets

  bunch: Any = datasets.load_digits()
  images = bunch.images.astype(np.uint8)[..., None]
  return Records(
    len(images), lambda i: (images[i], int(bunch.target[i])), lambda i: f'digit {i}', release, levels=17
  )
