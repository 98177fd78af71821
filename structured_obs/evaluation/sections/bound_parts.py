"""Parts of a bound: the log densities of observed variables, and the KL of every latent.

Minus the ELBO of an image is the sum of RE_x = -log p(x|..), for every observed variable, and of
KL_z = KL(q(z|..) || p(z|..)), for every latent, each the mean over samples of the other latents. In
bits per dimension all are divided by the dimensions of x alone, so that they add up to the bound; the
width of a gray level belongs to RE_x.

Letters: N images.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, table 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from structured_obs.evaluation import finite, likelihood, results, tables
from structured_obs.evaluation.results import Result
from structured_obs.evaluation.sections.base import Evaluated, Section

OF_LEVELS = 'RE_x'  # the part that the width of a level belongs to
SUM = 'sum'
EXPLANATION = (
  'Minus the ELBO is the sum of its parts: RE is -log p of an observed variable, KL is the divergence '
  "of a latent's posterior from its prior. Bits/dim divide all of them by the pixels times channels of "
  "x."
)


def applies(result: Result) -> bool:
  """Returns whether a model's bound has several parts."""
  return result.trained.model.traits.has_prior and len(result.scores.parts) > 1


def in_bits(result: Result) -> dict[str, np.ndarray]:
  """Returns every part in bits per dimension, [N] each, for images of gray levels."""
  nothing = results.bits(result, np.zeros_like(result.scores.elbo))
  return {
    name: results.bits(result, -part) - (0 if name == OF_LEVELS else nothing)
    for name, part in result.scores.parts.items()
  }


def text(found: Sequence[Result]) -> str:
  """Returns a Markdown table with one row per part and one for their sum, for models with parts."""
  header, names = ['part of -ELBO'], {}
  for result in found:
    header += [f'{result.trained.name}, {unit}' for unit, _, _ in _columns(result)]
    names |= dict.fromkeys(result.scores.parts)
  rows = [[name, *_row(found, name)] for name in (*names, SUM)]
  bad = finite.sentences(
    {
      f'{result.trained.name}: {name}': part
      for result in found
      for name, part in result.scores.parts.items()
    }
  )
  table = tables.markdown_table([header, *rows])
  return tables.paragraphs('## Parts of the bound', table, bad, EXPLANATION)


def as_json(found: Sequence[Result]) -> dict[str, Any]:
  """Returns summaries by model, part and unit."""
  return {
    result.trained.name: {
      name: {
        unit.replace('/', '_per_'): likelihood.summarize(parts[name])._asdict()
        for unit, parts, _ in _columns(result)
      }
      for name in result.scores.parts
    }
    for result in found
  }


def per_image(found: Sequence[Result]) -> dict[str, np.ndarray]:
  """Returns arrays [N] in nats by 'NAME/PART', for np.savez."""
  return {
    f'{result.trained.name}/{name}': part
    for result in found
    for name, part in result.scores.parts.items()
  }


def _columns(result: Result) -> list[tuple[str, Mapping[str, np.ndarray], int]]:
  """Returns the units of a model's parts: name, parts [N] each, and decimals."""
  found = [('nats', result.scores.parts, 2)]
  return [*found, ('bits/dim', in_bits(result), 4)] if result.settings.levels else found


def _row(found: Sequence[Result], name: str) -> list[str]:
  """Returns a part, or the sum of all, of every model in every unit; '' if it has none."""
  cells = []
  for result in found:
    for _, parts, decimals in _columns(result):
      values = np.sum([*parts.values()], axis=0) if name == SUM else parts.get(name)
      cells.append(tables.mean_cell(values, decimals))
  return cells


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = [result for result in evaluated.found if applies(result)]
  if not found:
    return None
  tree, arrays = as_json(found), per_image(found)
  return Section('bound_parts', text(found), tree, arrays)
