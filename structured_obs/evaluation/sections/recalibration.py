"""The section on recalibration: temperature and tails fitted on validation images, judged on others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation import finite, likelihood, residuals, tables
from structured_obs.evaluation.metrics.temperature import Recalibration
from structured_obs.evaluation.sections.base import Evaluated, Section

BINS = 20  # of histograms
CASES = ('as it is', 'temperature', 'Student t')
COLUMNS = ('mean', 'spread', 'pit_spread', 'distance')  # of a calibration


def text(found: Mapping[str, Recalibration]) -> str:
  """Returns a Markdown table with three rows per model: as it is, with a temperature, as a Student t."""
  if not found:
    return ''
  rows = [
    [
      '',
      'temperature',
      'nu',
      'q / D',
      'its spread',
      'PIT spread',
      'KS of q',
      '-log p, nats',
      'difference',
    ]
  ]
  for name, one in found.items():
    calibrations = one.before, one.after, one.student
    settings = (
      ('', ''),
      (f'{one.temperature:.3f}', ''),
      (f'{one.tails.temperature:.3f}', f'{one.tails.dof:.3g}'),
    )
    values = one.negative_log_prob, one.tempered, one.heavy
    for case, setting, calibration, value in zip(CASES, settings, calibrations, values, strict=True):
      rows.append(
        [
          f'{name}, {case}',
          *setting,
          *(f'{getattr(calibration, column):.3f}' for column in COLUMNS),
          f'{likelihood.summarize(value).mean:.2f}',
          '' if case == CASES[0] else tables.difference_cell(value, one.negative_log_prob, 2),
        ]
      )
  distances = {f'{name}: q / D': one.found_on for name, one in found.items()}
  return tables.paragraphs(
    '## Recalibration',
    tables.markdown_table(rows),
    finite.sentences(distances, 'validation images'),
    finite.sentences({f'{name}: -log p recalibrated': one.tempered for name, one in found.items()}),
    EXPLANATION,
  )


EXPLANATION = (
  'The temperature, a factor of standard deviations, is the most likely one on the validation images. '
  'Pass it to `launch.sample` as --temperature. A Student t has one number more, its degrees of freedom '
  'nu: the smaller it is, the more images differ in the size of their residuals. Both are the most '
  'likely together; `launch.recalibrate` saves the model with them. q / D and its spread are over their '
  'expectation, the spread of the probability of a smaller q (PIT) over that of uniform numbers, and '
  'the Kolmogorov-Smirnov distance of q (KS) is that from its distribution: F for a Student t, or '
  'chi-square.'
)


def as_json(found: Mapping[str, Recalibration]) -> dict[str, Any]:
  """Returns everything in the table by the model's name, with the nats gained per image."""
  return {
    name: {
      'temperature': one.temperature,
      'before': one.before._asdict(),
      'after': one.after._asdict(),
      'negative_log_prob': likelihood.summarize(one.negative_log_prob)._asdict(),
      'tempered': likelihood.summarize(one.tempered)._asdict(),
      'tempered_gain': _gain(one.negative_log_prob, one.tempered),
      'student': {
        **one.tails._asdict(),
        'after': one.student._asdict(),
        'negative_log_prob': likelihood.summarize(one.heavy)._asdict(),
        'gain': _gain(one.negative_log_prob, one.heavy),
        'gain_over_temperature': _gain(one.tempered, one.heavy),
      },
    }
    for name, one in found.items()
  }


def _gain(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
  return likelihood.paired_difference(before, after)._asdict()


def draw(directory: Path, found: Mapping[str, Recalibration]) -> dict[str, Path]:
  """Draws histograms of the probability of a smaller q, which should be flat; returns paths by title."""
  histograms = {}
  for name, one in found.items():
    for case, probability in zip(CASES, one.probabilities, strict=True):
      if np.isfinite(probability).all():
        counts, _ = np.histogram(probability, BINS, (0, 1))
        histograms[f'{name}, {case}'] = counts / probability.size
  if not histograms:
    return {}
  path = directory / 'recalibration.png'
  title = 'probability integral transform of q'
  return {'Recalibration': plotting.uniformity(path, histograms, title)}


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = residuals.recalibrations(evaluated.found, evaluated.splits['validation'], evaluated.where)
  if not found:
    return None
  return Section(
    'recalibration', text(found), as_json(found), draw=lambda directory: draw(directory, found)
  )
