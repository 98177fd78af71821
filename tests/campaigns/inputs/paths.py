"""Paths that lead nowhere, elsewhere, or to another machine, for every field and option that has one."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from structured_obs.config import Config
from structured_obs.evaluation import compare
from structured_obs.runs import restore
from structured_obs.train import loop
from structured_obs.train import run as runs
from tests.campaigns import outcomes
from tests.campaigns.inputs import fields

# What leads nowhere; FILE is a file.
BAD = (
  'gs://bucket/x',
  's3://bucket/x',
  'hdfs://host/x',
  'https://example.org/x',
  'file:///tmp/x',
  'FILE',
  'FILE/below',
  '/dev/null',
  '/dev/null/x',
  '/proc/x',
  '/proc/self/mem',
  'a\0b',
  'x' * 5000,
  '/' + 'x' * 300,
)


class Started(BaseException):
  """Raised where a run would begin to train."""


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case."""
  del seed
  users: dict[str, Callable[[str, Path], str]] = {
    'workdir': _workdir,
    'data.source=folder': functools.partial(_field, 'data', 'source', 'folder:'),
    'data.source=npz': functools.partial(_field, 'data', 'source', 'npz:'),
    'data.source=nifti': functools.partial(_field, 'data', 'source', 'nifti:'),
    'data.cache_dir': functools.partial(_field, 'data', 'cache_dir', ''),
    'train.start_from': functools.partial(_field, 'train', 'start_from', ''),
    'evaluate': _evaluate,
  }
  for user, use in users.items():
    for path in BAD:
      shown = path[:20].replace('\0', '\\0')
      named = ('FILE',) if 'FILE' in path else (path, path[:40], re.sub('/+', '/', path), 'null')
      case = functools.partial(_run, use, path)
      yield outcomes.Case('path', f'{user} {shown}', case, (*named, 'x.txt', 'path', user.split('=')[0]))
  for name in ('workdir', 'data.cache_dir', 'data.source=folder', 'train.start_from'):
    run = functools.partial(_home, users[name])
    yield outcomes.Case('path', f'{name} ~/x', run, healthy=name == 'workdir')


def _run(use: Callable[[str, Path], str], path: str, folder: Path) -> str:
  (folder / 'x.txt').write_text('a file')
  with _nothing_made(folder / 'here'):
    return use(path.replace('FILE', str(folder / 'x.txt')), folder)


def _home(use: Callable[[str, Path], str], folder: Path) -> str:
  """Uses ~/x, which must be in the home directory and nowhere else."""
  with mock.patch.dict(os.environ, HOME=str(folder)), _nothing_made(folder / 'here'):
    return use('~/x', folder)


@contextlib.contextmanager
def _nothing_made(here: Path) -> Iterator[None]:
  """Works in an empty directory, in which nothing may be made."""
  here.mkdir()
  try:
    with contextlib.chdir(here):
      yield
  finally:
    made = [path.name for path in here.iterdir()]
    outcomes.expect(not made, f'made {made} in the current directory')


def _train(config: Config, workdir: str) -> str:
  """Starts a run; says where it would write."""
  places: list[Path] = []

  def started(experiment: object, prepared: object, place: Path, *others: object) -> None:
    del experiment, prepared, others
    places.append(place)
    raise Started

  with mock.patch.object(loop, 'train', side_effect=started):
    try:
      runs.run(config, runs.Options(workdir), lambda text: None)
    except Started:
      return str(places[0])
  return ''


def _workdir(path: str, folder: Path) -> str:
  place = _train(fields.base(), path)
  outcomes.expect(path.startswith('~'), f'would train, into {place}')
  outcomes.expect(place == str(folder / 'x'), f'would train, into {place}')
  return outcomes.RIGHT


def _field(section: str, field: str, prefix: str, path: str, folder: Path) -> str:
  config = fields.base()
  part = dataclasses.replace(getattr(config, section), **{field: prefix + path})
  _train(dataclasses.replace(config, **{section: part}), str(folder / 'run'))
  outcomes.expect(path.startswith('~'), 'would train')
  return outcomes.ACCEPTED


def _evaluate(path: str, folder: Path) -> str:
  del folder
  restore.load(path)
  compare.evaluate({'x': path}, path)
  raise outcomes.Wrong('evaluated')
