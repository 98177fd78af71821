"""Compares models along their rates: each at several bounds on the KL, from their evaluation.json.

The KL is the rate, in nats, at which the latents describe an image. At one bound, models whose losses
weigh the KL differently are at different points of their own curves; curves over several bounds show
which model is better at the same rate.

Reference: Alemi et al., "Fixing a Broken ELBO", 2018.

Letters: N bounds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation import comparison_table, tables
from structured_obs.evaluation.comparison_table import Column

Trees = Mapping[str, Sequence[Mapping[str, Any]]]  # by bound as typed: evaluation.json of each seed
SCORES = ('models', '{model}', 'scores')
RATE = Column('KL, nats', (*SCORES, 'kl_nats'), 1)
DRAWN = ('PSNR, dB', 'SSIM', '1000 sharpness', '-ELBO, bits/dim')
COLUMNS = (
  *comparison_table.LIKELIHOOD.columns[:1],
  *(column for column in comparison_table.IMAGES.columns if 'distance' not in column.label),
)


def text(trees: Trees) -> str:
  """Returns a table with a row per model and bound, as Markdown.

  Raises:
    ValueError: there are no evaluations, or their models differ.
  """
  names = _names(trees)
  rows = [
    [name, bound, *(comparison_table.cell(found, column, name) for column in (RATE, *COLUMNS))]
    for name in names
    for bound, found in trees.items()
  ]
  header = ['', 'bound', *(column.label for column in (RATE, *COLUMNS))]
  kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
  cut = [[line[i] for i in kept] for line in (header, *rows)]
  spread = comparison_table.about_spread(max(len(found) for found in trees.values()))
  return f'## Rate and distortion\n\n{tables.markdown_table(cut)}\n\n{spread}'


def curves(trees: Trees) -> dict[str, dict[str, np.ndarray]]:
  """Returns numbers against rates: by the number's label and the model, arrays [N, 3].

  Columns are the rate, the number and its spread, by increasing rate. A number that a model does not
  have leaves out its point.
  """
  found: dict[str, dict[str, np.ndarray]] = {}
  for column in COLUMNS:
    for name in _names(trees) if column.label in DRAWN else ():
      points = []
      for seeds in trees.values():
        rate = comparison_table.summary(seeds, RATE, name)
        value = comparison_table.summary(seeds, column, name)
        if rate is not None and value is not None:
          points.append((rate[0], *value))
      if points:
        found.setdefault(column.label, {})[name] = np.array(sorted(points), float)
  return {label: found[label] for label in DRAWN if label in found}


def draw(path: str | Path, trees: Trees) -> Path:
  """Draws the curves, a panel for each number, under the data and the steps of the models."""
  first = next(iter(trees.values()))[0]
  steps = [m['step'] for found in trees.values() for tree in found for m in tree['models'].values()]
  span = f'step {min(steps)}' if min(steps) == max(steps) else f'steps {min(steps)} to {max(steps)}'
  title = f'Rate and distortion, {first["split"]} images of {first["data"]}, {span}'
  return plotting.points_with_errors(path, curves(trees), 'rate: KL, nats per image', title)


def _names(trees: Trees) -> list[str]:
  every = [[*tree['models']] for found in trees.values() for tree in found]
  if not every or any(names != every[0] for names in every):
    raise ValueError('A table of rates needs at least one evaluation, all of the same models.')
  return every[0]
