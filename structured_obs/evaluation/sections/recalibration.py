"""The section on recalibration: a temperature fitted on validation images and judged on the others."""

from collections.abc import Mapping
from typing import Any

from structured_obs.evaluation import finite, likelihood, residuals, tables
from structured_obs.evaluation.metrics.temperature import Recalibration
from structured_obs.evaluation.sections.base import Evaluated, Section


def text(found: Mapping[str, Recalibration]) -> str:
  """Returns a Markdown table with one row per model."""
  if not found:
    return ''
  header = ['', 'temperature', 'q / D', 'recalibrated', 'its spread', 'recalibrated']
  header += ['-log p, nats', 'recalibrated', 'difference']
  rows = [header]
  for name, one in found.items():
    rows.append(
      [
        name,
        f'{one.temperature:.3f}',
        *(f'{value:.3f}' for value in (one.before.mean, one.after.mean)),
        *(f'{value:.3f}' for value in (one.before.spread, one.after.spread)),
        *(f'{likelihood.summarize(x).mean:.2f}' for x in (one.negative_log_prob, one.tempered)),
        tables.difference_cell(one.tempered, one.negative_log_prob, 2),
      ]
    )
  distances = {f'{name}: q / D': one.found_on for name, one in found.items()}
  return tables.paragraphs(
    '## Recalibration',
    tables.markdown_table(rows),
    finite.sentences(distances, 'validation images'),
    finite.sentences({f'{name}: -log p recalibrated': one.tempered for name, one in found.items()}),
    'The temperature, a factor of standard deviations, is the most likely one on the validation images. '
    'Pass it to `launch.sample` as --temperature.',
  )


def as_json(found: Mapping[str, Recalibration]) -> dict[str, Any]:
  """Returns everything in the table by the model's name."""
  return {
    name: {
      'temperature': one.temperature,
      'before': one.before._asdict(),
      'after': one.after._asdict(),
      'negative_log_prob': likelihood.summarize(one.negative_log_prob)._asdict(),
      'tempered': likelihood.summarize(one.tempered)._asdict(),
    }
    for name, one in found.items()
  }


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = residuals.recalibrations(evaluated.found, evaluated.splits['validation'], evaluated.where)
  if not found:
    return None
  return Section('recalibration', text(found), as_json(found))
