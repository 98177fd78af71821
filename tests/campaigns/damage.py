"""Damage to every file that a run keeps: bits, blocks, lengths, content, existence.

One small run is trained, and copied for each case. What is damaged there is then used in all the ways it
has: a run resumes, a model is restored, a cache is opened and verified, an evaluation continues.
"""

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.evaluation import resume
from structured_obs.runs import checkpoint, configuration, restore
from structured_obs.runs import workdir as workdirs
from structured_obs.train import run as runs
from tests.campaigns import outcomes
from tests.campaigns.inputs import fields

COUNT = 150
WORKDIR, CACHE, PARTIAL = 'run', 'cache', 'partial'  # in the folder that is damaged
COMMAND = 'the command'
Damage = Callable[[Path, np.random.Generator], object]


class Whole(NamedTuple):
  """A run and its surroundings, undamaged, and what they are when used."""

  folder: Path
  config: Config
  end: dict[str, int]  # CRC-32 of every array of the state after the last step
  restored: dict[str, dict[str, int]]  # by checkpoint: of every variable
  spec: Any  # of the cache
  labels: dict[str, bytes]  # of the cache, by split
  work: resume.Work
  done: bytes  # what the unfinished evaluation has kept


def run_config(folder: Path) -> Config:
  """Returns the run's configuration, with its cache in a folder."""
  config = fields.base(str(folder / CACHE))
  config.train.steps, config.train.validate_every, config.train.checkpoint_every = 4, 2, 2
  config.train.log_every, config.optim.ema_decay = 1, 0.9
  return config


