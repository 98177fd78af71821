"""One demo of a few steps, made once: its runs are what the other scripts are tried on."""

import atexit
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Done(NamedTuple):
  """A program that ended."""

  status: int
  output: str
  errors: list[str]  # lines


def launch(script: str, *flags: str) -> Done:
  """Runs a launch script as a user does; it finds the compiled programs of earlier tests.

  Its process is a fork of one that has imported jax and all packages; see `forks`.
  """
  server = _forks()
  assert server.stdin is not None
  assert server.stdout is not None
  with tempfile.TemporaryDirectory() as folder:
    files = [Path(folder, name) for name in ('output', 'errors')]
    server.stdin.write(json.dumps([f'launch.{script}', flags, *map(str, files)]) + '\n')
    server.stdin.flush()
    status = server.stdout.readline()
    assert status, 'The process that runs scripts has ended.'
    output, errors = (file.read_text() for file in files)
  return Done(int(status), output, errors.splitlines())


@functools.cache
def _forks() -> subprocess.Popen[str]:
  command = [sys.executable, '-m', 'tests.launch.forks']
  server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  atexit.register(server.communicate)  # it ends with its input
  return server


class Demo(NamedTuple):
  """A finished demo."""

  workdir: Path
  flags: tuple[str, ...]
  done: Done


@pytest.fixture(scope='session')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
  """Both variants after three steps, evaluated with four samples."""
  workdir = tmp_path_factory.mktemp('demo') / 'runs'
  flags = (f'--workdir={workdir}', '--steps=3', '--samples=4')
  done = launch('demo', *flags)
  assert done.status == 0, '\n'.join(done.errors)
  return Demo(workdir, flags, done)
