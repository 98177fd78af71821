"""Draws curves: training, signals and quantiles."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs.plotting import figure as figures


def training_curves(path: str | Path, records: Sequence[Mapping[str, Any]]) -> Path | None:
  """Draws the ELBO of training and validation, and the KL, against the step.

  Args:
    path: of the PNG file; its directory is created.
    records: of metrics.jsonl. A number that was not finite is None and leaves a gap.

  Returns:
    The path; None, without a file, if there is nothing to draw.
  """
  training = _series(records, 'train', 'elbo')
  validation = _series(records, 'validation', 'elbo')
  if not len(training[0]) and not len(validation[0]):
    return None
  figure = figures.make((6.4, 2.6))
  left, right = figure.subplots(1, 2)
  left.plot(*training, color=figures.COLORS[0], lw=1, label='training batches')
  left.plot(*validation, color=figures.COLORS[1], lw=1, marker='o', ms=2.5, label='validation')
  # The first steps are worse by orders of magnitude; the scale leaves them out.
  steady = np.concatenate([values[len(values) // 10 :] for _, values in (training, validation)])
  low, high = np.percentile(steady, (2, 100))
  margin = 0.06 * (high - low) + 1e-3
  left.set(ylim=(low - margin, high + margin), ylabel='ELBO, nats per image', xlabel='step')
  left.legend(frameon=False, fontsize=7, loc='lower right')
  names = sorted({name for record in records for name in record if name.startswith('stats/kl_')})
  for name, color in zip(names, figures.COLORS[2:], strict=False):
    right.plot(*_series(records, 'train', name), color=color, lw=1)
  right.set(ylabel='KL of the latents, nats', xlabel='step')
  right.set_ylim(bottom=0, top=1.05 * max(right.get_ylim()[1], 1e-3))
  for axes in (left, right):
    _tidy(axes)
  figure.tight_layout(w_pad=2)
  return figures.save(figure, path)


def signals(path: str | Path, curves: Mapping[str, np.ndarray], title: str = '') -> Path:
  """Draws signals of several kinds over each other, one panel per example.

  Args:
    path: of the PNG file; its directory is created.
    curves: by name, [n, points] each: one curve in each of n panels. The first kind is dashed.
    title: above everything, or none.
  """
  count = len(next(iter(curves.values())))
  columns = min(count, 3)
  figure = figures.make((2.4 * columns, 0.35 + _above(title) + 1.5 * math.ceil(count / columns)))
  panels = figure.subplots(math.ceil(count / columns), columns, squeeze=False).flat
  for i, axes in enumerate(panels):
    for j, (name, values) in enumerate(curves.items() if i < count else ()):
      color, style = figures.COLORS[(j - 1) % len(figures.COLORS)], '-'
      if j == 0:
        color, style = '#999999', '--'
      axes.plot(values[i], color=color, ls=style, lw=0.9, label=name)
    axes.set_visible(i < count)
    _tidy(axes)
  handles, names = figure.axes[0].get_legend_handles_labels()
  _head(figure, title, dict(zip(names, handles, strict=True)), 0.25, columns=len(names))
  return figures.save(figure, path)


def quantile_quantile(path: str | Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Path:
  """Draws observed against expected quantiles of squared Mahalanobis distances per dimension.

  Args:
    path: of the PNG file; its directory is created.
    curves: by the model's name, expected and observed quantiles; see
      `evaluation.metrics.calibration.quantiles`.
  """
  legend = 0.1 + 0.15 * (1 + len(curves))  # inches, below the axes: beside the points it could hide some
  figure = figures.make((3.6, 3.4 + legend))
  axes = figure.subplots()
  finite = [value[np.isfinite(value)] for pair in curves.values() for value in pair]
  values = np.concatenate([value for value in finite if value.size] or [np.array([0.5, 1.5])])
  # A few images may be ten times as far as any other; a logarithmic scale shows all of them.
  low, high = max(values.min(), 1e-3) / 1.1, max(values.max(), 1e-3) * 1.1
  axes.plot([low, high], [low, high], color='#999999', lw=0.8, ls='--', label='calibrated model')
  for i, (name, (expected, found)) in enumerate(curves.items()):
    color = figures.COLORS[i % len(figures.COLORS)]
    axes.plot(expected, found, color=color, ls='', marker='o', ms=2, label=name)
  axes.set(xscale='log', yscale='log', xlim=(low, high), ylim=(low, high))
  axes.set(xlabel='expected under the model', ylabel='observed on the images')
  axes.set_title('squared Mahalanobis distance / D', fontsize=8, color=figures.INK)
  ticks = _ticks(low, high)
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_ticks(ticks, labels=[f'{tick:g}' for tick in ticks])
    axis.set_ticks([], minor=True)
  _tidy(axes)
  figure.legend(frameon=False, fontsize=7, loc='lower center', handletextpad=0.5)
  figure.tight_layout(rect=(0, legend / (3.4 + legend), 1, 1))
  return figures.save(figure, path)


def uniformity(
  path: str | Path,
  histograms: Mapping[str, np.ndarray],
  title: str = 'probability integral transform of the pixels',
) -> Path:
  """Draws densities of numbers in [0, 1] that should be uniformly distributed, as histograms.

  Args:
    path: of the PNG file; its directory is created.
    histograms: by the model's name, fractions [bins] of the numbers in equal bins.
    title: above the axes.
  """
  legend = 0.1 + 0.15 * (1 + len(histograms))  # inches, below the axes
  figure = figures.make((3.6, 2.4 + legend))
  axes = figure.subplots()
  axes.plot([0, 1], [1, 1], color='#999999', lw=0.8, ls='--', label='calibrated model')
  for i, (name, fractions) in enumerate(histograms.items()):
    edges, density = np.linspace(0, 1, len(fractions) + 1), fractions * len(fractions)
    color = figures.COLORS[i % len(figures.COLORS)]
    axes.stairs(density, edges, baseline=None, color=color, lw=1, label=name)
  axes.set(xlim=(0, 1), xlabel='predicted probability of a smaller value', ylabel='density')
  axes.set_ylim(bottom=0)
  axes.set_title(title, fontsize=8, color=figures.INK)
  _tidy(axes)
  figure.legend(frameon=False, fontsize=7, loc='lower center', handletextpad=0.5)
  figure.tight_layout(rect=(0, legend / (2.4 + legend), 1, 1))
  return figures.save(figure, path)


def points_with_errors(
  path: str | Path, panels: Mapping[str, Mapping[str, np.ndarray]], label: str, title: str = ''
) -> Path:
  """Draws numbers of several models against another one, a panel for each kind of number.

  Args:
    path: of the PNG file; its directory is created.
    panels: by the number's name and the model's, [N, 3]: abscissa, ordinate and its error, which may be
      NaN. Points that are not finite are left out.
    label: of the abscissa.
    title: above everything, or none.
  """
  names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
  columns, lines = min(2, len(panels)), math.ceil(len(panels) / 2)
  legend = 0.1 + 0.15 * math.ceil(len(names) / 4)  # inches, above the panels
  figure = figures.make((3.2 * columns, 2.4 * lines + legend + _above(title)))
  grid = figure.subplots(lines, columns, squeeze=False)
  for axes in list(grid.flat)[len(panels) :]:
    axes.set_visible(False)
  for axes, (number, curves) in zip(grid.flat, panels.items(), strict=False):
    for name, points in curves.items():
      kept = points[np.isfinite(points[:, :2]).all(axis=1)]
      color = figures.COLORS[names.index(name) % len(figures.COLORS)]
      style = {'color': color, 'lw': 1, 'marker': 'o', 'ms': 2.5, 'elinewidth': 0.8, 'capsize': 2}
      axes.errorbar(kept[:, 0], kept[:, 1], np.nan_to_num(kept[:, 2]), label=name, **style)
    axes.set(xlabel=label, ylabel=number)
    _tidy(axes)
  handles = {}
  for axes in figure.axes:
    handles |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
  _head(figure, title, {name: handles[name] for name in names}, legend, columns=4)
  return figures.save(figure, path)


def _above(title: str) -> float:
  """Returns the inches that a title takes."""
  return 0.2 * bool(title)


def _head(figure: Any, title: str, lines: Mapping[str, Any], legend: float, columns: int) -> None:
  """Puts a title, if any, and a legend of so many inches above the panels."""
  height, above = figure.get_size_inches()[1], _above(title)
  at = {'loc': 'upper center', 'bbox_to_anchor': (0.5, 1 - above / height)}
  figure.legend([*lines.values()], [*lines], frameon=False, fontsize=7, ncols=columns, **at)
  figure.text(0.02, 1 - 0.06 / height, title, va='top', fontsize=8, color=figures.INK)
  figure.tight_layout(rect=(0, 0, 1, 1 - (legend + above) / height))


def _series(records: Sequence[Mapping[str, Any]], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns steps and values of one metric, where it is a number."""
  found = [
    (record['step'], record[name])
    for record in records
    if record.get('kind') == kind and record.get(name) is not None
  ]
  steps, values = zip(*found, strict=True) if found else ((), ())
  return np.array(steps, float), np.array(values, float)


def _ticks(low: float, high: float) -> list[float]:
  """Returns a few round numbers between the two, about equally spaced on a logarithmic scale."""
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
    label.set(fontsize=8, color=figures.INK)
