"""Stores an image's class as an additional channel, which a model can be given.

Every pixel of the channel is the class, 0 .. 255. It passes through storage, batches, flips, turns and
shifts with the image, and none of them changes it.
"""

from typing import NamedTuple

import numpy as np

from structured_obs.data import decode
from structured_obs.data.sources import base

MAX_CLASSES = 256  # what a byte holds


class Classes(NamedTuple):
  """The classes of images, with a name for each class."""

  names: tuple[str, ...]  # of class 0, 1, ...
  of_images: list[int]  # [N]


def by_folder(images: list[str], path: str) -> Classes:
  """Returns the sub-folder of each image as its class, numbered in the order of their names.

  Args:
    images: names relative to `path`, with forward slashes.
    path: of the folder, for messages.

  Raises:
    ValueError: an image is not in a folder directly below `path`, or there are too many such folders.
  """
  for image in images:
    if image.count('/') != 1:
      place = 'deeper' if '/' in image else 'outside of them'
      raise ValueError(
        "--config.data.labels=True uses an image's sub-folder as its class, but "
        f'{decode.printable(image)} in {path} lies {place}. Move all images to PATH/CLASS/, or set '
        '--config.data.labels=False.'
      )
  folders = [image.partition('/')[0] for image in images]
  names = sorted(set(folders))
  if len(names) > MAX_CLASSES:
    raise ValueError(
      f'--config.data.labels=True supports at most {MAX_CLASSES} classes, but {path} has '
      f'images in {len(names)} sub-folders. Set --config.data.labels=False.'
    )
  number = {name: k for k, name in enumerate(names)}
  return Classes(tuple(map(decode.printable, names)), [number[folder] for folder in folders])


def behind(example: base.Example, name: str) -> base.Example:
  """Returns an image with its class as an additional channel: uint8 [H, W, C + 1].

  Args:
    example: uint8 [H, W, C] and its label.
    name: of the image in messages.

  Raises:
    ValueError: the label is missing or not from 0 to 255, or the image has real numbers.
  """
  image, label = example
  if label is None:
    raise ValueError(
      f'--config.data.labels=True needs labels, but {name} has none, and perhaps no image of '
      'its source does. Set --config.data.labels=False, or use a source with labels, '
      'such as digits, npz:PATH with labels, tfds:mnist or folder:PATH with a sub-folder '
      'for each class.'
    )
  if not 0 <= label < MAX_CLASSES:
    raise ValueError(
      f'--config.data.labels=True needs whole numbers from 0 to {MAX_CLASSES - 1} as labels, but {name} '
      f'has the label {label}; renumber the classes, or set --config.data.labels=False.'
    )
  if image.dtype != np.uint8:
    raise ValueError(
      f'--config.data.labels=True needs images of gray levels, but {name} has real numbers; set '
      '--config.data.labels=False.'
    )
  plane = np.full((*image.shape[:2], 1), label, np.uint8)
  return np.concatenate([image, plane], axis=-1), label


def counts(labels: np.ndarray, train: np.ndarray, classes: int = 0) -> list[int]:
  """Returns the number of training images of each class, up to the largest class of all images.

  Args:
    labels: [N] of all images.
    train: [N] whether it is a training image.
    classes: smallest number of classes, such as the number of names.
  """
  return np.bincount(labels[train], minlength=max(labels.max() + 1, classes)).tolist()
