"""Folders of the cache that several threads, processes and containers want at once."""

import errno
import os
import resource
import threading
import time

import numpy as np
import pytest

from structured_obs.data import once, prepare
from tests.data import helpers


def _fill(folder: str) -> None:
  with open(os.path.join(folder, 'x'), 'w', encoding='utf-8') as file:
    file.write(folder)


def test_of_many_threads_one_makes_the_folder_and_the_others_wait(tmp_path):
  path, made, said = str(tmp_path / 'cache' / 'a'), [], []
  entered = threading.Event()

  def fill(folder):
    made.append(folder)
    entered.set()
    while len(said) < 3:
      time.sleep(0.001)
    _fill(folder)

  threads = [threading.Thread(target=once.make, args=(path, fill, said.append)) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(made) == 1
  assert said == [f'waiting for another run that prepares {path}'] * 3
  assert os.listdir(tmp_path / 'cache') == ['a']


def test_another_process_that_holds_the_lock_is_waited_for(tmp_path):
  path, said = str(tmp_path / 'a'), []
  # A lock is that of an opened file: this one is as good as another process's, or another container's.
  held = once._lock_file(f'{path}.lock', lambda: None)
  assert held is not None
  thread = threading.Thread(target=once.make, args=(path, said.append, said.append))
  thread.start()
  while not said:
    time.sleep(0.001)
  os.makedirs(path)
  os.remove(f'{path}.lock')  # as whoever holds it does at the end
  os.close(held)
  thread.join()
  assert said == [f'waiting for another run that prepares {path}']  # it found the folder ready
  assert os.listdir(tmp_path) == ['a']


def test_without_locks_the_first_to_finish_wins(tmp_path, monkeypatch):
  path = str(tmp_path / 'a')
  monkeypatch.setattr(once, '_lock_file', lambda path, before: None)

  def overtaken(folder):
    _fill(folder)
    once._HERE.clear()  # as in another process
    once.make(path, _fill)

  once.make(path, overtaken)
  assert os.listdir(tmp_path) == ['a']
  assert '.partial' in (tmp_path / 'a' / 'x').read_text()


def test_what_killed_runs_left_is_removed_but_not_what_others_may_be_writing(tmp_path):
  path = str(tmp_path / 'a')
  dead = f'{path}.{once._kernel()}.0123.partial'
  elsewhere, old, older_name = (f'{path}.{name}.partial' for name in ('other.1', 'other.2', 'host.77'))
  unrelated = f'{path}b.{once._kernel()}.1.partial'
  for folder in (dead, elsewhere, old, older_name, unrelated):
    os.makedirs(folder)
    _fill(folder)
  for folder in (old, older_name):
    for name in (os.path.join(folder, 'x'), folder):
      os.utime(name, (0, time.time() - 2 * 24 * 3600))
  once.make(path, _fill)
  assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, (path, elsewhere, unrelated)))


def test_without_locks_nothing_fresh_is_removed(tmp_path, monkeypatch):
  monkeypatch.setattr(once, '_lock_file', lambda path, before: None)
  living = f'{tmp_path / "a"}.{once._kernel()}.0123.partial'
  os.makedirs(living)
  once.make(str(tmp_path / 'a'), _fill)
  assert os.path.isdir(living)


@pytest.mark.parametrize('error', [KeyboardInterrupt(), ValueError('x'), SystemExit(1)])
def test_an_interrupt_leaves_nothing(tmp_path, error):
  def fill(folder):
    _fill(folder)
    raise error

  for _ in range(2):  # the lock was released
    with pytest.raises(type(error)):
      once.make(str(tmp_path / 'a'), fill)
  assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
  np.savez(tmp_path / 'x.npz', image=helpers.random_images(60, 32, 32))
  config = helpers.config(tmp_path, f'npz:{tmp_path / "x.npz"}')
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
  try:
    with pytest.raises(OSError, match=r'written to .*/cache/npz-.*--config\.data\.cache_dir=PATH'):
      prepare.prepare(config)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert os.listdir(tmp_path / 'cache') == []
  prepare.prepare(config, verify=True)


def test_errors_of_writing_say_the_folder_and_the_remedy():
  words = r'to /x: No space left.* Free space, or name another folder'
  with pytest.raises(OSError, match=words), once.storing('/x'):
    raise OSError(errno.ENOSPC, 'No space left on device')
  with pytest.raises(BrokenPipeError), once.storing('/x'):
    raise BrokenPipeError(errno.EPIPE, 'Broken pipe')  # of the output, not of the cache


def test_a_cache_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'cache').write_text('')
  with pytest.raises(OSError, match='it is not a folder'):
    prepare.prepare(helpers.config(tmp_path, 'digits', limit=30))
