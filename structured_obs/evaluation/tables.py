"""Tables for people and strict JSON for programs."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from structured_obs.evaluation import likelihood


def strict_json(tree: Any) -> str:
  """JSON text in which a number that is not finite is null, as the standard demands."""
  return json.dumps(_strict(tree), indent=2, allow_nan=False) + '\n'


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
  """Markdown of a header and rows of cells, with columns aligned: names left, numbers right."""
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

  def text(line: Sequence[str]) -> str:
    cells = [
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return f'| {" | ".join(cells)} |'

  rule = [('-' * width) if not i else '-' * (width - 1) + ':' for i, width in enumerate(widths)]
  return '\n'.join([text(lines[0]), text(rule), *(text(line) for line in lines[1:])])


def paragraphs(*parts: str) -> str:
  """Joins the parts of a Markdown text, leaving out empty ones."""
  return '\n\n'.join(part for part in parts if part)


def cell(summary: likelihood.Summary, decimals: int, factor: float = 1.0) -> str:
  """Returns a mean and its standard error, times a factor, as text; 'nan' for a mean that is NaN."""
  if math.isnan(summary.mean):
    return 'nan'
  mean, error = factor * summary.mean, factor * summary.standard_error
  return f'{round(mean, decimals) + 0:.{decimals}f} ± {error:.{decimals}f}'  # never -0.00


def _strict(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {str(key): _strict(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_strict(item) for item in value]
  if isinstance(value, (np.generic, np.ndarray)):
    return _strict(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value
