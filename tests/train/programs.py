"""Runs launch/train.py in processes of its own, as a user does, and waits for what it leaves."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from structured_obs.runs import checkpoint, metrics_file

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 240.0  # seconds for anything that is waited for

CONFIG = """
from structured_obs.config import Config


def get_config(variant=''):
  config = Config()
  config.data.cache_dir = {cache!r}
  config.model.options = {{'latents': 2, 'features': (4,), 'blocks': 0}}
  config.optim.warmup_steps, config.optim.ema_decay = 2, 0.9
  config.train.steps, config.train.batch_size = 12, 16
  config.train.log_every, config.train.validate_every, config.train.checkpoint_every = 1, 3, 1
  return config
"""


def write_config(directory: Path) -> Path:
  """Writes a config file of a tiny VAE on digits, 12 steps, a checkpoint after each."""
  path = directory / 'config.py'
  path.write_text(CONFIG.format(cache=str(directory / 'data')))
  return path


def start(config: Path, workdir: Path, *flags: str, devices: int = 1) -> subprocess.Popen[str]:
  """Starts the script; all tests share its compiled programs, of which a kill may leave halves."""
  kept = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
  settings = {'NUM_CPU_DEVICES': str(devices), 'PLATFORMS': 'cpu', 'DISABLE_MOST_OPTIMIZATIONS': '1'}
  command = [sys.executable, '-m', 'launch.train', f'--config={config}', f'--workdir={workdir}']
  return subprocess.Popen(
    [*command, f'--compile_cache={os.environ["JAX_COMPILATION_CACHE_DIR"]}/programs', *flags],
    cwd=ROOT,
    env=kept | {f'JAX_{name}': value for name, value in settings.items()},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
  """Waits for the end, checks the exit status and returns what was printed."""
  try:
    out, error = process.communicate(timeout=TIMEOUT)
  finally:
    process.kill()
  assert process.returncode == status, f'exit status {process.returncode}\n{out}\n{error}'
  return out + error


def kill_while_saving(process: subprocess.Popen[str], directory: Path, first: int) -> None:
  """Ends a process by SIGKILL while it writes a checkpoint of at least the step `first`."""
  while True:
    wait_until(lambda: saving(directory, first), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.05)
    if saving(directory, first):  # it still is, and cannot go on
      break
    process.send_signal(signal.SIGCONT)
  process.kill()
  process.communicate(timeout=TIMEOUT)
  assert process.returncode == -signal.SIGKILL


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
  """Waits for something that a running process will do."""
  begun = time.monotonic()
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() - begun < TIMEOUT
    time.sleep(0.001)


def saving(directory: Path, first: int) -> bool:
  """Whether a checkpoint of at least the step `first` is being written there."""
  names = [re.match(r'(\d+)\.', path.name) for path in directory.glob('*-tmp')]
  return any(name is not None and int(name[1]) >= first for name in names)


def recorded(workdir: Path) -> int:
  """The last step in metrics.jsonl; 0 before the first."""
  return max([record['step'] for record in metrics_file.read(workdir)], default=0)


def free_port() -> int:
  """A port of the loopback interface that nobody listens to."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def digests(workdir: Path, step: int) -> dict[str, int]:
  """CRC-32 of every array of the latest checkpoint, which must be of this step, by its path."""
  directory = workdir / checkpoint.CHECKPOINTS
  assert checkpoint.steps_in(directory)[-1] == step
  return checkpoint.read_metadata(directory, step)['crc32']
