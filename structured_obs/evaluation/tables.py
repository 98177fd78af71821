"""Markdown tables and their cells."""

import math
from collections.abc import Sequence

import numpy as np

from structured_obs.evaluation import likelihood


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
  """Returns a header and rows of cells as Markdown, with aligned columns: names left, numbers right."""
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


def cell(summary: likelihood.Summary | None, decimals: int, factor: float = 1.0) -> str:
  """Returns a mean and its standard error, times a factor, as text.

  It is 'nan' for a mean that is NaN, and '' for None, which a model does not have.

  Args:
    summary: mean and standard error, or None.
    decimals: of both.
    factor: of both.
  """
  if summary is None:
    return ''
  return spread_cell(factor * summary.mean, factor * summary.standard_error, decimals)


def mean_cell(values: np.ndarray | None, decimals: int, factor: float = 1.0) -> str:
  """Returns `cell` of the mean of values [N]; '' for None.

  Args:
    values: [N], or None.
    decimals: of the mean and its standard error.
    factor: of both.
  """
  return cell(None if values is None else likelihood.summarize(values), decimals, factor)


def difference_cell(
  first: np.ndarray | None, second: np.ndarray | None, decimals: int, factor: float = 1.0
) -> str:
  """Returns `cell` of the mean of first - second, values [N] of the same images; '' if one is None.

  Args:
    first: [N], or None.
    second: [N], or None.
    decimals: of the mean and its standard error.
    factor: of both.
  """
  if first is None or second is None:
    return ''
  return cell(likelihood.paired_difference(first, second), decimals, factor)


def spread_cell(mean: float, spread: float, decimals: int) -> str:
  """Returns a number and its spread as text; 'nan' for a number that is NaN.

  Args:
    mean: the number.
    spread: its spread.
    decimals: of both.
  """
  if math.isnan(mean):
    return 'nan'
  return f'{round(mean, decimals) + 0:.{decimals}f} ± {spread:.{decimals}f}'  # never -0.00
