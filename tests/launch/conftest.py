"""One demo of a few steps, made once: its runs are what the other scripts are tried on."""

from pathlib import Path
from typing import NamedTuple

import pytest

from tests import forks
from tests.forks import Done

ROOT = forks.ROOT


def launch(script: str, *flags: str) -> Done:
  """Runs a launch script as a user does; it finds the compiled programs of earlier tests."""
  return forks.run(f'launch.{script}', *flags)


class Demo(NamedTuple):
  """A finished demo."""

  workdir: Path
  flags: tuple[str, ...]
  done: Done


@pytest.fixture(scope='session')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
  """Both variants of 8x8 digits after three steps, scored on a few images."""
  workdir = tmp_path_factory.mktemp('demo') / 'runs'
  flags = (f'--workdir={workdir}', '--recipe=digits', '--steps=3', '--num_images=12')
  done = launch('demo', *flags)
  assert done.status == 0, '\n'.join(done.errors)
  return Demo(workdir, flags, done)
