"""The section on whitened residuals: correlations of neighbours that a model missed.

Residuals use the dequantised images, as likelihoods do. `metrics.autocorrelation` defines the numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation import finite, residuals, tables
from structured_obs.evaluation.metrics.autocorrelation import LAG, Whiteness
from structured_obs.evaluation.sections.base import Evaluated, Figures, Section


def text(found: Mapping[str, Whiteness]) -> str:
  """Returns a Markdown section: the root mean square and the nearest lags of each model."""
  if not found:
    return ''
  rows = [['correlation of white pixels', 'one down', 'one right', f'all lags to {LAG}, rms']]
  for name, one in found.items():
    middle = one.autocorrelation.shape[0] // 2
    near = (one.autocorrelation[middle + 1, middle], one.autocorrelation[middle, middle + 1])
    rows.append([name, *(f'{value:.3f}' for value in (*near, one.root_mean_square))])
  return tables.paragraphs(
    '## Whitened residuals',
    tables.markdown_table(rows),
    finite.sentences({name: one.mean_square for name, one in found.items()}),
    'A calibrated model has 0 everywhere; "residual itself" is not whitened.',
  )


def as_json(found: Mapping[str, Whiteness]) -> dict[str, Any]:
  """Returns root mean square and autocorrelation by name."""
  return {
    name: {'root_mean_square': one.root_mean_square, 'autocorrelation': one.autocorrelation.tolist()}
    for name, one in found.items()
  }


def draw(path: Path, found: Mapping[str, Whiteness]) -> Path:
  """Draws the autocorrelations on one scale, without lag 0."""
  shown = {name: one.autocorrelation.copy() for name, one in found.items()}
  for lags in shown.values():
    lags[lags.shape[0] // 2, lags.shape[0] // 2] = np.nan
  values = np.abs(np.stack([*shown.values()]))
  limit = float(np.max(values, where=np.isfinite(values), initial=0))
  rows = [
    plotting.Row(name, lags[None, :, :, None], 'signed', limit=limit) for name, lags in shown.items()
  ]
  return plotting.image_rows(path, rows, title=f'Autocorrelation, lags to {LAG}')


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  models = [result.trained for result in evaluated.found]
  found = residuals.whitenesses(models, evaluated.images, evaluated.seed, evaluated.where)
  if not found:
    return None

  def figures(directory: Path) -> Figures:
    return {'Autocorrelation of residuals': draw(directory / 'whiteness.png', found)}

  return Section('whiteness', text(found), as_json(found), draw=figures)
