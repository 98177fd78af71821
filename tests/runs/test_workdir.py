"""run.json, when it is lost or damaged: read from the newest checkpoint, or refused in a sentence."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from structured_obs.config import Config
from structured_obs.runs import checkpoint, metrics_file, workdir
from tests.runs.test_checkpoint import make_state
from tests.train import stub

CONFIG = Config()
RUN = workdir.describe(CONFIG, stub.make_prepared().spec, 'the command')


def changed(**entries: Any) -> bytes:
  return json.dumps({**RUN, **entries}).encode()


DAMAGES: dict[str, bytes | None] = {
  'missing': None,
  'empty': b'',
  'cut': changed()[:100],
  'zeros': bytes(100),
  'bytes': b'\xff' + changed(),
  'list': b'[1, 2]',
  'number': b'3',
  'without data': json.dumps({'config': RUN['config']}).encode(),
  'config is a list': changed(config=[]),
  'section is a number': changed(config={'optim': 3}),
  'unknown section': changed(config={'optimizer': {}}),
  'unknown field': changed(config={'optim': {'lr': 1.0}}),
  'data lack a field': changed(data={'height': 3}),
  'data have another': changed(data={**RUN['data'], 'depth': 3}),
  'command is a number': changed(command=1),
  'checksum differs': changed(checksum=1),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
  """The workdir of a run with a checkpoint of step 2, and a damaged one of step 4."""
  directory = tmp_path / 'run' / checkpoint.CHECKPOINTS
  for step in (2, 4):
    checkpoint.save(directory, make_state(step=step), {**RUN, 'standing': {}}, keep=2)
  path = directory / '4' / checkpoint.METADATA
  path.write_bytes(path.read_bytes()[:-200])
  workdir.write(tmp_path / 'run', RUN)
  return tmp_path / 'run'


def damage(path: Path, content: bytes | None) -> None:
  if content is None:
    path.unlink()
  else:
    path.write_bytes(content)


def test_what_is_written_is_read(saved: Path):
  assert workdir.read(saved) == RUN
  (saved / workdir.FILE).write_bytes(changed())  # from before it had a checksum
  assert workdir.read(saved) == RUN


def test_without_a_good_one_the_newest_good_checkpoint_says_what_it_said(
  saved: Path, capsys: pytest.CaptureFixture[str]
):
  for content in DAMAGES.values():
    metrics_file.warn.cache_clear()
    damage(saved / workdir.FILE, content)
    assert workdir.read(saved) == RUN
    workdir.check(saved, CONFIG, allow_change=False)
    (warning,) = capsys.readouterr().err.splitlines()
    assert 'run.json is ' in warning
    assert warning.endswith(
      f'its contents are read from the checkpoint of step 2 in {saved / checkpoint.CHECKPOINTS}.'
    )
    (saved / workdir.FILE).touch()


def test_another_configuration_is_refused_without_it_too(saved: Path):
  (saved / workdir.FILE).unlink()
  other = Config()
  other.optim.learning_rate = 0.5
  with pytest.raises(ValueError, match=r'another configuration:\n  optim\.learning_rate'):
    workdir.check(saved, other, allow_change=False)


@pytest.mark.parametrize('name', DAMAGES)
def test_without_any_checkpoint_it_is_a_sentence(name: str, tmp_path: Path):
  workdir.write(tmp_path, RUN)
  damage(tmp_path / workdir.FILE, DAMAGES[name])
  if name == 'missing':
    assert workdir.find(tmp_path) is None
    return
  with pytest.raises(ValueError, match=r'run\.json is damaged .* no checkpoint to read it from'):
    workdir.check(tmp_path, CONFIG, allow_change=False)


def test_what_a_kill_at_the_start_leaves_is_no_foreign_file(tmp_path: Path):
  for name in workdir.OWN:
    (tmp_path / name).write_text('')
  workdir.check(tmp_path, CONFIG, allow_change=False)
  (tmp_path / 'thesis.tex').write_text('')
  with pytest.raises(ValueError, match=r'holds files but no run\.json'):
    workdir.check(tmp_path, CONFIG, allow_change=False)


def test_candidates_are_the_newest_first_and_the_latest_before_the_best(tmp_path: Path):
  for name in ('checkpoints/3', 'checkpoints/10', 'best/10', 'best/04', 'best/damaged-4', 'best/x'):
    (tmp_path / name).mkdir(parents=True)
  found = [str(path.relative_to(tmp_path) / str(step)) for path, step in workdir.candidates(tmp_path)]
  assert found == ['checkpoints/10', 'best/10', 'checkpoints/3']


def test_errors_of_the_file_system_say_what_is_safe(saved: Path):
  with pytest.raises(OSError) as error, workdir.explained(saved, ''):
    raise OSError(errno.EACCES, 'Permission denied', 'a/file')
  directory = saved / checkpoint.CHECKPOINTS
  assert str(error.value).startswith('Permission denied: a/file. The checkpoint of step ')
  assert str(error.value).endswith(f' in {directory} is safe; the same command resumes from it.')
  with pytest.raises(FileNotFoundError, match=r'^There is no run'), workdir.explained(saved, ''):
    workdir.read(saved / 'nowhere')
