"""Cuts random windows of an image, drawn once, from where it shows something.

A window is centred on a pixel drawn from the foreground, which is everything brighter than a twentieth
of white; the air in a scan and the black surroundings of a brain are background. Windows that reach
over an edge are moved inside. The windows of an image follow from integer seeds, not from the machine
or a library's version.
"""

import numpy as np

from structured_obs.data import order

BACKGROUND = 1 / 20  # of white: pixels up to this are background


def foreground(image: np.ndarray, levels: int = 256) -> np.ndarray:
  """Returns which pixels of uint8 [H, W, C] are brighter than the background in any channel, [H, W]."""
  return np.any(image > BACKGROUND * (levels - 1), axis=-1)


def window(
  image: np.ndarray,
  size: tuple[int, int],
  seed: tuple[int, ...],
  levels: int = 256,
  name: str = 'one',
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Cuts a random window out of an image; drawn from all pixels if everything is background.

  Args:
    image: uint8 [H, W, C].
    size: height and width of the window, in pixels.
    seed: non-negative integers that determine the window.
    levels: of the pixels, 0 .. levels - 1; 0 for real numbers.
    name: of the image in messages.
    counts: bool [H, W], the pixels that a window may be centred on if they are foreground; None for all.

  Returns:
    uint8 [height, width, C], a view.

  Raises:
    ValueError: the image is smaller than the window, or has real numbers.
  """
  (rows, columns, _), (height, width) = image.shape, size
  if levels == 0:
    raise ValueError(
      "--config.data.crop=random needs images of gray levels, but these are real numbers; set "
      "--config.data.crop=center."
    )
  if rows < height or columns < width:
    raise ValueError(
      "--config.data.crop=random cuts windows of --config.data.height x --config.data.width, "
      f"{height} x {width} pixels, but {name} is only {rows} x {columns}; choose smaller windows."
    )
  shown = foreground(image, levels)
  centres = np.flatnonzero(shown if counts is None else shown & counts)
  draw = int(order.draws(1, *seed)[0])
  centre = int(centres[draw % len(centres)]) if len(centres) else draw % (rows * columns)
  top = min(max(centre // columns - height // 2, 0), rows - height)
  left = min(max(centre % columns - width // 2, 0), columns - width)
  return image[top : top + height, left : left + width]


def with_mask(
  image: np.ndarray,
  mask: np.ndarray | None,
  size: tuple[int, int],
  seed: tuple[int, ...],
  levels: int,
  name: str,
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns a random window of an image and the same one of its mask, centred on a pixel that counts.

  Args:
    image: uint8 [H, W, C].
    mask: uint8 [H, W, 1], above 0 where a pixel counts; None for all.
    size: as of `window`, with the seed, the levels and the name.
    seed: see `size`.
    levels: see `size`.
    name: see `size`.
  """
  if mask is None:
    return window(image, size, seed, levels, name), None
  counts = foreground(image, levels) & (mask[..., 0] > 0)
  both = window(np.concatenate([image, mask], axis=-1), size, seed, levels, name, counts)
  return both[..., :-1], both[..., -1:]
