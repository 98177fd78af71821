"""The class of an image as one more channel behind its own, which a model can be given.

The channel holds the class, 0 .. 255, in every pixel. So it goes through storage, batches, flips, turns
and shifts with the image, and none of them changes it.
"""

from typing import NamedTuple

import numpy as np

from structured_obs.data import decode
from structured_obs.data.sources import base

MAX_CLASSES = 256  # what a byte holds


class Classes(NamedTuple):
  """The classes of images that have a name for each."""

  names: tuple[str, ...]  # of class 0, 1, ...
  of_images: list[int]  # [N]


def by_folder(images: list[str], path: str) -> Classes:
  """Takes the sub-folder that each image lies in as its class, numbered in the order of their names.

  Args:
    images: names relative to `path`, with forward slashes.
    path: what an error calls the folder.

  Raises:
    ValueError: where an image lies elsewhere than in a folder directly below `path`, or there are too
      many of these.
  """
  for image in images:
    if image.count('/') != 1:
      place = 'deeper' if '/' in image else 'outside of them'
      raise ValueError(
        '--config.data.labels=True takes the sub-folder that an image lies in '
        f'as its class, but {decode.printable(image)} in {path} lies {place}. Move all '
        'images to PATH/CLASS/, or set --config.data.labels=False.'
      )
  folders = [image.partition('/')[0] for image in images]
  names = sorted(set(folders))
  if len(names) > MAX_CLASSES:
    raise ValueError(
      f'--config.data.labels=True takes at most {MAX_CLASSES} classes, but {path} has '
      f'images in {len(names)} sub-folders. Set --config.data.labels=False.'
    )
  number = {name: k for k, name in enumerate(names)}
  return Classes(tuple(map(decode.printable, names)), [number[folder] for folder in folders])


def behind(example: base.Example, name: str) -> base.Example:
  """Adds the class to an image: uint8 [H, W, C + 1].

  Args:
    example: uint8 [H, W, C] and its label.
    name: what an error calls the image.

  Raises:
    ValueError: where there is no label, none from 0 to 255, or an image of real numbers.
  """
  image, label = example
  if label is None:
    raise ValueError(
      f'--config.data.labels is True, but {name} has no label, and perhaps no image of '
      'its source does. Set --config.data.labels=False, or take a source with labels, '
      'such as digits, npz:PATH with labels, tfds:mnist or folder:PATH with a sub-folder '
      'for each class.'
    )
  if not 0 <= label < MAX_CLASSES:
    raise ValueError(
      f'--config.data.labels is True, but {name} has the label {label}; labels must be '
      f'whole numbers from 0 to {MAX_CLASSES - 1}, the class of each image.'
    )
  if image.dtype != np.uint8:
    raise ValueError(
      f'--config.data.labels is True, but {name} is of real numbers; only images of gray '
      'levels can carry a label.'
    )
  plane = np.full((*image.shape[:2], 1), label, np.uint8)
  return np.concatenate([image, plane], axis=-1), label


def counts(labels: np.ndarray, train: np.ndarray, classes: int = 0) -> list[int]:
  """Returns how many images of each class there are to train on, up to the largest class of all.

  Args:
    labels: [N] of all images.
    train: [N] whether it is one to train on.
    classes: how many there are at least, as where they have names.
  """
  return np.bincount(labels[train], minlength=max(labels.max() + 1, classes)).tolist()
