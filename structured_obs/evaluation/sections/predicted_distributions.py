"""The section on predicted distributions: table, JSON and figures of `predictive_checks`.

Letters: N images.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation import finite, likelihood, residuals, tables
from structured_obs.evaluation.metrics import calibration
from structured_obs.evaluation.metrics.predictive_checks import (
  HIDDEN,
  HIDDEN_NATS,
  SAMPLES,
  VARIOGRAM,
  Checks,
)
from structured_obs.evaluation.sections.base import Evaluated, Section


class _Score(NamedTuple):
  """One line of the table."""

  label: str
  factor: float  # of the numbers shown
  of_alike: bool  # whether scores of densities and of probabilities of levels are not comparable


SCORES = {
  VARIOGRAM: _Score('variogram score of neighbours, times 1000', 1000.0, True),
  HIDDEN: _Score('right half given left half and z, bits / value', 1.0, False),
  HIDDEN_NATS: _Score('right half given left half and z, nats / value', 1.0, False),
}
DISTANCES: dict[str, Callable[[Checks], float | None]] = {
  'KS distance of PIT from uniform': lambda one: one.pit_distance,
  'KS distance of q from its distribution, all images': lambda one: one.distance_of_q,
}


def text(found: Mapping[str, Checks]) -> str:
  """Returns a Markdown section, with differences from the first model."""
  first, *others = found.values()
  count, total = len(first.scores[VARIOGRAM]), len(first.result.scores.mahalanobis)
  header = [f'mean over the first {count} images', *found]
  rows = [[*header, *(f'{name} - {header[1]}' for name in header[2:])]]
  for name, score in SCORES.items():
    if not any(name in one.scores for one in found.values()):
      continue
    cells = [tables.mean_cell(one.scores.get(name), 3, score.factor) for one in found.values()]
    rows.append([score.label, *cells, *(_difference(one, first, name) for one in others)])
  for label, distance in DISTANCES.items():
    told = [distance(one) for one in found.values()]
    if any(one is not None for one in told):
      rows.append([label, *('' if one is None else f'{one:.3f}' for one in told), *('' for _ in others)])
  parts = ['## Predicted distributions', tables.markdown_table(rows), _not_finite(found), EXPLANATION]
  if any(one.pit is not None for one in found.values()):
    parts.append(_of_covariances(total))
  unknown = [name for name, one in found.items() if not {HIDDEN, HIDDEN_NATS} & {*one.scores}]
  if unknown:
    parts.append(
      f'{", ".join(unknown)}: no exact conditional is known at this image size, so the hidden half '
      'is left out.'
    )
  return tables.paragraphs(*parts)


def _not_finite(found: Mapping[str, Checks]) -> str:
  values = {
    f'{name}: {score.label}': one.scores[key]
    for key, score in SCORES.items()
    for name, one in found.items()
    if key in one.scores
  }
  for name, one in found.items():
    if one.pit_by_image is not None:
      values[f'{name}: PIT'] = one.pit_by_image
      values[f'{name}: q'] = one.result.scores.mahalanobis
  return finite.sentences(values)


def _difference(other: Checks, first: Checks, name: str) -> str:
  score = SCORES[name]
  if score.of_alike and other.discrete != first.discrete:
    return ''
  return tables.difference_cell(other.scores.get(name), first.scores.get(name), 3, score.factor)


EXPLANATION = (
  'At the mean of q(z|x); smaller is better, and ± is the standard error over images, for a difference '
  'that of the differences. The variogram score compares square roots of the differences of '
  f'neighbours, at lags up to 4, with their expectation ({SAMPLES} samples). The hidden half is scored '
  'given the other half and z, which has seen both.'
)


def _of_covariances(total: int) -> str:
  chance = 1.36 / total**0.5
  return (
    'Kolmogorov-Smirnov (KS) distances range from 0 to 1. They are 0 if the marginals of pixels (PIT), '
    'or the squared Mahalanobis distances q, are distributed as the model predicts; for q and '
    f'{total} images, chance alone gives up to {chance:.3f} in 19 of 20 cases. The dashed lines in the '
    'figures are those of a calibrated model.'
  )


def as_json(found: Mapping[str, Checks]) -> dict[str, Any]:
  """Returns everything in the table by the model's name, without the differences.

  Entries that do not apply to a model are left out; those that apply and are not finite are null.
  """
  return {
    name: {
      **{score: likelihood.summarize(values)._asdict() for score, values in one.scores.items()},
      **(_covariance_json(one) if one.pit is not None else {}),
    }
    for name, one in found.items()
  }


def _covariance_json(one: Checks) -> dict[str, Any]:
  return {
    'pit': one.pit,
    'pit_distance': one.pit_distance,
    'distance_of_q': one.distance_of_q,
  }


def per_image(found: Mapping[str, Checks]) -> dict[str, np.ndarray]:
  """Returns arrays for np.savez: the scores by 'NAME/SCORE'."""
  return {
    f'{name}/{score}': values for name, one in found.items() for score, values in one.scores.items()
  }


def draw(directory: Path, found: Mapping[str, Checks]) -> dict[str, Path]:
  """Draws quantiles of q / D, and histograms of PIT, for each covariance; returns paths by title."""
  known = {name: one for name, one in found.items() if one.pit is not None}
  if not known:
    return {}
  curves = {
    name: calibration.quantiles(
      one.result.scores.mahalanobis, one.result.num_dims, one.result.scores.inverse_dof
    )
    for name, one in known.items()
  }
  histograms = {name: one.pit for name, one in known.items() if one.pit is not None}
  return {
    'Calibration': plotting.quantile_quantile(directory / 'calibration.png', curves),
    'Marginals': plotting.uniformity(directory / 'marginals.png', histograms),
  }


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = residuals.checks(evaluated.found, evaluated.images, evaluated.seed, evaluated.where)
  return Section(
    'predicted_distributions',
    text(found),
    as_json(found),
    per_image(found),
    lambda directory: draw(directory, found),
  )
