"""Runs suites of tasks and puts what they measured into records."""

import importlib.metadata
import itertools
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from structured_obs import distributions
from structured_obs.benchmark import (
  banded_solves,
  circulant,
  compilation,
  conditioning,
  convolutions,
  families,
  low_rank,
  low_rank_accuracy,
  measure,
  robustness,
  sparse,
  training,
)
from structured_obs.config import Config

SUITES = (
  'sparse', 'banded', 'low_rank', 'circulant', 'compile', 'robustness', 'accuracy', 'families', 'growth',
  'convolutions', 'training',
)  # fmt: skip
PACKAGES = (
  'jax', 'jaxlib', 'numpy', 'scipy', 'scikit-sparse', 'sksparse-minimal', 'numpyro', 'tfp-nightly',
  'torch',
)  # fmt: skip


class Settings(NamedTuple):
  """Settings of the measurements."""

  suites: tuple[str, ...] = SUITES
  sizes: tuple[int, ...] = (64,)
  filters: tuple[int, ...] = (5,)
  batches: tuple[int, ...] = (16,)
  ranks: tuple[int, ...] = (25,)
  repeats: int = 15
  calls: int = 1000  # of each operation, in the suite robustness
  timeout: int = 300  # seconds for each operation, in the suite robustness
  seeds: int = 3  # of each case, in the suite accuracy
  families: tuple[str, ...] = ()  # in the suites families and growth; () for all
  operations: tuple[str, ...] = ()  # parts of names, in the suite robustness; () for all


# What the table in docs/benchmarks.md shows, with the default recipes of launch.benchmark.
PUBLISHED = (
  Settings(('sparse',), sizes=(64, 128), filters=(5,), batches=(16,)),
  Settings(('sparse',), sizes=(256,), filters=(5,), batches=(1,)),
  Settings(('sparse',), sizes=(64,), filters=(5, 7), batches=(64,)),
  Settings(('low_rank',), sizes=(64,)),
  Settings(('circulant',), sizes=(64,), batches=(16, 64)),
  Settings(('families', 'growth'), sizes=(64,), batches=(16,)),
  Settings(('convolutions',), sizes=(64, 32, 16, 8), batches=(32,)),
  Settings(('training',)),
)


def check(settings: Settings) -> None:
  """Refuses invalid settings.

  Raises:
    ValueError: a suite does not exist, or a number is out of range.
  """
  unknown = set(settings.suites) - set(SUITES)
  if unknown or not settings.suites:
    raise ValueError(f'suite must be among {", ".join(SUITES)}; got {", ".join(sorted(unknown))!r}.')
  unknown = set(settings.families) - set(distributions.FAMILIES)
  if unknown:
    raise ValueError(
      f'families must be among {", ".join(distributions.FAMILIES)}; got {", ".join(sorted(unknown))!r}.'
    )
  if any(size % 2 == 0 or size < 1 for size in settings.filters):
    raise ValueError(f'filters must be odd and positive; got {settings.filters}.')
  counts = (settings.repeats, settings.calls, settings.timeout, settings.seeds)
  if min(*settings.sizes, *settings.batches, *counts) < 1 or min(settings.ranks) < 0:
    raise ValueError(
      'sizes, batches, repeats, calls, timeout and seeds must be at least 1, ranks at least 0.'
    )


def run(settings: Settings, recipes: dict[str, Config] | None = None) -> Iterator[dict[str, Any]]:
  """Measures task after task and yields records for JSON.

  Args:
    settings: what to measure.
    recipes: configurations by name, of the suite training.
  """
  check(settings)
  for suite in settings.suites:
    if suite == 'training':
      for name, config in (recipes or {}).items():
        yield training.record(name, config, settings.repeats)
    else:
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
    for task in low_rank.tasks(3 * size * size, rank, batch):
      yield measure.compare(task, settings.repeats)


def _circulant(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, batch in itertools.product(settings.sizes, settings.batches):
    for task in circulant.tasks(size, batch):
      yield measure.compare(task, settings.repeats)


def _compile(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, filter_size in _grids(settings):
    yield compilation.record(size, filter_size)


def _robustness(settings: Settings) -> Iterator[dict[str, Any]]:
  for name in robustness.operations():
    if not settings.operations or any(part in name for part in settings.operations):
      yield robustness.supervised(name, settings.calls, settings.timeout)


def _accuracy(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, rank in itertools.product(settings.sizes, settings.ranks):
    yield from low_rank_accuracy.records(3 * size * size, rank, settings.seeds)


def _families(settings: Settings) -> Iterator[dict[str, Any]]:
  for case in _cases(settings):
    for size, batch in itertools.product(settings.sizes, settings.batches):
      yield measure.compare(families.task(case, size, batch), settings.repeats)


def _growth(settings: Settings) -> Iterator[dict[str, Any]]:
  for case in [case for case in _cases(settings) if not case.wrappers]:
    yield from families.growth(case, settings.sizes[0], settings.batches[0], settings.repeats)


def _cases(settings: Settings) -> list[families.Case]:
  found = families.cases(settings.filters[0], settings.ranks[0])
  return [case for case in found if not settings.families or case.family in settings.families]


def _convolutions(settings: Settings) -> Iterator[dict[str, Any]]:
  for size, batch in itertools.product(settings.sizes, settings.batches):
    yield measure.compare(convolutions.task(size, batch), settings.repeats)


def _grids(settings: Settings) -> list[tuple[int, int]]:
  return list(itertools.product(settings.sizes, settings.filters))


RUNNERS: dict[str, Callable[[Settings], Iterator[dict[str, Any]]]] = {
  'sparse': _sparse,
  'banded': _banded,
  'low_rank': _low_rank,
  'circulant': _circulant,
  'compile': _compile,
  'robustness': _robustness,
  'accuracy': _accuracy,
  'families': _families,
  'growth': _growth,
  'convolutions': _convolutions,
}


def machine() -> dict[str, Any]:
  """Returns versions and hardware that the numbers belong to."""
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
