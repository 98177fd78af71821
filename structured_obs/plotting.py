"""Every figure, as a function from arrays to a PNG file. The only module that imports matplotlib.

Figures are drawn without a display and without global state, whatever backend is configured.

Letters: n images in a row; H W C image height, width, channels.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_DPI = 150
_INK = '#333333'
_COLORS = ('#1f6fb4', '#d1495b', '#3a8f5c', '#8a5fb0', '#c98a1b', '#4b4b4b')


class Row(NamedTuple):
  """One row of a picture: images and how to show them.

  Signed values are shown from blue over white to red for one channel; for three, gray stands for 0.
  Sizes, such as standard deviations, go from black to yellow, the mean over the channels. Both are
  scaled to the row's largest value, which is added to the label.
  """

  label: str
  images: np.ndarray  # [n, H, W, C], C = 1 or 3
  kind: str = 'pixels'  # 'pixels' in [-1, 1], clipped; 'signed' about 0; 'size' from 0
  mark: tuple[int, int] | None = None  # row and column of a pixel to mark
  limit: float | None = None  # value of the strongest colour instead of the row's largest


def image_rows(
  path: str | Path, rows: Sequence[Row], columns: Sequence[str] = (), title: str = ''
) -> Path:
  """Draws rows of images, each with its label at the left. Rows may differ in length.

  Args:
    path: of the PNG file; its directory is made.
    rows: from the top.
    columns: a short heading for each column, or none.
    title: above everything, or none.

  Returns:
    The path.

  Raises:
    ValueError: if there are no rows, or a row is not of images with 1 or 3 channels.
  """
  if not rows:
    raise ValueError('image_rows needs at least one row.')
  for row in rows:
    _check_row(row)
  count = max(len(row.images) for row in rows)
  shapes = [_panel(row.images.shape[1], row.images.shape[2]) for row in rows]
  labels = [_label(row) for row in rows]
  width = max(shape[1] for shape in shapes) + 0.06
  heights = [  # a flat image still needs room for its label
    max(shape[0] + 0.06, 0.14 * len(label.split('\n')) + 0.02)
    for shape, label in zip(shapes, labels, strict=True)
  ]
  left = 0.1 + 0.075 * max(len(line) for label in labels for line in label.split('\n'))
  top = 0.08 + 0.3 * bool(title) + 0.2 * bool(columns)
  size = max(left + count * width, 0.09 * len(title)) + 0.08, top + sum(heights) + 0.05
  figure = _figure(size)
  if title:
    figure.text(0.1 / size[0], 1 - 0.1 / size[1], title, va='top', fontsize=9, color=_INK)
  bottom = size[1] - top
  for row, label, height, shape in zip(rows, labels, heights, shapes, strict=True):
    bottom -= height
    middle = (bottom + height / 2) / size[1]
    figure.text((left - 0.08) / size[0], middle, label, ha='right', va='center', fontsize=8)
    for i, image in enumerate(row.images):
      corner = left + i * width, bottom + (height - shape[0]) / 2
      _draw(_axes(figure, corner, shape), row, image)
  for i, heading in enumerate(columns):
    x, y = left + (i + 0.5) * width, size[1] - top + 0.03
    figure.text(x / size[0], y / size[1], heading, ha='center', va='bottom', fontsize=8, color=_INK)
  return _save(figure, path)


def training_curves(path: str | Path, records: Sequence[Mapping[str, Any]]) -> Path | None:
  """Draws the ELBO of training and validation, and the KL, against the step.

  Args:
    path: of the PNG file; its directory is made.
    records: of metrics.jsonl. A number that was not finite is None there, and a gap here.

  Returns:
    The path; None, without a file, where there is nothing to draw.
  """
  training = _series(records, 'train', 'elbo')
  validation = _series(records, 'validation', 'elbo')
  if not len(training[0]) and not len(validation[0]):
    return None
  figure = _figure((6.4, 2.6))
  left, right = figure.subplots(1, 2)
  left.plot(*training, color=_COLORS[0], lw=1, label='training batches')
  left.plot(*validation, color=_COLORS[1], lw=1, marker='o', ms=2.5, label='validation')
  # The first steps are worse by orders of magnitude: leave them out of the scale.
  steady = np.concatenate([values[len(values) // 10 :] for _, values in (training, validation)])
  low, high = np.percentile(steady, (2, 100))
  margin = 0.06 * (high - low) + 1e-3
  left.set(ylim=(low - margin, high + margin), ylabel='ELBO, nats per image', xlabel='step')
  left.legend(frameon=False, fontsize=7, loc='lower right')
  names = sorted({name for record in records for name in record if name.startswith('stats/kl_')})
  for name, color in zip(names, _COLORS[2:], strict=False):
    right.plot(*_series(records, 'train', name), color=color, lw=1)
  right.set(ylabel='KL of the latents, nats', xlabel='step')
  right.set_ylim(bottom=0, top=1.05 * max(right.get_ylim()[1], 1e-3))
  for axes in (left, right):
    _tidy(axes)
  figure.tight_layout(w_pad=2)
  return _save(figure, path)


def signals(path: str | Path, curves: Mapping[str, np.ndarray]) -> Path:
  """Draws signals of several kinds over each other, one panel for each example.

  Args:
    path: of the PNG file; its directory is made.
    curves: by name, [n, points] each: one curve in each of n panels. The first kind is dashed.
  """
  count = len(next(iter(curves.values())))
  columns = min(count, 3)
  figure = _figure((2.4 * columns, 0.35 + 1.5 * math.ceil(count / columns)))
  panels = figure.subplots(math.ceil(count / columns), columns, squeeze=False).flat
  for i, axes in enumerate(panels):
    for j, (name, values) in enumerate(curves.items() if i < count else ()):
      color, style = ('#999999', '--') if j == 0 else (_COLORS[(j - 1) % len(_COLORS)], '-')
      axes.plot(values[i], color=color, ls=style, lw=0.9, label=name)
    axes.set_visible(i < count)
    _tidy(axes)
  handles, names = figure.axes[0].get_legend_handles_labels()
  figure.legend(handles, names, frameon=False, fontsize=7, loc='upper center', ncols=len(names))
  figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_size_inches()[1]))
  return _save(figure, path)


def quantile_quantile(
  path: str | Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Path:
  """Draws found against expected quantiles of squared Mahalanobis distances per dimension.

  Args:
    path: of the PNG file; its directory is made.
    curves: by the model's name, the expected and the found quantiles, see
      `evaluation.calibration.quantiles`.
  """
  legend = 0.1 + 0.15 * (1 + len(curves))  # inches, below the axes: beside the points is no safe place
  figure = _figure((3.6, 3.4 + legend))
  axes = figure.subplots()
  finite = [value[np.isfinite(value)] for pair in curves.values() for value in pair]
  values = np.concatenate([value for value in finite if value.size] or [np.array([0.5, 1.5])])
  # A few images may be ten times as far as any other: on a scale of factors all can be seen.
  low, high = max(values.min(), 1e-3) / 1.1, max(values.max(), 1e-3) * 1.1
  axes.plot([low, high], [low, high], color='#999999', lw=0.8, ls='--', label='as the model says')
  for i, (name, (expected, found)) in enumerate(curves.items()):
    color = _COLORS[i % len(_COLORS)]
    axes.plot(expected, found, color=color, ls='', marker='o', ms=2, label=name)
  axes.set(xscale='log', yscale='log', xlim=(low, high), ylim=(low, high))
  axes.set(xlabel='expected under the model', ylabel='found on the images')
  axes.set_title('squared Mahalanobis distance / D', fontsize=8, color=_INK)
  ticks = _ticks(low, high)
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_ticks(ticks, labels=[f'{tick:g}' for tick in ticks])
    axis.set_ticks([], minor=True)
  _tidy(axes)
  figure.legend(frameon=False, fontsize=7, loc='lower center', handletextpad=0.5)
  figure.tight_layout(rect=(0, legend / (3.4 + legend), 1, 1))
  return _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=_DPI, facecolor='white')
  FigureCanvasAgg(figure)
  return figure


def _axes(figure: Any, corner: tuple[float, float], shape: tuple[float, float]) -> Any:
  """Axes with this lower left corner (x, y) and of this shape (height, width), in inches."""
  width, height = figure.get_size_inches()
  box = corner[0] / width, corner[1] / height, shape[1] / width, shape[0] / height
  return figure.add_axes(box)


def _save(figure: Any, path: str | Path) -> Path:
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format='png')
  return path


def _check_row(row: Row) -> None:
  if row.images.ndim != 4 or row.images.shape[-1] not in (1, 3) or 0 in row.images.shape:
    raise ValueError(
      f'The row {row.label!r} must hold images of shape (n, height, width, 1 or 3), at least one; '
      f'got {row.images.shape}.'
    )
  if row.kind not in ('pixels', 'signed', 'size'):
    raise ValueError(f"kind must be 'pixels', 'signed' or 'size'; got {row.kind!r}.")


def _panel(height: int, width: int) -> tuple[float, float]:
  """Height and width of one image in inches: small ones enlarged, flat or narrow ones visible."""
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


def _draw(axes: Any, row: Row, image: np.ndarray) -> None:
  axes.set(xticks=[], yticks=[])
  for spine in axes.spines.values():
    spine.set(linewidth=0.4, color='#888888')
  options: dict[str, Any] = {'interpolation': 'nearest', 'aspect': 'auto'}
  if row.kind == 'size':
    axes.imshow(image.mean(axis=-1), cmap='inferno', vmin=0, vmax=_limit(row), **options)
  elif row.kind == 'signed' and image.shape[-1] == 1:
    limit = _limit(row)
    axes.imshow(image[..., 0], cmap='RdBu_r', vmin=-limit, vmax=limit, **options)
  else:
    unit = image / _limit(row) if row.kind == 'signed' else image
    shown = np.nan_to_num(np.clip((np.asarray(unit, np.float64) + 1) / 2, 0, 1))
    axes.imshow(np.broadcast_to(shown, (*shown.shape[:2], 3)), **options)
  if row.mark is not None:
    for color, width in (('white', 2.2), ('black', 0.9)):
      axes.plot(row.mark[1], row.mark[0], 'o', mec=color, mfc='none', ms=5, mew=width)


def _series(
  records: Sequence[Mapping[str, Any]], kind: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Steps and values of one metric, where it is a number."""
  found = [
    (record['step'], record[name])
    for record in records
    if record.get('kind') == kind and record.get(name) is not None
  ]
  steps, values = zip(*found, strict=True) if found else ((), ())
  return np.array(steps, float), np.array(values, float)


def _ticks(low: float, high: float) -> list[float]:
  """A few round numbers between the two, each about the same factor from the next."""
  steps = (1, 2, 5) if high / low > 4 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
  decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  ticks = [step * 10.0**decade for decade in decades for step in steps]
  inside = [tick for tick in ticks if low <= tick <= high]
  return inside[:: max(1, math.ceil(len(inside) / 6))]


def _tidy(axes: Any) -> None:
  axes.tick_params(labelsize=7, color='#888888', width=0.6, length=2.5)
  for name, spine in axes.spines.items():
    spine.set(visible=name in ('left', 'bottom'), color='#888888', linewidth=0.6)
  for label in (axes.xaxis.label, axes.yaxis.label):
    label.set(fontsize=8, color=_INK)
