"""The script as a process: killed at the worst moments, interrupted, and started again."""

import json
import signal
from pathlib import Path

import pytest

from structured_obs.runs import checkpoint, metrics_file
from tests.train import programs

pytestmark = [pytest.mark.timeout(500), pytest.mark.slow]
STEPS = 12


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return programs.write_config(tmp_path_factory.mktemp('kill'))


@pytest.fixture(scope='module')
def whole(config: Path) -> Path:
  """The workdir of an uninterrupted run."""
  workdir = config.parent / 'whole'
  programs.finish(programs.start(config, workdir))
  return workdir


def test_killed_in_the_middle_of_a_save_and_started_again_it_ends_bitwise_the_same(
  config: Path, whole: Path
):
  workdir = config.parent / 'killed'
  for directory, first in ((checkpoint.CHECKPOINTS, 2), (checkpoint.BEST, 6)):
    process = programs.start(config, workdir)
    programs.kill_while_saving(process, workdir / directory, first)
    assert list((workdir / directory).glob('*-tmp'))
  programs.finish(programs.start(config, workdir))
  assert programs.digests(workdir, STEPS) == programs.digests(whole, STEPS)
  assert checkpoint.steps_in(workdir / checkpoint.BEST) == checkpoint.steps_in(whole / checkpoint.BEST)
  assert not list(workdir.glob('*/*-tmp'))
  steps = [record['step'] for record in metrics_file.read(workdir) if record['kind'] == 'train']
  assert steps == list(range(1, STEPS + 1))


def test_interrupted_it_saves_and_says_how_to_go_on(config: Path):
  workdir = config.parent / 'interrupted'
  process = programs.start(config, workdir, '--config.train.steps=100000')
  programs.wait_until(lambda: programs.recorded(workdir) >= 2, process)
  process.send_signal(signal.SIGINT)
  said = programs.finish(process)
  (step,) = checkpoint.steps_in(workdir / checkpoint.CHECKPOINTS)[-1:]
  assert f'Stopped and saved after step {step} of 100000.' in said
  assert f'resume:    python -m launch.train --config={config} --workdir={workdir}' in said
  assert programs.recorded(workdir) == step
  json.loads((workdir / 'run.json').read_text())


def test_a_mistake_is_one_line_and_leaves_nothing(config: Path):
  workdir = config.parent / 'mistaken'
  said = programs.finish(programs.start(config, workdir, '--config.train.mapping=pmapp'), 2)
  assert said == (
    "error: --config.train.mapping must be one of 'shard_map', 'pmap', but is 'pmapp'. "
    "Did you mean 'pmap'?\n"
  )
  assert not workdir.exists()
