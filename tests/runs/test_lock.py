"""One training in a workdir: a second one is refused, whatever became of the first one's file."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from structured_obs.runs import lock

HOLD = """
import pathlib, time
from structured_obs.runs import lock
with lock.held(pathlib.Path({path!r}), print):
  print('held', flush=True)
  time.sleep(60)
"""


def test_a_second_training_is_refused_with_who_runs(tmp_path: Path):
  workdir = tmp_path / 'run'
  lock.check(workdir)
  with lock.held(workdir, print):
    for second in (lambda: lock.check(workdir), lambda: lock.held(workdir, print).__enter__()):
      with pytest.raises(ValueError, match=rf'process {os.getpid()} on host .* is running in {workdir}'):
        second()
  assert not list(workdir.iterdir())
  lock.check(workdir)


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD.format(path=str(tmp_path))], stdout=subprocess.PIPE, text=True
  )
  try:
    assert process.stdout is not None
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(ValueError, match=f'process {process.pid} on host'):
      lock.check(tmp_path)
  finally:
    process.kill()
    process.communicate()
  assert (tmp_path / lock.FILE).exists()
  lock.check(tmp_path)
  with lock.held(tmp_path, print):
    pass


@pytest.mark.parametrize('content', [b'', b'\xff', b'[]', b'{"process": 1}'])
def test_what_the_file_holds_does_not_matter(content: bytes, tmp_path: Path):
  (tmp_path / lock.FILE).write_bytes(content)
  lock.check(tmp_path)
  with (tmp_path / lock.FILE).open('rb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match='which has just started'):
      lock.check(tmp_path)
  with lock.held(tmp_path, print):
    pass


def test_a_workdir_that_was_deleted_can_be_locked_again(tmp_path: Path):
  with lock.held(tmp_path / 'run', print):
    (tmp_path / 'run').rename(tmp_path / 'moved')
    with lock.held(tmp_path / 'run', print):
      pass
  assert not (tmp_path / 'run' / lock.FILE).exists()


def test_without_locks_the_training_runs_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  def refuse(*arguments: Any) -> None:
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(lock.fcntl, 'flock', refuse)
  said: list[str] = []
  lock.check(tmp_path)
  with lock.held(tmp_path, said.append):
    lock.check(tmp_path)
  (text,) = said
  assert f'the file system of {tmp_path} has no locks (No locks available)' in text
