"""Draws dense grids of many images, each pixel a whole number of dots.

Letters: A rows and B columns of the grid; H W C image height, width, channels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from structured_obs.plotting import figure as figures

_GAP = 2  # dots between images


def image_grid(
  path: str | Path,
  images: np.ndarray,
  rows: Sequence[str] = (),
  columns: Sequence[str] = (),
  title: str = '',
) -> Path:
  """Draws a grid of adjacent images.

  Args:
    path: of the PNG file; its directory is created.
    images: [A, B, H, W, C], C = 1 or 3, pixels in [-1, 1]; values outside are clipped.
    rows: a short label per row, or none.
    columns: a short heading per column, or none.
    title: above everything, or none.

  Returns:
    The path.

  Raises:
    ValueError: the images have another shape.
  """
  if images.ndim != 5 or images.shape[-1] not in (1, 3) or 0 in images.shape:
    raise ValueError(
      'images must have shape (rows, columns, height, width, 1 or 3), at least one of each; got '
      f'{images.shape}.'
    )
  dots = _mosaic(images, _scale(images.shape))
  high, wide = (size / figures.DPI for size in dots.shape[:2])
  left = 0.1 + 0.075 * max((len(label) for label in rows), default=0)
  top = (
    0.08
    + 0.3 * bool(title)
    + 0.07 * bool(columns)
    + 0.13 * max((text.count('\n') + 1 for text in columns), default=0)
  )
  width, height = max(left + wide, 0.09 * len(title)) + 0.08, top + high + 0.08
  figure = figures.make((width, height))
  offset = round(left * figures.DPI), round(0.08 * figures.DPI)
  figure.figimage(dots, *offset)
  style = {'fontsize': 8, 'color': figures.INK}
  if title:
    figure.text(0.1 / width, 1 - 0.1 / height, title, va='top', fontsize=9, color=figures.INK)
  for i, label in enumerate(rows):
    y = 0.08 + high * (1 - (i + 0.5) / len(images))
    figure.text((left - 0.06) / width, y / height, label, ha='right', va='center', **style)
  for i, heading in enumerate(columns):
    x, y = left + wide * (i + 0.5) / images.shape[1], 0.08 + high + 0.03
    figure.text(x / width, y / height, heading, ha='center', va='bottom', **style)
  return figures.save(figure, path)


def mosaic(images: np.ndarray) -> np.ndarray:
  """Returns images side by side, without labels, as dots: uint8 [height, width, 3].

  Args:
    images: as of `image_grid`.
  """
  return np.round(255 * _mosaic(images, _scale(images.shape))).astype(np.uint8)


def _scale(shape: tuple[int, ...]) -> int:
  """Returns dots per pixel: many for few and small images."""
  wanted = min(max(1500 / max(shape[:2]), 64), 160)
  return max(1, round(wanted / max(shape[2:4])))


def _mosaic(images: np.ndarray, scale: int) -> np.ndarray:
  """Returns all images with white gaps, float64 [dots, dots, 3] from 0 to 1; NaN is black."""
  count, across, height, width, _ = images.shape
  unit = np.nan_to_num(np.clip((np.asarray(images, np.float64) + 1) / 2, 0, 1))
  unit = unit.repeat(scale, axis=2).repeat(scale, axis=3)
  tall, broad = height * scale + _GAP, width * scale + _GAP
  canvas = np.ones((count, tall, across, broad, 3))
  canvas[:, : tall - _GAP, :, : broad - _GAP] = np.moveaxis(unit, 1, 2)
  return canvas.reshape(count * tall, across * broad, 3)[:-_GAP, :-_GAP]
