"""One demo of a few steps, made once: its runs are what the other scripts are tried on."""

import subprocess
import sys
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
  """Runs a launch script as a user does; it finds the compiled programs of earlier tests."""
  command = [sys.executable, '-m', f'launch.{script}', *flags]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  return Done(done.returncode, done.stdout, done.stderr.splitlines())


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
