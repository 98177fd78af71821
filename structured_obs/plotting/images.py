"""Draws rows of images with labels.

Letters: n images in a row; H W C image height, width, channels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from structured_obs.plotting import figure as figures


class Row(NamedTuple):
  """One row of a figure: images and how to show them.

  Signed values range from blue over white to red for one channel; for three, gray is 0. Sizes, such as
  standard deviations, range from black to yellow, averaged over the channels. Both are scaled to the
  row's largest value, which is added to the label.
  """

  label: str
  images: np.ndarray  # [n, H, W, C], C = 1 or 3
  kind: str = 'pixels'  # 'pixels' in [-1, 1], clipped; 'signed' about 0; 'size' from 0
  mark: tuple[int, int] | None = None  # row and column of a pixel to mark
  limit: float | None = None  # value of the strongest colour instead of the row's largest
  outline: np.ndarray | None = None  # [n, H, W] bool: pixels to outline
  empty: tuple[int, ...] = ()  # positions in the row that are left empty
  captions: tuple[str, ...] = ()  # a short text under each image, or none


def image_blocks(path: str | Path, blocks: Mapping[str, Sequence[Row]], title: str = '') -> Path:
  """Draws blocks of rows side by side, each under its name; rows of one place have one label and scale.

  Args:
    path: of the PNG file; its directory is created.
    blocks: rows by the name of the block: as many in each, of as many images.
    title: above everything, or none.

  Returns:
    The path.

  Raises:
    ValueError: there are no blocks, or they differ in rows, images or kinds of rows.
  """
  lined = list(zip(*blocks.values(), strict=True)) if blocks else []
  if not lined or any(len({(len(r.images), r.kind, r.label) for r in row}) > 1 for row in lined):
    raise ValueError('image_blocks needs blocks of the same rows, each of as many images.')
  rows, count = [], len(lined[0][0].images)
  for row in lined:
    gap = np.zeros_like(row[0].images[:1])
    parts = [part for one in row for part in (gap, one.images)][1:]
    outline = row[0].outline
    if outline is not None:
      marks = [part for one in row for part in (outline[:1] & False, _outline_of(one))][1:]
      outline = np.concatenate(marks)
    empty = tuple(i for i in range(len(row) * (count + 1) - 1) if i % (count + 1) == count)
    rows.append(row[0]._replace(images=np.concatenate(parts), outline=outline, empty=empty))
  groups = [(i * (count + 1) + (count - 1) / 2, name) for i, name in enumerate(blocks)]
  return _image_rows(path, rows, groups, title)


def image_rows(
  path: str | Path, rows: Sequence[Row], columns: Sequence[str] = (), title: str = ''
) -> Path:
  """Draws rows of images, each with its label at the left. Rows may differ in length.

  Args:
    path: of the PNG file; its directory is created.
    rows: from the top.
    columns: a short heading per column, or none.
    title: above everything, or none.

  Returns:
    The path.

  Raises:
    ValueError: there are no rows, or a row has no images with 1 or 3 channels.
  """
  return _image_rows(path, rows, list(enumerate(columns)), title)


def _image_rows(
  path: str | Path, rows: Sequence[Row], headings: Sequence[tuple[float, str]], title: str
) -> Path:
  """Draws `image_rows` with headings at any place, counted in columns from the first."""
  if not rows:
    raise ValueError('image_rows needs at least one row.')
  for row in rows:
    _check_row(row)
  count = max(len(row.images) for row in rows)
  shapes = [_panel(row.images.shape[1], row.images.shape[2]) for row in rows]
  labels = [_label(row) for row in rows]
  width = max(shape[1] for shape in shapes) + 0.06
  heights = [  # a flat image still needs room for its label
    max(shape[0] + 0.06, 0.14 * len(label.split('\n')) + 0.02) + _caption(row)
    for row, shape, label in zip(rows, shapes, labels, strict=True)
  ]
  left = 0.1 + 0.075 * max(len(line) for label in labels for line in label.split('\n'))
  top = 0.08 + 0.3 * bool(title) + 0.2 * bool(headings)
  size = max(left + count * width, 0.09 * len(title)) + 0.08, top + sum(heights) + 0.05
  figure = figures.make(size)
  axes = figures.inches(figure)  # one for all images, because axes are slower to make than an image
  if title:
    figure.text(0.1 / size[0], 1 - 0.1 / size[1], title, va='top', fontsize=9, color=figures.INK)
  bottom = size[1] - top
  for row, label, height, shape in zip(rows, labels, heights, shapes, strict=True):
    bottom -= height
    image, caption = height - _caption(row), _caption(row)
    middle = (bottom + caption + image / 2) / size[1]
    figure.text((left - 0.08) / size[0], middle, label, ha='right', va='center', fontsize=8)
    for i in range(len(row.images)):
      corner = left + i * width, bottom + caption + (image - shape[0]) / 2
      if i not in row.empty:
        _draw(axes, row, i, _Place(*corner, *shape))
      if i < len(row.captions):
        place = (corner[0] + shape[1] / 2) / size[0], (corner[1] - 0.03) / size[1]
        style = {'ha': 'center', 'va': 'top', 'fontsize': 6.5, 'color': figures.INK}
        figure.text(*place, row.captions[i], **style)
  for i, heading in headings:
    x, y = left + (i + 0.5) * width, size[1] - top + 0.03
    style = {'ha': 'center', 'va': 'bottom', 'fontsize': 8, 'color': figures.INK}
    figure.text(x / size[0], y / size[1], heading, **style)
  return figures.save(figure, path)


def _caption(row: Row) -> float:
  """Returns the height of the text under the images of a row, in inches."""
  lines = max((text.count('\n') + 1 for text in row.captions if text), default=0)
  return 0.12 * lines


def _outline_of(row: Row) -> np.ndarray:
  return np.zeros(row.images.shape[:-1], bool) if row.outline is None else row.outline


def _check_row(row: Row) -> None:
  if row.images.ndim != 4 or row.images.shape[-1] not in (1, 3) or 0 in row.images.shape:
    raise ValueError(
      f'The row {row.label!r} must have images of shape (n, height, width, 1 or 3), at least one; '
      f'got {row.images.shape}.'
    )
  if row.outline is not None and row.outline.shape != row.images.shape[:-1]:
    raise ValueError(
      f'The outline of the row {row.label!r} must have shape {row.images.shape[:-1]}; got '
      f'{row.outline.shape}.'
    )
  if row.kind not in ('pixels', 'signed', 'size'):
    raise ValueError(f"kind must be 'pixels', 'signed' or 'size'; got {row.kind!r}.")


def _panel(height: int, width: int) -> tuple[float, float]:
  """Returns height and width of one image in inches; enlarges small ones, keeps flat ones visible."""
  longest = 0.8 if max(height, width) <= 64 else 1.3
  scale = longest / max(height, width)
  return max(height * scale, 0.1), max(width * scale, 0.1)


def _limit(row: Row) -> float:
  values = np.abs(row.images[np.isfinite(row.images)])
  largest = float(values.max()) if values.size else 0.0
  return (largest if row.limit is None else row.limit) or 1.0


def _label(row: Row) -> str:
  if row.kind == 'pixels':
    return row.label
  sign = '±' if row.kind == 'signed' else '0 to '
  return f'{row.label}\n{sign}{_limit(row):.2g}'


class _Place(NamedTuple):
  """The place of an image in a figure, in inches."""

  left: float
  bottom: float
  height: float
  width: float

  @property
  def extent(self) -> tuple[float, float, float, float]:
    return self.left, self.left + self.width, self.bottom, self.bottom + self.height

  def of(self, pixels: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Converts (column, row) pairs [..., 2] of an image [H, W], integer at pixel centres, to inches."""
    across, down = np.moveaxis((np.asarray(pixels, float) + 0.5) / shape[1::-1], -1, 0)
    return np.stack([self.left + across * self.width, self.bottom + (1 - down) * self.height], -1)


