"""Runs of two processes that are not alike, or of which one does not come, or ends.

Both processes must end in bounded time, each with one sentence, and the checkpoints that were there
before must be whole. A run of one process has saved them.
"""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from structured_obs.runs import checkpoint, restore
from tests.campaigns import damage, outcomes

COUNT = 0  # all of them
TIMEOUT = 180  # seconds in which both processes must have ended
WAIT = 20  # seconds that processes wait for each other, instead of minutes

CONFIG = """
from structured_obs.config import Config
from tests.campaigns import damage
from pathlib import Path


def get_config(variant=''):
  config = damage.run_config(Path({folder!r}))
  config.train.steps, config.train.checkpoint_every = 100000, 100000
  return config
"""
SCRIPT = """
import runpy, sys
import structured_obs
structured_obs.__version__ += sys.argv[1]
with __import__('contextlib').suppress(ImportError):
  from structured_obs.train import peers
  peers.WAIT = {wait}
  peers.meet.__defaults__ = (peers.WAIT,)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


class Process(NamedTuple):
  """How one process is started, as opposed to the other."""

  flags: tuple[str, ...] = ()
  version: str = ''  # appended to the package's
  starts: bool = True


ALIKE = Process()
DIFFERENT = {
  'another learning rate': Process(('--config.optim.learning_rate=0.5',)),
  'another seed': Process(('--config.train.seed=7',)),
  'another batch size': Process(('--config.train.batch_size=32',)),
  'other data': Process(('--config.data.split_seed=7',)),
  'another number of steps': Process(('--config.train.steps=3000',)),
  'another family': Process(('--config.likelihood.family=low_rank',)),
  'another version': Process(version='.other'),
}


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case."""
  del seed
  for label, other in DIFFERENT.items():
    run = functools.partial(_run, (ALIKE, other), None, False)
    yield outcomes.Case('two hosts that differ', label, run)
  for number in range(2):
    absent = Process(starts=False)
    pair = (absent, ALIKE) if number == 0 else (ALIKE, absent)
    run = functools.partial(_run, pair, None, False)
    yield outcomes.Case('a host that never comes', f'process {number}', run)
    for moment in ('training', 'starting'):
      kill = functools.partial(_kill, number, moment)
      run = functools.partial(_run, (ALIKE, ALIKE), kill, False)
      yield outcomes.Case('a host that dies', f'process {number}, {moment}', run)
  run = functools.partial(_run, (ALIKE, ALIKE), None, True)
  yield outcomes.Case('a port in use', 'by a listener', run)


def run(count: int, seed: int) -> list[outcomes.Result]:
  """Starts `count` pairs of processes, or all kinds of them for 0."""
  chosen = outcomes.sample(list(cases(seed)), count, seed)
  return [outcomes.judge(case, timeout=2 * TIMEOUT) for case in chosen]


def _run(
  pair: tuple[Process, Process],
  disturb: Callable[[list[subprocess.Popen[str]], Path], list[int]] | None,
  occupied: bool,
  folder: Path,
) -> str:
  made = damage.whole()
  workdir = folder / damage.WORKDIR
  shutil.copytree(made.folder / damage.WORKDIR, workdir)
  config = folder / 'config.py'
  config.write_text(CONFIG.format(folder=str(made.folder)))
  with socket.socket() as listener, contextlib.ExitStack() as stack:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
    if occupied:
      listener.listen()
    else:
      listener.close()
    processes = [_start(config, workdir, port, k, one) for k, one in enumerate(pair) if one.starts]
    for process in processes:
      stack.callback(process.kill)
    killed = disturb(processes, workdir) if disturb else []
    said = _ends(processes)
  for k, (process, text) in enumerate(zip(processes, said, strict=True)):
    if k not in killed:
      _check(k, process.returncode, text)
  before, after = (checkpoint.steps_in(path / checkpoint.CHECKPOINTS)
                   for path in (made.folder / damage.WORKDIR, workdir))  # fmt: skip
  outcomes.expect(set(before) <= set(after), 'checkpoints are gone')
  restored = restore.restore(workdir, before[-1])
  same = checkpoint.digests(restored.variables) == made.restored['latest']
  outcomes.expect(same, 'the checkpoint of before has changed')
  return outcomes.REFUSED


def _check(number: int, status: int | None, text: str) -> None:
  """Raises unless a process ended by itself, with one sentence."""
  short = ' '.join(text.split())[-300:]
  outcomes.expect(status == 1, f'process {number} ended with status {status}: {short}')
  errors = [line for line in text.splitlines() if line.startswith('error: ')]
  outcomes.expect(len(errors) == 1, f'process {number} ended with {len(errors)} sentences: {short}')
  for sign in ('Traceback', 'Fatal', '*** ', 'Check failure'):
    outcomes.expect(sign not in text, f'process {number} ended with {sign}: {short}')


def _start(config: Path, workdir: Path, port: int, number: int, one: Process) -> subprocess.Popen[str]:
  flags = [
    f'--config={config}', f'--workdir={workdir}', f'--coordinator_address=127.0.0.1:{port}',
    '--num_processes=2', f'--process_id={number}', *one.flags,
  ]  # fmt: skip
  environment = {name: value for name, value in os.environ.items() if name != 'JAX_NUM_CPU_DEVICES'}
  environment |= {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(outcomes.ROOT)}
  return subprocess.Popen(
    [sys.executable, '-c', SCRIPT.format(wait=float(WAIT)), one.version, 'launch.train', *flags],
    cwd=outcomes.ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def _ends(processes: list[subprocess.Popen[str]]) -> list[str]:
  """Returns what each process said, once all have ended."""
  end = time.monotonic() + TIMEOUT
  said = []
  for number, process in enumerate(processes):
    try:
      said.append(process.communicate(timeout=max(end - time.monotonic(), 1))[1])
    except subprocess.TimeoutExpired:
      raise outcomes.Wrong(f'process {number} had not ended after {TIMEOUT} s') from None
  return said


def _kill(number: int, moment: str, processes: list[subprocess.Popen[str]], workdir: Path) -> list[int]:
  """Kills one process; returns which."""
  log = workdir / 'metrics.jsonl'
  size, end = log.stat().st_size, time.monotonic() + TIMEOUT
  while moment == 'training' and log.stat().st_size <= size and time.monotonic() < end:
    time.sleep(0.01)
    if any(process.poll() is not None for process in processes):
      break
  if moment == 'starting':
    time.sleep(5)
  processes[number].send_signal(signal.SIGKILL)
  return [number]
