"""Runs that find a damaged checkpoint, a full disk or no workdir: what they do, and what they say."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.runs import checkpoint, metrics_file, workdir
from structured_obs.train import loop, metrics, resume, run
from structured_obs.train import step as steps
from tests.train import stub
from tests.train.test_loop import assert_equal, train


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Outcome, Path]:
  """An uninterrupted run of 12 steps with checkpoints of the steps 8 and 12, the best of them too."""
  directory = tmp_path_factory.mktemp('whole')
  return train(stub.make_config(), directory), directory


@pytest.fixture
def copied(whole: tuple[loop.Outcome, Path], tmp_path: Path) -> Path:
  """A copy of it, to be damaged."""
  return Path(shutil.copytree(whole[1], tmp_path / 'copied'))


def damage(directory: Path, kind: str = 'zeros') -> None:
  """Damages a checkpoint, so that it is not complete, or only its arrays are not as they were."""
  if kind == 'empty':
    shutil.rmtree(directory)
    directory.mkdir()
  else:
    path = max(directory.rglob('d/*'), key=lambda file: file.stat().st_size)
    for file in path.parent.iterdir():
      file.write_bytes(bytes(file.stat().st_size))


def without_best(directory: Path) -> Path:
  """Removes the best checkpoint, which a run resumes from as well."""
  shutil.rmtree(directory / checkpoint.BEST)
  return directory


@pytest.mark.parametrize('kind', ['empty', 'zeros'])
def test_a_run_resumes_from_the_newest_checkpoint_that_is_whole(
  kind: str, whole: tuple[loop.Outcome, Path], copied: Path, capsys: pytest.CaptureFixture[str]
):
  directory = without_best(copied) / checkpoint.CHECKPOINTS
  damage(directory / '12', kind)
  assert_equal(train(stub.make_config(), copied).state, whole[0].state)
  said = capsys.readouterr().out
  assert f'The checkpoint of step 12 in {directory} is damaged: ' in said
  assert f'It is kept as {directory / "damaged-12"}.\nResumed from step 8.\n' in said
  assert {path.name for path in directory.iterdir()} == {'8', '12', 'damaged-12'}
  assert [record['step'] for record in metrics_file.read(copied) if record['kind'] == 'train'] == [
    2, 4, 6, 8, 10, 12,
  ]  # fmt: skip


def test_the_best_checkpoint_serves_as_the_latest(whole: tuple[loop.Outcome, Path], copied: Path):
  (best,) = checkpoint.steps_in(copied / checkpoint.BEST)
  shutil.rmtree(copied / checkpoint.CHECKPOINTS)
  assert_equal(train(stub.make_config(), copied).state, whole[0].state)
  assert checkpoint.steps_in(copied / checkpoint.CHECKPOINTS)[-1] == 12
  assert best in checkpoint.steps_in(copied / checkpoint.BEST)


def test_more_than_an_hour_is_given_up_only_with_the_flag(copied: Path):
  damage(without_best(copied) / checkpoint.CHECKPOINTS / '12')
  path = copied / metrics_file.FILE
  lines = [
    {**record, **({'images_per_second': 0.008} if record['kind'] == 'train' else {})}
    for record in metrics_file.read(copied)
  ]  # 8 images a step: 1,000 seconds
  path.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
  before = path.read_bytes()
  with pytest.raises(ValueError, match=r'of step 8, about 1\.1 hours .*--allow_older_checkpoint'):
    train(stub.make_config(), copied)
  assert path.read_bytes() == before
  assert checkpoint.steps_in(copied / checkpoint.CHECKPOINTS) == [8, 12]
  experiment, prepared = stub.make_experiment(stub.make_config()), stub.make_prepared()
  about = {'config': {}, 'data': {}}
  assert loop.train(experiment, prepared, copied, about, allow_older=True).step == 12


def test_the_time_lost_is_that_of_the_directories_where_nothing_is_recorded(copied: Path):
  directory = copied / checkpoint.CHECKPOINTS
  shutil.move(copied / metrics_file.FILE, copied / 'elsewhere')
  older = (directory / '8').stat().st_mtime
  os.utime(directory / '12', (older, older + 5000))
  lost = resume.lost_seconds(copied, (directory, 12), (directory, 8), 8)
  assert lost == pytest.approx(5000)


def test_without_a_whole_checkpoint_nothing_starts_and_nothing_is_lost(copied: Path):
  for path in copied.glob('*/[0-9]*'):
    damage(path)
  before = sorted(copied.rglob('*'))
  with pytest.raises(
    ValueError, match=r'(?s)step 12 .* is damaged.*All other checkpoints .* are damaged too'
  ):
    train(stub.make_config(), copied)
  assert sorted(copied.rglob('*')) == before


def test_a_checkpoint_that_does_not_fit_is_not_taken_for_a_damaged_one(copied: Path):
  config = stub.make_config()
  config.optim.ema_decay = 0.5
  with pytest.raises(ValueError, match='does not match'):
    train(config, copied)
  assert checkpoint.steps_in(copied / checkpoint.CHECKPOINTS) == [8, 12]


def test_a_state_that_became_infinite_ends_the_run_before_it_is_saved(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  make_step = steps.make_step

  def infinite(leaf: Any) -> Any:
    return leaf * jnp.inf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

  def poisoned(*arguments: Any) -> Any:
    update = make_step(*arguments)

    def call(*operands: Any) -> Any:
      state, told = update(*operands)
      poison = int(state.step) == 6
      return (jax.tree.map(infinite, state) if poison else state), told

    return call

  monkeypatch.setattr(steps, 'make_step', poisoned)
  with pytest.raises(loop.NonFiniteError, match=r'not saved; the checkpoints of steps \[4\] are'):
    train(stub.make_config(), tmp_path)
  assert checkpoint.steps_in(tmp_path / checkpoint.CHECKPOINTS) == [4]


def test_a_validation_image_without_a_finite_elbo_is_said_and_makes_no_best(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  values = iter([[1.0, 2.0, 3.0], [9.0, np.nan, np.inf], [np.inf, 9.0, 9.0]])
  monkeypatch.setattr(loop.likelihood, 'split_elbo', lambda *_, **__: np.array(next(values)))
  outcome = train(stub.make_config(), tmp_path)
  assert outcome.standing == loop.Standing(best=2.0, best_step=4, waited=2, nonfinite=2)
  said = capsys.readouterr().out
  assert 'the ELBO of 2 of 3 validation images is NaN or infinite at step 8' in said
  assert 'the first is image 1 of the split, with nan' in said
  validated = [record for record in metrics_file.read(tmp_path) if record['kind'] == 'validation']
  assert [record['elbo'] for record in validated] == [2.0, None, None]
  assert [record.get('nonfinite_images') for record in validated] == [None, 2, 1]


def test_a_run_without_a_best_checkpoint_says_why():
  standing = loop.Standing(waited=3, nonfinite=3)
  outcome = loop.Outcome(12, 'finished', standing, None)  # type: ignore[arg-type]
  said = run.farewell(outcome, stub.make_config(), run.Options('runs/a'))
  assert 'no best checkpoint: in each of 3 validations the ELBO of some images was NaN' in said
  assert 'evaluate:  python -m launch.evaluate --workdir=runs/a --checkpoint=latest' in said


def test_a_workdir_that_is_replaced_ends_the_run_and_gets_nothing(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  directory = tmp_path / 'run'
  directory.mkdir()
  summarize = loop.likelihood.summarize

  def delete(*arguments: Any) -> Any:
    shutil.rmtree(directory)
    directory.mkdir()
    return summarize(*arguments)

  monkeypatch.setattr(loop.likelihood, 'summarize', delete)
  with pytest.raises(OSError, match='was deleted, moved or replaced while its training ran'):
    train(stub.make_config(), directory)
  assert not list(directory.iterdir())


def test_a_full_disk_is_a_sentence_with_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  record = metrics.Recorder.record

  def fill(self: Any, step: int, *arguments: Any) -> None:
    if step == 6:
      self._file.close()
      self._file = Path('/dev/full').open('wb', buffering=0)  # noqa: SIM115
    record(self, step, *arguments)

  monkeypatch.setattr(metrics.Recorder, 'record', fill)
  with pytest.raises(OSError, match='No space') as error, workdir.explained(tmp_path, 'the command'):
    train(stub.make_config(), tmp_path)
  assert str(error.value) == (
    f'No space left on device: {tmp_path / metrics_file.FILE}. Make room there. '
    'The checkpoint of step 4 in '
    f'{tmp_path / checkpoint.CHECKPOINTS} is safe; the same command resumes from it: the command'
  )
