"""The class of an image as one more channel behind its own, which a model can be given.

The channel holds the class, 0 .. 255, in every pixel. So it goes through storage, batches, flips, turns
and shifts with the image, and none of them changes it.
"""

import numpy as np

from structured_obs.data import sources

MAX_CLASSES = 256  # what a byte holds


def behind(example: sources.Example, name: str) -> sources.Example:
  """Adds the class to an image: uint8 [H, W, C + 1].

  Args:
    example: uint8 [H, W, C] and its label.
    name: what an error calls the image.

  Raises:
    ValueError: where there is no label, none from 0 to 255, or an image of real numbers.
  """
  image, label = example
  if label is None:
    raise ValueError(f'--config.data.labels is True, but {name} has no label, and perhaps no image of '
                     'its source does. Set --config.data.labels=False, or take a source with labels, '
                     'such as digits, npz:PATH with labels or tfds:mnist.')
  if not 0 <= label < MAX_CLASSES:
    raise ValueError(f'--config.data.labels is True, but {name} has the label {label}; labels must be '
                     f'whole numbers from 0 to {MAX_CLASSES - 1}, the class of each image.')
  if image.dtype != np.uint8:
    raise ValueError(f'--config.data.labels is True, but {name} is of real numbers; only images of gray '
                     'levels can carry a label.')
  plane = np.full((*image.shape[:2], 1), label, np.uint8)
  return np.concatenate([image, plane], axis=-1), label


def counts(labels: np.ndarray, train: np.ndarray) -> list[int]:
  """Returns how many images of each class there are to train on, up to the largest class of all.

  Args:
    labels: [N] of all images.
    train: [N] whether it is one to train on.
  """
  return np.bincount(labels[train], minlength=labels.max() + 1).tolist()
