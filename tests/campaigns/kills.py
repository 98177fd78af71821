"""SIGKILL at random moments of training, evaluation and their reports, and the same command again.

A chain is `launch.train` and then `launch.evaluate`, in processes of their own as a user runs them.
Killed ten times, its checkpoints, metrics and scores must be bitwise those of an undisturbed chain.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from structured_obs.runs import checkpoint, metrics_file
from tests.campaigns import outcomes

COUNT = 30
PER_CHAIN = 10
STEPS = 40
TRIES = 4  # to kill a process before it ends
TIMEOUT = 300.0  # seconds for anything that is waited for
# What a chain suffers, in order; each moment is drawn within its phase.
PHASES = ('start', 'training', 'saving', 'training', 'saving', 'reporting', 'reporting',
          'evaluating', 'evaluating', 'evaluating')  # fmt: skip

CONFIG = """
from structured_obs.config import Config


def get_config(variant=''):
  config = Config()
  config.data.cache_dir = {cache!r}
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  config.optim.warmup_steps, config.optim.ema_decay = 2, 0.9
  config.train.steps, config.train.batch_size = {steps}, 16
  config.train.log_every, config.train.validate_every, config.train.checkpoint_every = 1, 10, 2
  config.eval.importance_samples, config.eval.batch_size = 20, 30
  return config
"""
# An evaluation keeps its unfinished work at once, not only after half a minute.
SCRIPT = """
import runpy, sys
from structured_obs.evaluation import unfinished
unfinished.SECONDS = 0.0
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


