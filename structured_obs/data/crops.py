"""Random windows of an image, drawn once, where there is something to see.

The centre of a window is a pixel drawn from the foreground, which is all that is brighter than a
twentieth of white: a scan's air and a brain's black surroundings are not. Windows that would reach
over an edge are moved inside. Which windows an image has follows from integers that seed them, not
from the machine or from a library's version.
"""

import numpy as np

from structured_obs.data import order

BACKGROUND = 1 / 20  # of white: what is no brighter is background


def foreground(image: np.ndarray, levels: int = 256) -> np.ndarray:
  """Tells which pixels of uint8 [H, W, C] are brighter than the background in any channel, [H, W]."""
  return np.any(image > BACKGROUND * (levels - 1), axis=-1)


def window(
  image: np.ndarray, size: tuple[int, int], seed: tuple[int, ...], levels: int = 256, name: str = 'one'
) -> np.ndarray:
  """Cuts a random window out of an image; uniform over its pixels where it is all background.

  Args:
    image: uint8 [H, W, C].
    size: height and width of the window, in pixels.
    seed: non-negative integers that say which window.
    levels: of the pixels, 0 .. levels - 1; 0 for real numbers.
    name: what an error calls the image.

  Returns:
    uint8 [height, width, C], a view.

  Raises:
    ValueError: where the image is smaller than the window, or one of real numbers.
  """
  (rows, columns, _), (height, width) = image.shape, size
  if levels == 0:
    raise ValueError(
      "--config.data.crop='random' is of images of gray levels, but these are of real "
      "numbers; set --config.data.crop='center'."
    )
  if rows < height or columns < width:
    raise ValueError(
      "--config.data.crop='random' cuts windows of --config.data.height x "
      f"--config.data.width, {height} x {width} pixels, out of larger images, but {name} "
      f"is {rows} x {columns}."
    )
  centres = np.flatnonzero(foreground(image, levels))
  draw = int(order.draws(1, *seed)[0])
  centre = int(centres[draw % len(centres)]) if len(centres) else draw % (rows * columns)
  top = min(max(centre // columns - height // 2, 0), rows - height)
  left = min(max(centre % columns - width // 2, 0), columns - width)
  return image[top : top + height, left : left + width]
