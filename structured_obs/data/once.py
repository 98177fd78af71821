"""Creates a folder of the cache exactly once, however many processes ask for it at the same time.

A folder is created beside its final place, under a unique name, and renamed when it is complete. Its
creator holds a lock, so that other threads, processes and containers wait. If the file system has no
locks, several may create it, and the first to finish wins.

A lock is the kernel's, so it ends with its process. Names of incomplete folders therefore begin with the
kernel's identity: the holder of the lock may remove what other processes of the same kernel left,
because they have ended. Process numbers and host names do not suffice, because containers share them.
Folders of another machine are removed when nothing in them has changed for a day.
"""

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from structured_obs.data import decode

_ABANDONED = 24 * 3600.0  # seconds without a change, for folders of other machines
_HERE: dict[str, threading.Lock] = {}  # by path: network file systems may lock processes, not threads


def make(path: str, fill: Callable[[str], None], say: Callable[[str], None] | None = None) -> None:
  """Creates a folder, unless it exists.

  Args:
    path: of the folder.
    fill: receives an empty folder, and writes its content.
    say: receives a message before waiting for another process that creates the same folder.

  Raises:
    OSError: nothing can be written there; the message has the fix.
  """
  if os.path.isdir(path):
    return
  with storing(os.path.dirname(path)):
    os.makedirs(os.path.dirname(path), exist_ok=True)
  with _locked(path, say or (lambda line: None)) as alone:
    if os.path.isdir(path):
      return
    _remove_abandoned(path, alone)
    partial = f'{path}.{_kernel()}.{uuid.uuid4().hex[:12]}.partial'
    try:
      with storing(os.path.dirname(path)):
        os.makedirs(partial)
      fill(partial)
      _publish(partial, path)
    finally:
      shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def storing(folder: str) -> Iterator[None]:
  """Adds to errors of writing into the cache what was being written, and the fix."""
  try:
    yield
  except OSError as error:
    if error.errno == errno.EPIPE:  # from the reader of progress messages
      raise
    kinds = (FileExistsError, NotADirectoryError)
    reason = 'it is not a folder' if isinstance(error, kinds) else error.strerror or str(error)
    shown = decode.printable(folder)
    advice = 'Free space, or name' if error.errno in (errno.ENOSPC, errno.EDQUOT) else 'Name'
    raise OSError(
      f'The prepared images cannot be written to {shown}: {reason}. Nothing incomplete is '
      f'left there. {advice} another folder by --config.data.cache_dir=PATH, and repeat the '
      'command.'
    ) from error


@contextlib.contextmanager
def _locked(path: str, say: Callable[[str], None]) -> Iterator[bool]:
  """Holds the lock of a path; yields whether the file system has locks."""
  here = _HERE.setdefault(path, threading.Lock())
  waiting = f'waiting for another run that prepares {decode.printable(path)}'
  if not here.acquire(blocking=False):
    say(waiting)
    here.acquire()
  try:
    file = _lock_file(f'{path}.lock', lambda: say(waiting))
    try:
      yield file is not None
    finally:
      if file is not None:
        with contextlib.suppress(OSError):
          os.remove(f'{path}.lock')  # only its holder removes it; `_lock_file` handles that
        os.close(file)
  finally:
    here.release()


def _lock_file(path: str, before_waiting: Callable[[], None]) -> int | None:
  """Opens and locks a file that its last holder may have removed; returns None without locks."""
  while True:
    try:
      file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
      return None
    try:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        before_waiting()
        fcntl.flock(file, fcntl.LOCK_EX)
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file), os.stat(path)):
          return file
    except OSError:  # no locks on this file system
      os.close(file)
      return None
    except BaseException:
      os.close(file)
      raise
    os.close(file)


def _kernel() -> str:
  """Returns the identity of the running kernel, which all containers on a machine share."""
  try:
    with open('/proc/sys/kernel/random/boot_id', encoding='ascii') as file:
      return file.read().strip().replace('-', '')
  except OSError:
    return os.uname().nodename.replace('.', '-')


def _remove_abandoned(path: str, alone: bool) -> None:
  """Removes what interrupted runs left; folders of this kernel at once if no other run is active."""
  for partial in glob.glob(f'{glob.escape(path)}.*.partial'):
    ours = partial.removeprefix(f'{path}.').partition('.')[0] == _kernel()
    if (alone and ours) or time.time() - _changed(partial) > _ABANDONED:
      shutil.rmtree(partial, ignore_errors=True)


def _changed(folder: str) -> float:
  """Returns when a folder or a file in it last changed; 0 if it is gone."""
  times = [0.0]
  for path in (folder, *glob.glob(os.path.join(glob.escape(folder), '*'))):
    with contextlib.suppress(OSError):
      times.append(os.stat(path).st_mtime)
  return max(times)


def _publish(partial: str, path: str) -> None:
  """Moves a finished folder into place, unless another process was faster."""
  try:
    os.rename(partial, path)
  except OSError:
    if not os.path.isdir(path):
      raise