@functools.cache
def whole() -> Whole:
  """Trains the run, once for all cases."""
  folder = Path(tempfile.mkdtemp(prefix='campaign-whole-'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  config = run_config(folder)
  train(config, folder / WORKDIR)
  work = unfinished_work(folder / PARTIAL)
  resume.save(work, [np.arange(40, dtype=np.float32).reshape(20, 2)])
  made = Whole(folder, config, {}, {}, None, {}, work, b'')
  return made._replace(
    end=checkpoint.digests(train(config, folder / WORKDIR)),
    restored={which: _variables(folder, which)[1] for which in ('best', 'latest')},
    spec=prepare.load(_cache(folder)).spec,
    labels=_labels(folder),
    done=_done(work),
  )


def train(config: Config, workdir: Path) -> Any:
  """Trains, or resumes, without the report of the training; returns the last state."""
  with mock.patch.object(restore, 'write_report', return_value=None):
    outcome = runs.run(config, runs.Options(str(workdir), command=COMMAND), lambda text: None)
  assert outcome is not None
  return outcome.state


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields a case for every file and kind of damage; the places of the damage follow from the seed."""
  made = whole()
  for index, path in enumerate(sorted(made.folder.rglob('*'))):
    name = path.relative_to(made.folder).as_posix()
    if not path.is_file():
      continue
    for number, (kind, damage) in enumerate(DAMAGE.items()):
      rng_seed = (seed, index, number)
      case = functools.partial(_run, name, damage, rng_seed)
      yield outcomes.Case(_kind(name), f'{name}: {kind}', case, names=_named(name))
  for directory in sorted(made.folder.glob(f'{WORKDIR}/*/*')):
    name = directory.relative_to(made.folder).as_posix()
    for kind, damage in DIRECTORIES.items():
      case = functools.partial(_run, name, damage, (seed,))
      yield outcomes.Case('a checkpoint as a whole', f'{name}: {kind}', case, names=_named(name))


def run(count: int, seed: int) -> list[outcomes.Result]:
  """Damages `count` files, or all of them in every way for 0."""
  return [outcomes.judge(case) for case in outcomes.sample(list(cases(seed)), count, seed)]


def _kind(name: str) -> str:
  part = name.split('/')
  if part[0] == WORKDIR:
    return part[1] if len(part) == 2 else f'file of {part[1]}/'
  return {CACHE: 'prepared data', PARTIAL: 'unfinished evaluation'}[part[0]]


def _named(name: str) -> tuple[str, ...]:
  """What a refusal must name: the directory at least."""
  part = name.split('/')
  return (part[1],) if part[0] != PARTIAL else (PARTIAL,)


def _run(name: str, damage: Damage, seed: Any, folder: Path) -> str:
  made = whole()
  shutil.copytree(made.folder, folder, dirs_exist_ok=True)
  damage(folder / name, np.random.default_rng(seed))
  if name.startswith(PARTIAL):
    _check_unfinished(folder)
  elif name.startswith(CACHE):
    _check_cache(folder)
  else:
    restored = [_check_restored(folder, which, name) for which in ('best', 'latest')]
    _check_resumed(folder)
    return outcomes.RIGHT if all(restored) else outcomes.REFUSED
  return outcomes.RIGHT


def _check_restored(folder: Path, which: str, name: str) -> bool:
  """Restores a model; returns whether that worked. Only damage in its own directory may stop it."""
  made = whole()
  own = {'best': checkpoint.BEST, 'latest': checkpoint.CHECKPOINTS}[which]
  try:
    config, variables = _variables(folder, which)
  except Exception as error:
    if f'/{own}/' not in f'/{name}' or outcomes.refusal(error, _named(name)) != outcomes.REFUSED:
      raise
    return False
  outcomes.expect(config == configuration.to_dict(configuration.resolve(made.config)),
                  f'{which}: another configuration was restored')  # fmt: skip
  known = [made.restored[which], *older()] if which == 'latest' else [made.restored[which]]
  outcomes.expect(variables in known, f'{which}: other parameters were restored')
  return True


@functools.cache
def older() -> list[dict[str, int]]:
  """Variables of all checkpoints that are kept: an older one may be restored where that is said."""
  made = whole()
  directory = made.folder / WORKDIR / checkpoint.CHECKPOINTS
  return [_variables(made.folder, step)[1] for step in checkpoint.steps_in(directory)]


def _check_resumed(folder: Path) -> None:
  """Resumes the training, whose end must be bitwise what it was."""
  made = whole()
  config = made.config
  state = train(config, folder / WORKDIR)
  outcomes.expect(checkpoint.digests(state) == made.end, 'the training ended in another state')
  about = workdirs.read(folder / WORKDIR)
  outcomes.expect(about['config']['optim'] == configuration.to_dict(config)['optim'], 'run.json differs')


def _check_cache(folder: Path) -> None:
  made = whole()
  config = run_config(folder)
  spec = prepare.prepare(config.data, verify=True).spec
  outcomes.expect(spec._replace(libraries={}) == made.spec._replace(libraries={}), 'another spec')
  outcomes.expect(_labels(folder) == made.labels, 'other labels')


def _check_unfinished(folder: Path) -> None:
  work = unfinished_work(folder / PARTIAL)
  outcomes.expect(_done(work) in (b'', whole().done), 'other numbers than were kept')


def unfinished_work(directory: Path) -> resume.Work:
  images = np.arange(20, dtype=np.uint8).reshape(20, 1)
  return resume.work(directory, 'scores', lambda x: x * 2.0, [np.zeros((1, 2), np.float32)], images)


def _done(work: resume.Work) -> bytes:
  parts, count = resume.load(work)
  return b''.join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(parts)) if count else b''


def _variables(folder: Path, which: str | int) -> tuple[Any, dict[str, int]]:
  restored = restore.restore(folder / WORKDIR, which)
  return restored.metadata['config'], checkpoint.digests(restored.variables)


def _cache(folder: Path) -> str:
  return str(next((folder / CACHE).glob('digits-*')))


def _labels(folder: Path) -> dict[str, bytes]:
  prepared = prepare.load(_cache(folder))
  return {split: np.asarray(labels).tobytes() for split, labels in prepared.labels.items()}


def _flip(path: Path, rng: np.random.Generator) -> None:
  content = bytearray(path.read_bytes())
  if content:
    bit = int(rng.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
  path.write_bytes(content)


def _truncate(path: Path, rng: np.random.Generator) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: int(rng.integers(len(content) + 1))])


def _zero(path: Path, rng: np.random.Generator) -> None:
  content = bytearray(path.read_bytes())
  start = int(rng.integers(len(content) + 1))
  stop = min(start + 64, len(content))
  content[start:stop] = bytes(stop - start)
  path.write_bytes(content)


def _foreign(path: Path, rng: np.random.Generator) -> None:
  others = [b'\xff\xd8\xff\xe0' + bytes(99), b'hello\n', json.dumps([1, {'a': None}]).encode(), b'{}']
  path.write_bytes(others[int(rng.integers(len(others)))])


def _as_directory(path: Path, rng: np.random.Generator) -> None:
  del rng
  path.unlink()
  path.mkdir()


DAMAGE: dict[str, Damage] = {
  'a bit flipped': _flip,
  'cut short': _truncate,
  '64 zeros': _zero,
  'emptied': lambda path, rng: path.write_bytes(b''),
  'deleted': lambda path, rng: path.unlink(),
  'foreign content': _foreign,
  'a directory instead': _as_directory,
}


def _empty_directory(path: Path, rng: np.random.Generator) -> None:
  del rng
  shutil.rmtree(path)
  path.mkdir()


def _half(path: Path, rng: np.random.Generator) -> None:
  """Leaves half of the files, as a copy that was interrupted does."""
  files = sorted(file for file in path.rglob('*') if file.is_file())
  for index in rng.permutation(len(files))[: len(files) // 2]:
    files[index].unlink()


DIRECTORIES: dict[str, Damage] = {
  'deleted': lambda path, rng: shutil.rmtree(path),
  'emptied': _empty_directory,
  'half copied': _half,
  'renamed': lambda path, rng: path.rename(path.with_name('999')),
}