def _draw(axes: Any, row: Row, index: int, place: _Place) -> None:
  from matplotlib.collections import LineCollection
  from matplotlib.patches import Rectangle

  image = row.images[index]
  options: dict[str, Any] = {'interpolation': 'nearest', 'aspect': 'auto', 'extent': place.extent}
  if row.kind == 'size':
    axes.imshow(image.mean(axis=-1), cmap='inferno', vmin=0, vmax=_limit(row), **options)
  elif row.kind == 'signed' and image.shape[-1] == 1:
    limit = _limit(row)
    axes.imshow(image[..., 0], cmap='RdBu_r', vmin=-limit, vmax=limit, **options)
  else:
    unit = image / _limit(row) if row.kind == 'signed' else image
    shown = np.nan_to_num(np.clip((np.asarray(unit, np.float64) + 1) / 2, 0, 1))
    axes.imshow(np.broadcast_to(shown, (*shown.shape[:2], 3)), **options)
  corner = place.left, place.bottom
  axes.add_patch(Rectangle(corner, place.width, place.height, fill=False, lw=0.4, ec='#888888'))
  if row.mark is not None:
    x, y = place.of(row.mark[::-1], image.shape)
    for color, width in (('white', 2.2), ('black', 0.9)):
      axes.plot(x, y, 'o', mec=color, mfc='none', ms=5, mew=width)
  if row.outline is not None:
    lines = place.of(_edges(row.outline[index]), image.shape)
    for color, width in (('white', 2.2), ('red', 1.1)):
      axes.add_collection(LineCollection(list(lines), colors=color, linewidths=width, capstyle='butt'))


def _edges(mask: np.ndarray) -> np.ndarray:
  """Returns sides of pixels [H, W] where a mask ends, as lines between two (column, row). [n, 2, 2]."""
  padded = np.pad(mask, 1)
  across = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])  # between a row and the one above
  along = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
  lines = [[(c - 0.5, r - 0.5), (c + 0.5, r - 0.5)] for r, c in across]
  lines += [[(c - 0.5, r - 0.5), (c - 0.5, r + 0.5)] for r, c in along]
  return np.reshape(lines, (-1, 2, 2))
