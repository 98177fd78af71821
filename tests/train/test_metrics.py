"""Records: strict JSON, once for every step, also after a run was cut short."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from structured_obs.runs import metrics_file
from structured_obs.train import metrics


def record(workdir: Path, *steps: int, tensorboard: bool = False, resume: int = 0) -> None:
  with metrics.Recorder(workdir, 100, tensorboard) as recorder:
    recorder.resume(resume)
    for step in steps:
      recorder.record(step, 'train', {'loss': 1.0 / step})


def test_numbers_that_are_not_finite_become_null(tmp_path: Path):
  with metrics.Recorder(tmp_path, 10) as recorder:
    recorder.resume(0)
    recorder.record(1, 'train', {'loss': math.nan, 'grad_norm': math.inf, 'kl': 2.0})
  text = (tmp_path / metrics_file.FILE).read_text()

  def refuse(constant: str) -> None:
    raise AssertionError(constant)

  found = json.loads(text, parse_constant=refuse)
  assert found == {'step': 1, 'kind': 'train', 'loss': None, 'grad_norm': None, 'kl': 2.0}


def test_a_resumed_run_writes_no_step_twice(tmp_path: Path):
  record(tmp_path, 2, 4, 6)
  with (tmp_path / metrics_file.FILE).open('a') as file:
    file.write('{"step": 8, "ki')  # what a kill leaves
  assert [line['step'] for line in metrics_file.read(tmp_path)] == [2, 4, 6]
  record(tmp_path, 6, 8, resume=4)
  assert [line['step'] for line in metrics_file.read(tmp_path)] == [2, 4, 6, 8]


BAD_LINES = {
  'garbage': b'}{',
  'bytes': b'{"step": 3, "kind": "tr\xff"}',
  'list': b'[1, 2]',
  'number': b'3',
  'no step': b'{"kind": "train"}',
  'step': b'{"step": "3", "kind": "train"}',
  'truth': b'{"step": true, "kind": "train"}',
  'no kind': b'{"step": 3}',
  'text': b'{"step": 3, "kind": "train", "loss": "low"}',
  'nested': b'{"step": 3, "kind": "train", "loss": [1]}',
  'deep': b'[' * 100_000,
  'zeros': bytes(40),
  'empty': b'',
}


@pytest.mark.parametrize('name', BAD_LINES)
def test_a_bad_line_is_left_out_with_one_warning(
  name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
  record(tmp_path, 2, 4)
  path = tmp_path / metrics_file.FILE
  first, second = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(first + BAD_LINES[name] + b'\n' + BAD_LINES[name] + b'\n' + second)
  capsys.readouterr()
  for _ in range(2):
    assert [line['step'] for line in metrics_file.read(tmp_path)] == [2, 4]
  (warning,) = capsys.readouterr().err.splitlines()
  assert warning.startswith(f'Warning: line 2 of {path} is not a record (')
  assert warning.endswith('and is skipped (lines skipped: 2).')
  record(tmp_path, 6, resume=4)
  assert [line['step'] for line in metrics_file.read(tmp_path)] == [2, 4, 6]
  assert path.read_bytes().count(b'\n') == 3


def test_numbers_that_json_has_no_name_for_are_null(tmp_path: Path):
  (tmp_path / metrics_file.FILE).write_text('{"step": 2, "kind": "train", "loss": NaN, "kl": 1e999}\n')
  metrics_file.truncate(tmp_path, 2)
  assert metrics_file.read(tmp_path) == [{'step': 2, 'kind': 'train', 'loss': None, 'kl': None}]


def test_a_resume_that_forgets_nothing_writes_nothing(tmp_path: Path):
  record(tmp_path, 2, 4)
  path = tmp_path / metrics_file.FILE
  before = path.stat().st_ino
  metrics_file.truncate(tmp_path, 4)
  assert path.stat().st_ino == before
  metrics_file.truncate(tmp_path, 2)
  assert path.stat().st_ino != before


def test_a_file_that_cannot_be_replaced_stays_and_is_named(tmp_path: Path):
  path = tmp_path / metrics_file.FILE
  path.write_text('before')
  (tmp_path / f'{metrics_file.FILE}.tmp').symlink_to('/dev/full')
  with pytest.raises(OSError, match='No space left on device') as error:
    metrics_file.replace(path, 'after')
  assert error.value.filename == str(path)
  assert [entry.name for entry in tmp_path.iterdir()] == [metrics_file.FILE]
  assert path.read_text() == 'before'


def test_without_a_terminal_every_record_is_one_plain_line(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
  record(tmp_path, 1, 2)
  lines = capsys.readouterr().out.splitlines()
  assert [line.split('  ')[0] for line in lines] == ['train', 'train']
  assert [line.split()[1] for line in lines] == ['1/100', '2/100']
  assert '\x1b' not in ''.join(lines)


def test_the_other_processes_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
  with metrics.Recorder(tmp_path, 10, active=False) as recorder:
    recorder.resume(0)
    recorder.record(1, 'train', {'loss': 1.0})
    recorder.say('nothing')
  assert not list(tmp_path.iterdir())
  assert capsys.readouterr().out == ''


def test_tensorboard_events_carry_the_values(tmp_path: Path):
  pytest.importorskip('tensorboardX')
  record(tmp_path, 1, 2, tensorboard=True)
  (path,) = (tmp_path / 'tensorboard').iterdir()
  content = path.read_bytes()
  assert content.count(b'train/loss') == 2
  assert np.float32(0.5).tobytes() in content


def test_tensorboard_missing_is_said_with_the_extra(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(metrics.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r'structured_obs\[log\]'):
    metrics.check_tensorboard()


def test_the_meter_averages_finite_values_and_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch):
  now = [0.0]
  monkeypatch.setattr(metrics.time, 'perf_counter', lambda: now[0])
  meter = metrics.Meter(batch_size=8)
  for loss in (1.0, math.nan, 4.0):
    now[0] += 1.0
    meter.add({'loss': np.float32(loss), 'grad_norm': np.float32(math.nan), 'skipped': np.int32(0)})
  with meter.pause():
    now[0] += 100.0
  values = meter.read()
  assert values['loss'] == 2.5
  assert math.isnan(values['grad_norm'])
  assert values['images_per_second'] == 8.0  # 2 timed steps of 8 images in 2 s
  assert 'skipped' not in values
