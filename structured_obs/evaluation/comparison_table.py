"""Builds one table of several models, one row each, over seeds, from their evaluation.json.

Letters: S seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from structured_obs.evaluation import tables


class Column(NamedTuple):
  """One number per model."""

  label: str
  path: tuple[str, ...]  # keys in evaluation.json; {model} and {first} are filled in
  decimals: int = 3
  factor: float = 1.0


class Table(NamedTuple):
  """Columns that are shown together."""

  heading: str
  columns: Sequence[Column]


MODEL, QUALITY = ('models', '{model}', 'scores'), ('image_quality', 'models', '{model}')
DISTANCES, CHECKS = ('sample_quality', 'distances'), ('predicted_distributions', '{model}')
PARTS = ('variance_parts', 'models', '{model}')
LIKELIHOOD = Table('Likelihood', (
  Column('-ELBO, bits/dim', (*MODEL, 'negative_elbo_bits_per_dim')),
  Column('-IWAE, bits/dim', (*MODEL, 'negative_iwae_bits_per_dim')),
  Column('beside {first}', ('differences', '{model} - {first}', 'negative_iwae_bits_per_dim')),
  Column('KL, nats', (*MODEL, 'kl_nats'), 1),
  Column('effective samples', (*MODEL, 'effective_samples'), 1),
))  # fmt: skip
COVARIANCE = Table('Predicted covariance', (
  Column('q / D', (*MODEL, 'mahalanobis_per_dim')),
  Column('spread of q', ('models', '{model}', 'calibration', 'spread'), 2),
  Column('of training images', ('models', '{model}', 'training_calibration', 'spread'), 2),
  Column('temperature', ('models', '{model}', 'calibration', 'temperature')),
  Column('KS of q', ('models', '{model}', 'calibration', 'distance')),
  Column('as a Student t', ('recalibration', '{model}', 'student', 'after', 'distance')),
  Column('its nats gained', ('recalibration', '{model}', 'student', 'gain'), 1),
  Column('whitened, rms', ('whiteness', '{model}', 'root_mean_square')),
  Column('KS of PIT', (*CHECKS, 'pit_distance')),
  Column('1000 variogram score', (*CHECKS, 'variogram_score'), 2, 1000.0),
  Column('hidden half, bits/value', (*CHECKS, 'hidden_half_bits_per_value')),
))  # fmt: skip
IMAGES = Table('Images', (
  Column('PSNR, dB', (*QUALITY, 'psnr_db'), 2),
  Column('SSIM', (*QUALITY, 'ssim')),
  Column('1000 sharpness', (*QUALITY, 'laplacian_variance'), 1, 1000.0),
  Column('1000 distance in features', (*QUALITY, 'perceptual_distance'), 2, 1000.0),
  Column('1000 KID, reconstructions', (*DISTANCES, '{model} reconstructions', 'kid'), 2, 1000.0),
  Column('new means', (*DISTANCES, '{model} new means', 'kid'), 2, 1000.0),
  Column('new samples', (*DISTANCES, '{model} new samples', 'kid'), 2, 1000.0),
  Column('coverage by samples', (*DISTANCES, '{model} new samples', 'coverage')),
))  # fmt: skip
VARIANCE = Table('Variance of new images', (
  Column('1000 in z', (*PARTS, 'of_means'), 2, 1000.0),
  Column('1000 in x', (*PARTS, 'given_z'), 2, 1000.0),
  Column('1000 in x, without pixel noise', (*PARTS, 'without_noise'), 2, 1000.0),
  Column('share of z', (*PARTS, 'share_of_z')),
))  # fmt: skip
TABLES = (LIKELIHOOD, COVARIANCE, IMAGES, VARIANCE)
_MISSING = object()  # a number that a model does not have; null is one that is not finite


def text(trees: Sequence[Mapping[str, Any]]) -> str:
  """Returns all tables as Markdown, with a row per model.

  Args:
    trees: evaluation.json of each of S seeds, with the same models.

  Raises:
    ValueError: there are none, or their models differ.
  """
  if not trees or any([*tree['models']] != [*trees[0]['models']] for tree in trees):
    raise ValueError('A table over seeds needs at least one evaluation, all of the same models.')
  names, features = [*trees[0]['models']], trees[0].get('image_quality', {})
  parts = []
  for table in TABLES:
    filled = [[cell(trees, column, name, names[0]) for column in table.columns] for name in names]
    kept = [i for i in range(len(table.columns)) if any(row[i] for row in filled)]
    header = [table.columns[i].label.format(first=names[0]) for i in kept]
    rows = [[name, *(row[i] for i in kept)] for name, row in zip(names, filled, strict=True)]
    if kept:
      parts += [f'## {table.heading}', tables.markdown_table([['', *header], *rows])]
  spread = about_spread(len(trees))
  if features:
    spread += f' Features are {features["features"]} ({features["fingerprint"]}).'
  return '\n\n'.join([*parts, spread])


def about_spread(seeds: int) -> str:
  """Returns a sentence on what follows a ± in tables over this many seeds."""
  if seeds > 1:
    return f'± is the standard deviation over {seeds} seeds.'
  return '± is the standard error over images.'


def summary(
  trees: Sequence[Mapping[str, Any]], column: Column, model: str, first: str = ''
) -> tuple[float, float] | None:
  """Returns mean and spread of a model's number; None if it has no such number.

  The spread is the standard deviation over seeds, or of one seed the standard error over images; NaN
  where there is none.

  Args:
    trees: evaluation.json of each seed.
    column: the number.
    model: its name.
    first: name of the model that the others are compared with.
  """
  path = [key.format(model=model, first=first) for key in column.path]
  found = [_look_up(tree, path) for tree in trees]
  if any(one is _MISSING for one in found):
    return None
  values = [column.factor * _number(one) for one in found]
  if not all(map(math.isfinite, values)):
    return math.nan, math.nan
  spread = math.nan
  if len(values) > 1:
    spread = statistics.stdev(values)
  elif isinstance(found[0], Mapping):
    spread = column.factor * _number(found[0], 'standard_error')
  return statistics.fmean(values), spread


def cell(trees: Sequence[Mapping[str, Any]], column: Column, model: str, first: str = '') -> str:
  """Returns `summary` as text; '' if a model has no such number."""
  found = summary(trees, column, model, first)
  if found is None:
    return ''
  mean, spread = found
  if math.isnan(mean):
    return 'nan'
  if math.isnan(spread):
    return f'{mean:.{column.decimals}f}'
  return tables.spread_cell(mean, spread, column.decimals)


def _look_up(tree: Any, path: Sequence[str]) -> Any:
  for key in path:
    tree = tree.get(key, _MISSING) if isinstance(tree, Mapping) else _MISSING
  return tree


def _number(found: Any, key: str = 'mean') -> float:
  """Returns a summary's number, or a number itself; NaN for null, JSON's value that is not finite."""
  value = found[key] if isinstance(found, Mapping) else found
  return math.nan if value is None else float(value)
