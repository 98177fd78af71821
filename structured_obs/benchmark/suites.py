"""Runs suites of tasks and puts what they measured into one record and one table."""

import faulthandler
import importlib.metadata
import itertools
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from structured_obs.benchmark import (
  banded_solves,
  circulant,
  compilation,
  conditioning,
  low_rank,
  low_rank_accuracy,
  measure,
  robustness,
  sparse,
)

SUITES = ('sparse', 'banded', 'low_rank', 'circulant', 'compile', 'robustness', 'accuracy')
PACKAGES = (
  'jax', 'jaxlib', 'numpy', 'scipy', 'scikit-sparse', 'sksparse-minimal', 'numpyro', 'tfp-nightly',
  'torch',
)  # fmt: skip


class Settings(NamedTuple):
  """What to measure."""

  suites: tuple[str, ...] = SUITES
  sizes: tuple[int, ...] = (64,)
  filters: tuple[int, ...] = (5,)
  batches: tuple[int, ...] = (16,)
  ranks: tuple[int, ...] = (25,)
  repeats: int = 15
  calls: int = 1000  # of each operation, in the suite robustness
  timeout: int = 300  # seconds for each operation, in the suite robustness
  seeds: int = 3  # of each case, in the suite accuracy


def check(settings: Settings) -> None:
  """Refuse settings that cannot be run.

  Raises:
    ValueError: a suite does not exist, or a number is out of range.
  """
  unknown = set(settings.suites) - set(SUITES)
  if unknown or not settings.suites:
    raise ValueError(f'suite must be among {", ".join(SUITES)}; got {", ".join(sorted(unknown))!r}.')
  if any(size % 2 == 0 or size < 1 for size in settings.filters):
    raise ValueError(f'filters must be odd and positive; got {settings.filters}.')
  counts = (settings.repeats, settings.calls, settings.timeout, settings.seeds)
  if min(*settings.sizes, *settings.batches, *counts) < 1 or min(settings.ranks) < 0:
    raise ValueError(
      'sizes, batches, repeats, calls, timeout and seeds must be at least 1, ranks at least 0.'
    )


def run(settings: Settings) -> Iterator[dict[str, Any]]:
  """Measure task after task: records for JSON."""
  check(settings)
  for suite in settings.suites:
    yield from RUNNERS[suite](settings)


def _sparse(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, filter_size in _grids(settings):
    for batch in settings.batches:
      for task in sparse.tasks(size, filter_size, batch):
        yield measure.compare(task, settings.repeats)
    for task in sparse.tasks_of_one(size, filter_size):
      yield measure.compare(task, settings.repeats)
    cases = []
    for task in conditioning.tasks(size, filter_size):
      cases.append(measure.compare(task, settings.repeats))
      yield cases[-1]
    yield conditioning.median_case(size, filter_size, cases)


def _banded(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, filter_size in _grids(settings):
    yield measure.compare(banded_solves.task(size, filter_size), settings.repeats)


def _low_rank(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, batch, rank in itertools.product(settings.sizes, settings.batches, settings.ranks):
    yield measure.compare(low_rank.task(3 * size * size, rank, batch), settings.repeats)


def _circulant(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, batch in itertools.product(settings.sizes, settings.batches):
    for task in circulant.tasks(size, batch):
      yield measure.compare(task, settings.repeats)


def _compile(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, filter_size in _grids(settings):
    yield compilation.record(size, filter_size)


def _robustness(settings: Settings) -> Iterator[dict[str, Any]]:
  for name, operation in robustness.operations().items():
    faulthandler.dump_traceback_later(settings.timeout, exit=True)
    record = robustness.survive(name, operation, settings.calls)
    faulthandler.cancel_dump_traceback_later()
    yield record


def _accuracy(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, rank in itertools.product(settings.sizes, settings.ranks):
    yield from low_rank_accuracy.records(3 * size * size, rank, settings.seeds)


def _grids(settings: Settings) -> list[tuple[int, int]]:
  return list(itertools.product(settings.sizes, settings.filters))


_RUNNERS = (_sparse, _banded, _low_rank, _circulant, _compile, _robustness, _accuracy)
RUNNERS: dict[str, Callable[[Settings], Iterator[dict[str, Any]]]] = dict(
  zip(SUITES, _RUNNERS, strict=True)
)


def machine() -> dict[str, Any]:
  """Versions and hardware that the numbers belong to."""
  versions = {}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return {
    'versions': versions,
    'python': platform.python_version(),
    'machine': platform.machine(),
    'processors': os.cpu_count(),
    'devices': [str(device) for device in jax.devices()],
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def table(record: dict[str, Any]) -> str:
  """One record as text."""
  if 'operation' in record:
    state = 'finite' if record['finite'] else 'NOT FINITE'
    return f'{record["operation"]}: {record["calls"]} gradients in {record["seconds"]:.1f} s, {state}'
  kinds = {'compilation': _compiled, 'median': _median, 'task': _measured, 'accuracy': _errors}
  lines = next(kinds[key](record) for key in kinds if key in record)
  for bar in record['bars']:
    state = 'met' if bar['met'] else 'MISSED'
    against, bound = (f' against {bar["peer"]}', 'at least') if bar['peer'] else ('', 'at most')
    reached = f'{bar["reached"]:.3g}, {bound} {bar["limit"]:g} wanted'
    lines.append(f'  bar: {bar["quantity"]}{against} {reached}: {state}')
  return '\n'.join(lines)


def _measured(record: dict[str, Any]) -> list[str]:
  lines = [record['task']]
  for row in record['candidates']:
    error = '' if row['error'] is None else f'  error {row["error"]:.1e}'
    memory = row['temporary_bytes'] / 1e6
    lines.append(
      f'  {row["name"]:36s} {row["median_ms"]:10.3f} ms  {row["ratio"]:8.2f}x'
      f'  compile {row["compile_s"]:.2f} s  temporary {memory:.2f} MB{error}'
    )
  return lines + [f'  not installed: {name}' for name in record['missing']]


def _median(record: dict[str, Any]) -> list[str]:
  rows = [f'  {row["name"]:36s} {row["ratio"]:8.2f}x' for row in record['rows']]
  return [f'{record["median"]}, the median of the cases', *rows]


def _errors(record: dict[str, Any]) -> list[str]:
  rows = [
    f'  differences of {row["difference"]:<8g} {row["nats"]:10.4f} nats  gradient {row["gradient"]:.1e}'
    for row in record['rows']
  ]
  return [f'accuracy of float32, {record["accuracy"]}', *rows]


def _compiled(record: dict[str, Any]) -> list[str]:
  rows = [
    f'  {row["name"]:36s} solve {row["solve"]:.2f} s  gradient {row["gradient"]:.2f} s'
    for row in record['rows']
  ]
  return [f'compilation {record["compilation"]}', *rows]
