"""Reports the constraints of a training: where each statistic ended, and bounds that never bound.

The multiplier of an inequality is above 0 exactly where its bound has bound of late, so a bound whose
multiplier is 0 in every record of metrics.jsonl did nothing. A resumed run has the records of all its
parts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import tables
from structured_obs.objectives import constraints
from structured_obs.runs import experiment as experiments

Records = Sequence[Mapping[str, Any]]  # of metrics.jsonl
SIGNS = {constraints.AT_MOST: 'at most', constraints.AT_LEAST: 'at least', constraints.EQUAL: 'equal to'}


class Ended(NamedTuple):
  """One constraint at the end of a run."""

  name: str  # of the constraint
  held: constraints.Held
  constraint: constraints.Constraint
  mean: float  # of the statistic above its zero, over the last steps
  multipliers: Sequence[float]  # means between records, from the first to the last
  steps: Sequence[int]  # of the records

  @property
  def idle_from(self) -> int | None:
    """The first step after which an inequality never bound; None if it bound at the end."""
    if self.constraint.kind == constraints.EQUAL or self.multipliers[-1] != 0:
      return None
    last = max((i for i, one in enumerate(self.multipliers) if one != 0), default=-1)
    return self.steps[last] if last >= 0 else 0


def sentences(config: Config, image: ImageShape, records: Records) -> list[str]:
  """Returns a sentence for each bound that never bound, or not in the second half of the run.

  Args:
    config: of the run, with every option written out.
    image: shape of x.
    records: of the run.
  """
  return [text for one in _ended(config, image, records) if (text := _sentence(one))]


def section(config: Config, image: ImageShape, records: Records) -> str:
  """Returns a Markdown section on all constraints; '' without any. Arguments as of `sentences`."""
  found = [*_ended(config, image, records)]
  if not found:
    return ''
  rows = [['constraint on the mean', 'bound', 'at the end', 'multiplier at the end']]
  for one in found:
    bound = f'{SIGNS[one.constraint.kind]} {one.constraint.bound:.4g} {one.held.unit}'
    rows.append([one.held.label, bound, f'{one.mean:.4g}', f'{one.multipliers[-1]:.3g}'])
  return tables.paragraphs(
    '## Constraints', tables.markdown_table(rows), *sentences(config, image, records)
  )


def _ended(config: Config, image: ImageShape, records: Records) -> Iterator[Ended]:
  made = experiments.constraints_of(config, image)
  for name, options in config.objective.constraints.items():
    statistic = constraints.statistic_of(name, options)
    keys = f'stats/{statistic}', f'multipliers/{statistic}'
    known = [record for record in records if record['kind'] == 'train' and keys[1] in record]
    values = [tuple(_number(record.get(key)) for key in keys) for record in known]
    if not values:
      continue
    constraint, held = made[statistic], constraints.CONSTRAINTS[name]
    mean = values[-1][0] - constraint.zero
    steps = [record['step'] for record in known]
    yield Ended(name, held, constraint, mean, [multiplier for _, multiplier in values], steps)


def _sentence(one: Ended) -> str:
  idle = one.idle_from
  if idle is None or idle > one.steps[-1] / 2:
    return ''
  never = f'never bound: the mean stayed at {one.mean:.4g}'
  since = f'has not bound since step {idle}: the mean is {one.mean:.4g}'
  least = 'at least ' if one.constraint.kind == constraints.AT_LEAST else ''
  limit = f'of {least}{one.constraint.bound:.4g} {one.held.unit}'
  return (
    f'The bound on the {one.held.label} {since if idle else never} {limit} '
    f'(--config.objective.constraints.{one.name}).'
  )


def _number(value: float | None) -> float:
  """Returns a number of a record; NaN for null."""
  return math.nan if value is None else float(value)
