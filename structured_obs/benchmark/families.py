"""Every family as a training step uses it: from network outputs to log density and gradient.

Letters: H W height, width; f filter size; R rank; M mixture components.

Besides the time of one size, it measures how the time grows: where the cost of one unit of work rises by
more than `CLIFF` from a value to the next one, that step is marked. A unit is a pixel, times the later
neighbours (f^2 - 1) / 2 + 1, the R + 1 columns, or the M components where these grow.
"""

import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import distributions
from structured_obs.benchmark import measure
from structured_obs.benchmark.measure import Bar, Candidate, Task
from structured_obs.distributions import base

Array = jax.Array

CLIFF = 1.5  # times the cost of a unit at the value before
LARGEST = {'dense_precision': 8}  # sides of images of families with a dense matrix for each
SCALE = 0.1  # scale of the random outputs
FILTERS, RANKS, COMPONENTS = (1, 3, 5, 7, 9), (1, 5, 10, 25, 50, 100), (1, 2, 5, 10, 20)


class Case(NamedTuple):
  """A family with its options and wrappers, and the channels of its images."""

  family: str
  options: dict[str, Any]
  channels: int = 3
  wrappers: tuple[str, ...] = ()

  def name(self, height: int, width: int, batch: int) -> str:
    """Returns its name in records, for images of this size."""
    options = ''.join(f' {key}={value}' for key, value in self.options.items())
    name = '+'.join((self.family, *self.wrappers))
    return f'{name}{options} {height}x{width}x{self.channels} batch {batch}'


def cases(filter_size: int, rank: int) -> list[Case]:
  """Returns a case of every registered family, of each way of linking channels, and of wrappers.

  Every wrapper stands over independent pixels, a cheap base, and over sparse links; times of the bases
  beside them tell what a wrapper adds.
  """
  options = {'low_rank': {'rank': rank}, 'sparse_precision': {'filter_size': filter_size}}
  found = [Case(name, options.get(name, {})) for name in distributions.FAMILIES]
  linked = [{'filter_size': filter_size, 'channels': kind} for kind in ('pixel', 'full')]
  found += [Case('sparse_precision', choice) for choice in linked]
  bases = ('diagonal', 'sparse_precision')
  wrapped = [
    Case(name, options.get(name, {}), wrappers=(one,))
    for name in bases
    for one in distributions.WRAPPERS
  ]
  return [*found, Case('circulant', {'reflect': True}), *wrapped]


def task(case: Case, size: int, batch: int) -> Task:
  """Returns the task of value and gradient, for size x size images or the largest a family allows.

  Args:
    case: family and options.
    size: pixels along each side.
    batch: images at once.
  """
  size = min(size, LARGEST.get(case.family, size))
  name = f'outputs to value and gradient, {case.name(size, size, batch)}'
  return Task(name, [candidate(case, size, size, batch)])


def candidate(case: Case, height: int, width: int, batch: int) -> Candidate:
  """Returns the compiled program (outputs, x) -> (log densities [B], gradients by the outputs).

  Args:
    case: family and options.
    height: H.
    width: W.
    batch: images at once.
  """
  family = distributions.family(case.family, **case.options)
  family = distributions.wrapped(family, case.wrappers)
  image = base.ImageShape(height, width, case.channels)
  rng = np.random.default_rng(0)
  outputs = {
    name: jnp.asarray(SCALE * rng.normal(size=(batch, *shape)), jnp.float32)
    for name, shape in family.outputs(image).items()
  }
  x = jnp.asarray(rng.uniform(-1, 1, size=(batch, *image)), jnp.float32)

  def log_prob(outputs: dict[str, Array], x: Array) -> Array:
    return family.log_prob(family.from_outputs(outputs), base.round_to_levels(x, family.levels))

  return measure.compiled('ours', jax.vmap(jax.value_and_grad(log_prob)), outputs, x)


def growth(case: Case, size: int, batch: int, repeats: int) -> Iterator[dict[str, Any]]:
  """Yields how the cost grows with height, width and the family's own number: records for JSON.

  Args:
    case: family and options.
    size: pixels along each side.
    batch: images at once.
    repeats: rounds.
  """
  size = min(size, LARGEST.get(case.family, size))
  sides = sorted({max(1, size // 4), max(1, size // 2), max(1, size - 1), size, size + 1, 2 * size})
  counts = (batch, repeats)
  yield _record(case, 'H', {side: ((case, side, size), side * size) for side in sides}, counts)
  yield _record(case, 'W', {side: ((case, size, side), side * size) for side in sides}, counts)
  own: dict[str, tuple[str, str, tuple[int, ...], Callable[[int], float]]] = {
    'sparse_precision': ('f', 'filter_size', FILTERS, lambda f: (f * f + 1) / 2),
    'low_rank': ('R', 'rank', RANKS, lambda rank: rank + 1),
    'discretized_logistic_mixture': ('M', 'components', COMPONENTS, float),
  }
  if case.family in own:
    letter, option, values, units = own[case.family]
    changed = {value: case._replace(options={**case.options, option: value}) for value in values}
    work = {value: ((changed[value], size, size), size * size * units(value)) for value in values}
    yield _record(case, letter, work, counts)


def _record(
  case: Case,
  letter: str,
  work: dict[int, tuple[tuple[Case, int, int], float]],
  counts: tuple[int, int],
) -> dict[str, Any]:
  """Measures what each value of the letter stands for, with its units of work, in alternating rounds."""
  batch, repeats = counts
  candidates = [candidate(*problem, batch) for problem, _ in work.values()]
  for one in candidates:
    one.run()
  times = [statistics.median(kept.wall) for kept in measure.rounds(candidates, repeats)]
  rows = []
  for (value, (_, units)), one, median in zip(work.items(), candidates, times, strict=True):
    unit = 1e6 * median / (batch * case.channels * units)
    grown = unit / rows[-1]['unit_ns'] if rows else 1.0
    rows.append({
      'name': f'{letter}={value}',
      'median_ms': median,
      'unit_ns': unit,
      'growth': grown,
      'cliff': grown > CLIFF,
      'temporary_bytes': one.temporary_bytes,
    })  # fmt: skip
  worst = max(row['growth'] for row in rows)
  judged = measure.judge((Bar('growth', CLIFF),), [{'name': 'worst', 'growth': worst}])
  size = next(iter(work.values()))[0]
  name = f'{letter}, {case.name(size[1], size[2], batch)} onwards'
  return {'growth': name, 'rows': rows, 'bars': judged}