class Chain(NamedTuple):
  """A configuration, and the directory of one chain."""

  config: Path
  workdir: Path
  compiled: Path  # directory of compiled programs

  def start(self, script: str) -> subprocess.Popen[str]:
    """Starts 'train' or 'evaluate'."""
    flags = [f'--workdir={self.workdir}', *([f'--config={self.config}'] if script == 'train' else [])]
    environment = {
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(self.compiled),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
      'MPLBACKEND': 'Agg',
      'PYTHONPATH': str(outcomes.ROOT),
    }
    return subprocess.Popen(
      [sys.executable, '-c', SCRIPT, f'launch.{script}', *flags],
      cwd=outcomes.ROOT, env=os.environ | environment, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip

  @property
  def steps(self) -> list[int]:
    """Steps of the complete checkpoints, without opening them."""
    names = (self.workdir / checkpoint.CHECKPOINTS).glob('*')
    return sorted(int(path.name) for path in names if path.name.isdecimal())


def run(count: int, seed: int) -> list[outcomes.Result]:
  """Kills `count` times, in chains of ten, and compares the ends of the chains."""
  count = count or COUNT
  with tempfile.TemporaryDirectory(prefix='campaign-') as name:
    folder = Path(name)
    config = folder / 'config.py'
    config.write_text(CONFIG.format(cache=str(folder / 'data'), steps=STEPS))
    compiled = Path(os.environ.get('JAX_COMPILATION_CACHE_DIR') or folder / 'compiled')
    reference = Chain(config, folder / 'whole' / 'run', compiled)
    # It compiles, which the others need not: they take about half of its time.
    seconds = {script: _timed(reference, script) / 2 for script in ('train', 'evaluate')}
    expected = end(reference)
    results = []
    for number in range(-(-count // PER_CHAIN)):
      chain = Chain(config, folder / f'chain_{number}' / 'run', compiled)
      kills = min(PER_CHAIN, count - number * PER_CHAIN)
      phases = [PHASES[k * PER_CHAIN // kills] for k in range(kills)]
      results += _suffer(chain, phases, seconds, np.random.default_rng((seed, number)), expected)
  return results


def _timed(chain: Chain, script: str) -> float:
  """Runs a script undisturbed; returns its seconds."""
  begun = time.monotonic()
  _finish(chain.start(script))
  return time.monotonic() - begun


def _finish(process: subprocess.Popen[str]) -> None:
  said, _ = process.communicate(timeout=TIMEOUT)
  if process.returncode:
    raise outcomes.Wrong(f'exit status {process.returncode}: {said[-500:]}')


def _suffer(
  chain: Chain, phases: list[str], seconds: dict[str, float], rng: np.random.Generator, expected: Any
) -> list[outcomes.Result]:
  """Kills a chain once for each phase, then lets it end; all its kills share the verdict on the end."""
  killed, lost = [], ''
  try:
    for phase in phases:
      script = 'evaluate' if phase == 'evaluating' else 'train'
      if script == 'evaluate' and not (killed and killed[-1].startswith('evaluating')):
        _finish(chain.start('train'))
      for attempt in range(TRIES):  # earlier each time, as it may have ended before
        before = chain.steps
        process = chain.start(script)
        moment = _wait(chain, process, phase, seconds[script] / 2**attempt, rng)
        said = _kill(process)
        outcomes.expect(not before or chain.steps[-1:] >= before[-1:], 'a complete checkpoint is gone')
        if said is None:
          killed.append(moment(chain))
          break
    for script in ('train', 'evaluate'):
      _finish(chain.start(script))
    found = end(chain)
    differing = [name for name in expected if found.get(name) != expected[name]]
    outcomes.expect(not differing, f'not bitwise the same: {", ".join(differing)}')
  except outcomes.Wrong as error:
    lost = str(error)
  outcome = outcomes.LOST if lost else outcomes.RIGHT
  return [outcomes.Result(kind, f'{chain.workdir.parent.name}, kill {k}', outcome, lost)
          for k, kind in enumerate(killed)]  # fmt: skip


def _kill(process: subprocess.Popen[str]) -> str | None:
  """Ends a process by SIGKILL; returns None, or what it said if it had ended by itself."""
  process.kill()
  said, _ = process.communicate(timeout=TIMEOUT)
  if process.returncode not in (0, -signal.SIGKILL):
    raise outcomes.Wrong(f'exit status {process.returncode}: {said[-500:]}')
  return said if process.returncode == 0 else None


def _wait(
  chain: Chain, process: subprocess.Popen[str], phase: str, seconds: float, rng: np.random.Generator
) -> Callable[[Chain], str]:
  """Waits for the moment to kill; returns what names the moment."""
  first, fraction = _recorded(chain), float(rng.uniform())
  further = int(rng.integers(1, 4))
  if phase == 'start':
    time.sleep(0.6 * seconds * fraction)
  elif phase == 'training':
    _until(process, lambda: _recorded(chain) >= min(first + further, STEPS - 1))
  elif phase == 'saving':
    _until(process, lambda: any(chain.workdir.glob(f'{checkpoint.CHECKPOINTS}/*-tmp')))
  elif phase == 'reporting':
    _until(process, lambda: chain.steps[-1:] == [STEPS])
    time.sleep(0.5 * seconds * fraction)
  else:
    time.sleep(seconds * (0.2 + 0.75 * fraction))
  return _moment(phase)


def _moment(phase: str) -> Callable[[Chain], str]:
  """Returns a function that says in which moment a chain is."""

  def named(chain: Chain) -> str:
    if any(chain.workdir.glob('*/*-tmp')):
      return 'saving'
    if phase != 'evaluating':
      return phase
    made = list((chain.workdir / 'evaluation').glob('**/*'))
    if any(path.suffix == '.png' for path in made):
      return 'evaluating: its report'
    return 'evaluating' if made else 'evaluating: its start'

  return named


def _until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
  begun = time.monotonic()
  while not condition() and process.poll() is None and time.monotonic() - begun < TIMEOUT:
    time.sleep(0.002)


def _recorded(chain: Chain) -> int:
  path = chain.workdir / metrics_file.FILE
  lines = path.read_text().splitlines() if path.exists() else []
  steps = [re.match(r'{"step": (\d+)', line) for line in lines]
  return max((int(step[1]) for step in steps if step), default=0)


def end(chain: Chain) -> dict[str, Any]:
  """Returns all that must be bitwise the same at the end of a chain, by name."""
  found: dict[str, Any] = {}
  for name in (checkpoint.CHECKPOINTS, checkpoint.BEST):
    directory = chain.workdir / name
    step = checkpoint.steps_in(directory)[-1]
    found[name] = step, checkpoint.read_metadata(directory, step)['crc32']
  records = [{k: v for k, v in record.items() if k != 'images_per_second'} for record in _records(chain)]
  found['metrics'] = json.dumps(records)
  evaluation = chain.workdir / 'evaluation'
  found['evaluation.json'] = (evaluation / 'evaluation.json').read_text().replace(str(chain.workdir), '')
  with np.load(evaluation / 'per_image.npz') as arrays:
    found['per_image.npz'] = {name: arrays[name].tobytes() for name in arrays.files}
  return found


def _records(chain: Chain) -> Iterator[dict[str, Any]]:
  yield from metrics_file.read(chain.workdir)
