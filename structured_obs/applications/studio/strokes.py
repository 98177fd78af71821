"""Strokes of a pen on an image: which pixels they cover, and the observation that they amount to.

A stroke is a path of pixels and a round or single-pixel pen. Painting observes values, exactly or
through noise; hiding turns an image into one of which everything else is observed; erasing removes what
was painted or hidden. Later strokes replace earlier ones at the pixels they share.

Letters: H W C image height, width, channels.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from structured_obs.applications import edit, edit_input
from structured_obs.distributions.base import ImageShape

PAINT, HIDE, ERASE = TOOLS = ('paint', 'hide', 'erase')
MAX_POINTS = 4096  # of one stroke
MAX_PEN = 128  # pixels


class Stroke(NamedTuple):
  """One movement of the pen."""

  tool: str  # of TOOLS
  points: tuple[tuple[int, int], ...]  # rows and columns of pixels, from 0; consecutive ones are joined
  pen: int = 1  # diameter in pixels
  value: tuple[float, ...] = (0.0,)  # one number for all channels, or one each; in [-1, 1]
  deviation: float = 0.0  # standard deviation of painted values; 0 for exact ones


class Painting(NamedTuple):
  """The pixels that strokes amount to."""

  value: np.ndarray  # [H, W, C] float32; 0 where nothing is painted
  deviation: np.ndarray  # [H, W] float32; infinite where nothing is painted
  hidden: np.ndarray  # [H, W] bool

  @property
  def painted(self) -> np.ndarray:
    """Where a value was painted, [H, W] bool."""
    return np.isfinite(self.deviation)


def check(stroke: Stroke, image: ImageShape) -> None:
  """Raises a ValueError that says what is wrong with a stroke on images of this shape."""
  if stroke.tool not in TOOLS:
    raise ValueError(f'The tool {stroke.tool!r} is unknown; it must be one of {", ".join(TOOLS)}.')
  if not 1 <= stroke.pen <= MAX_PEN:
    raise ValueError(f'A pen of {stroke.pen} pixels is out of range; it must be from 1 to {MAX_PEN}.')
  if not 1 <= len(stroke.points) <= MAX_POINTS:
    raise ValueError(f'A stroke must have 1 to {MAX_POINTS} points; got {len(stroke.points)}.')
  if len(stroke.value) not in (1, image.channels):
    raise ValueError(
      f'A stroke has {len(stroke.value)} values, but the image has {image.channels} channel(s).'
    )
  if not all(-1 <= value <= 1 for value in stroke.value):
    raise ValueError(f'Painted values must be from -1 to 1; got {", ".join(map(str, stroke.value))}.')
  edit.check_deviation(stroke.deviation)
  if not covered(stroke, image).any():
    raise ValueError('The stroke lies outside of the image, so nothing has changed.')


def from_json(tree: Any) -> Stroke:
  """Returns a stroke from its JSON.

  Raises:
    ValueError: it is none. Whether it fits an image is for `check` to say.
  """
  try:
    return Stroke(
      str(tree['tool']),
      tuple((_pixel(row), _pixel(column)) for row, column in tree['points'][: MAX_POINTS + 1]),
      int(tree.get('pen', 1)),
      tuple(float(value) for value in tree.get('value', (0.0,))),
      float(tree.get('deviation', 0.0)),
    )
  except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
    raise ValueError(f'This is not a stroke: {str(tree)[:80]}.') from error


@functools.lru_cache(maxsize=1024)  # a session is drawn again after every stroke
def covered(stroke: Stroke, image: ImageShape) -> np.ndarray:
  """Returns the pixels under a stroke, read-only. [H, W] bool.

  A pen of 1 covers the pixels of the path, 2 also those above and to the left, 3 a cross around them,
  and larger ones a disc of this diameter.
  """
  found = np.zeros((image.height, image.width), bool)
  shift = 0.5 * (stroke.pen % 2 == 0)  # an even pen has its centre on a corner
  reach, offset = stroke.pen // 2 + 1, np.arange(-(stroke.pen // 2) - 1, stroke.pen // 2 + 2)
  squared = np.square(offset[:, None] + shift) + np.square(offset[None, :] + shift)
  disc = squared <= np.square(stroke.pen / 2 - 0.1)
  for row, column in path(stroke.points):
    top, left = row - reach, column - reach
    rows, columns = _clip(top, disc.shape[0], image.height), _clip(left, disc.shape[1], image.width)
    found[rows, columns] |= disc[
      rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
  found.flags.writeable = False
  return found


def path(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
  """Returns all pixels on the straight lines between consecutive points."""
  found = [points[0]]
  for (row, column), (to_row, to_column) in itertools.pairwise(points):
    steps = max(abs(to_row - row), abs(to_column - column))
    found += [
      (round(row + (to_row - row) * i / steps), round(column + (to_column - column) * i / steps))
      for i in range(1, steps + 1)
    ]
  return found


def paint(strokes: Sequence[Stroke], image: ImageShape) -> Painting:
  """Returns the pixels that strokes amount to, in order.

  Args:
    strokes: that passed `check`.
    image: shape of the image.
  """
  value = np.zeros(image, np.float32)
  deviation = np.full((image.height, image.width), np.inf, np.float32)
  hidden = np.zeros((image.height, image.width), bool)
  for stroke in strokes:
    where = covered(stroke, image)
    if stroke.tool == PAINT:
      value[where] = np.asarray(stroke.value, np.float32)
      deviation[where] = stroke.deviation
    else:
      value[where], deviation[where] = 0, np.inf
    hidden[where] = stroke.tool == HIDE
  return Painting(value, deviation, hidden)


def observed(painting: Painting, image: np.ndarray, counted: np.ndarray | None = None) -> edit.Merged:
  """Returns what is known of an image: the painted values and, if pixels are hidden, all others.

  Args:
    painting: of the strokes.
    image: [H, W, C] in [-1, 1], of which all that is not hidden is seen exactly.
    counted: [H, W] bool, the pixels of the image that count; None for all.
  """
  variance = np.square(painting.deviation)[..., None]
  value, variance = painting.value, np.broadcast_to(variance, painting.value.shape)
  if painting.hidden.any():
    seen = ~painting.hidden & ~painting.painted
    seen &= True if counted is None else counted
    value = np.where(seen[..., None], image, value)
    variance = np.where(seen[..., None], np.float32(0), variance)
  return edit.Merged(value.astype(np.float32), variance.astype(np.float32))  # type: ignore[arg-type]


def is_exact(painting: Painting) -> bool:
  """Returns whether nothing was painted through noise."""
  return not np.any(painting.deviation[painting.painted] > 0)


def regions(painting: Painting) -> list[edit_input.Region]:
  """Returns disjoint regions that cover exactly what was hidden."""
  return _disjoint(painting.hidden, painting.hidden[..., None])


def rectangles(painting: Painting) -> list[edit_input.Rectangle]:
  """Returns disjoint rectangles of one value and deviation that cover exactly what was painted."""
  found = []
  keys = np.concatenate([painting.value, painting.deviation[..., None]], axis=-1)
  for row, column, height, width in _disjoint(painting.painted, keys):
    value = tuple(float(str(number)) for number in painting.value[row, column])  # as short as it can be
    if len(set(value)) == 1:
      value = value[:1]
    deviation = float(str(painting.deviation[row, column]))
    found.append(edit_input.Rectangle(row, column, height, width, value, deviation))
  return found


def value_of(colour: Any, gray: Any, channels: int) -> tuple[float, ...]:
  """Returns what to paint: a colour as pages write it for images of 3 channels, otherwise a gray value.

  Args:
    colour: as '#ff8000' or 'rgb(255, 128, 0)'.
    gray: in [-1, 1].
    channels: of the image.

  Raises:
    ValueError: it is neither.
  """
  try:
    if channels != 3:
      return (float(gray),)
    text = str(colour).strip()
    numbers = re.fullmatch(r'rgba?\(([\d.]+), *([\d.]+), *([\d.]+)(?:, *[\d.]+)?\)', text)
    levels = map(float, numbers.groups()) if numbers else bytes.fromhex(text.removeprefix('#'))
    red, green, blue = (round(2 * level / 255 - 1, 6) for level in levels)
  except (TypeError, ValueError):
    raise ValueError(f'{str(colour)[:40]!r} is not a colour; it must be like #ff8000.') from None
  return red, green, blue


def in_words(stroke: Stroke, image: ImageShape) -> str:
  """Returns a stroke as a line of a history."""
  count = int(covered(stroke, image).sum())
  many = f'{count} pixel{"s" * (count != 1)}'
  if stroke.tool != PAINT:
    return f'{"hid" if stroke.tool == HIDE else "erased"} {many}'
  value = '/'.join(f'{value:.2g}' for value in stroke.value)
  return f'painted {many} with {value}{f" ± {stroke.deviation:g}" if stroke.deviation else ""}'


def to_json(stroke: Stroke) -> Mapping[str, Any]:
  """Returns a stroke as JSON; see `from_json`."""
  points, value = [[*point] for point in stroke.points], [*stroke.value]
  return {**stroke._asdict(), 'points': points, 'value': value}


def _disjoint(where: np.ndarray, keys: np.ndarray) -> list[edit_input.Region]:
  """Returns disjoint regions of equal keys [H, W, K] that cover exactly `where` [H, W]."""
  left, found = where.copy(), []
  while left.any():
    row, column = divmod(int(np.argmax(left)), left.shape[1])
    same = left & (keys == keys[row, column]).all(axis=-1)
    width = _run(same[row, column:])
    height = _run(same[row:, column : column + width].all(axis=1))
    left[row : row + height, column : column + width] = False
    found.append(edit_input.Region(row, column, height, width))
  return found


def _clip(start: int, size: int, limit: int) -> slice:
  return slice(min(max(start, 0), limit), min(max(start + size, 0), limit))


def _run(flags: np.ndarray) -> int:
  """Returns how many of the first flags are true."""
  return len(flags) if flags.all() else int(np.argmin(flags))


def _pixel(number: Any) -> int:
  if not math.isfinite(number) or abs(number) > 1e6:
    raise ValueError('out of range')
  return int(number)
