"""Parses a user's edits: rectangles and hidden regions as text, and pairs of image files.

Values are in the model's units, pixels in [-1, 1] from black to white.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from structured_obs.applications import edit
from structured_obs.data import decode, pixels
from structured_obs.distributions.base import ImageShape

REGION_FORM = 'row,column,height,width: 4,6,3,3'
FORM = 'row,column,height,width,value or red/green/blue, optionally a deviation: 4,6,3,3,-0.5,0.1'
_LEVELS = 256  # of an image file


class Rectangle(NamedTuple):
  """Pixels to set, counted from the top left."""

  row: int
  column: int
  height: int
  width: int
  value: tuple[float, ...]  # one number for all channels, or one each
  deviation: float = 0.0


def parse_rectangle(text: str) -> Rectangle:
  """Parses a rectangle, 'row,column,height,width,value[/green/blue][,deviation]'.

  Raises:
    ValueError: the text has another form, or the rectangle is empty or has an invalid negative number.
  """
  parts = [part.strip() for part in text.split(',')]
  if len(parts) not in (5, 6) or not all(part.isdecimal() for part in parts[:4]):
    raise ValueError(f'--rectangle={text} is invalid; it must be {FORM}.')
  row, column, height, width = map(int, parts[:4])
  value = tuple(_number(part, text) for part in parts[4].split('/'))
  found = Rectangle(row, column, height, width, value, *(_number(part, text) for part in parts[5:]))
  if len(value) not in (1, 3):
    raise ValueError(f'--rectangle={text} is invalid; it needs one value or red/green/blue.')
  if not height or not width:
    raise ValueError(f'--rectangle={text} is invalid; it must be at least one pixel high and wide.')
  edit.check_deviation(found.deviation)
  return found


def to_text(rectangle: Rectangle) -> str:
  """Returns a rectangle as `parse_rectangle` reads it."""
  row, column, height, width, value, deviation = rectangle
  parts = [*map(str, (row, column, height, width)), '/'.join(map(str, value))]
  return ','.join(parts + ([str(deviation)] if deviation else []))


def of_rectangle(rectangle: Rectangle, image: ImageShape) -> edit.Edit:
  """Returns the edit of a rectangle, for images of this shape.

  Raises:
    ValueError: the rectangle is not inside, or has more values than the image has channels.
  """
  row, column, height, width, value, deviation = rectangle
  covered = _covered('rectangle', Region(row, column, height, width), image)
  if len(value) not in (1, image.channels):
    raise ValueError(
      f'A rectangle has {len(value)} values, but the image has {image.channels} channel(s); give one '
      'value, or one per channel.'
    )
  mask = np.broadcast_to(covered[..., None], image)
  values = np.broadcast_to(np.asarray(value, np.float32), image)
  return edit.Edit(jnp.asarray(values), jnp.asarray(mask), deviation)


class Region(NamedTuple):
  """Pixels to hide, counted from the top left."""

  row: int
  column: int
  height: int
  width: int


def parse_region(text: str) -> Region:
  """Parses a region, 'row,column,height,width'.

  Raises:
    ValueError: the text has another form, or the region is empty.
  """
  parts = [part.strip() for part in text.split(',')]
  if len(parts) != 4 or not all(part.isdecimal() for part in parts):
    raise ValueError(f'--hide={text} is invalid; it must be {REGION_FORM}.')
  found = Region(*map(int, parts))
  if not found.height or not found.width:
    raise ValueError(f'--hide={text} is invalid; it must be at least one pixel high and wide.')
  return found


def of_regions(regions: Sequence[Region], image: ImageShape) -> np.ndarray:
  """Returns the pixels that regions hide, for images of this shape. [H, W] bool.

  Raises:
    ValueError: a region is not inside, or all pixels are hidden.
  """
  hidden = np.zeros((image.height, image.width), bool)
  for region in regions:
    hidden |= _covered('region', region, image)
  if hidden.all():
    raise ValueError('--hide hides all pixels, so that nothing is left to see; hide fewer.')
  return hidden


class Painted(NamedTuple):
  """The files of an edit, as read."""

  value: np.ndarray  # uint8 [h, w, 1 or 3]
  mask: np.ndarray  # uint8 [h, w, 1 or 3], bright where the values apply


def read_files(image_path: str, mask_path: str) -> Painted:
  """Reads the values of an edit and its mask.

  Raises:
    ValueError, OSError: a file is missing or unreadable, or the two differ in size.
  """
  value, mask = read_image(image_path), read_image(mask_path)
  if value.shape[:2] != mask.shape[:2]:
    raise ValueError(
      f'{image_path} and its mask {mask_path} must have the same size; they have {value.shape[:2]} and '
      f'{mask.shape[:2]} pixels.'
    )
  return Painted(value, mask)


def of_files(painted: Painted, to: decode.Target, deviation: float = 0.0) -> edit.Edit:
  """Returns the edit of two files, for images of the model's size.

  Args:
    painted: the files; mask pixels brighter than middle gray apply.
    to: how images are cropped and resized to the model's; the mask is not blurred.
    deviation: of the edit.

  Raises:
    ValueError: the mask is dark wherever it is used.
  """
  edit.check_deviation(deviation)
  value = decode.fit(painted.value, to)
  mask = decode.fit(painted.mask, to._replace(channels=1, resample='nearest')) >= _LEVELS // 2
  if not mask.any():
    raise ValueError('The --edit_mask has no bright pixel in the part of the image that is used.')
  values = pixels.to_unit(jnp.asarray(value), _LEVELS)
  return edit.Edit(values, jnp.asarray(np.broadcast_to(mask, values.shape)), deviation)


def read_image(path: str) -> np.ndarray:
  """Returns the pixels of an image file, uint8 [H, W, 1 or 3].

  Raises:
    FileNotFoundError, UnreadableImage: naming the file.
  """
  if not Path(path).is_file():
    raise FileNotFoundError(f'There is no image file {path}.')
  return decode.decode(path, path)


def _covered(what: str, region: Region, image: ImageShape) -> np.ndarray:
  """Returns the pixels of a region, [H, W] bool; raises a ValueError if it is not inside."""
  row, column, height, width = region
  if row + height > image.height or column + width > image.width:
    raise ValueError(
      f'The {what} of rows {row} to {row + height - 1} and columns {column} to {column + width - 1} '
      f'does not lie in the image of {image.height} x {image.width} pixels, counted from 0.'
    )
  covered = np.zeros((image.height, image.width), bool)
  covered[row : row + height, column : column + width] = True
  return covered


def _number(part: str, text: str) -> float:
  try:
    number = float(part)
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    raise ValueError(f'--rectangle={text} is invalid: {part!r} is not a number; it must be {FORM}.')
  return number
