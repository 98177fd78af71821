"""Locks a workdir, so that two trainings never write into the same directory.

The lock is the kernel's (flock) on WORKDIR/lock, so it ends with the process that holds it, even if that
is killed. The file names that process for the message of a second training.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = 'lock'
BUSY = (errno.EAGAIN, errno.EACCES)


def check(workdir: Path) -> None:
  """Raises a ValueError if another training holds the workdir's lock; writes nothing."""
  with contextlib.suppress(OSError), (workdir / FILE).open('rb') as file:
    if not _flock(file.fileno(), fcntl.LOCK_SH):
      raise ValueError(_sentence(workdir))


@contextlib.contextmanager
def held(workdir: Path, say: Callable[[str], None]) -> Iterator[None]:
  """Holds the lock of a workdir until the end of the block.

  Args:
    workdir: of the run; created if missing.
    say: receives a warning if the file system has no locks.

  Raises:
    ValueError: another training holds the lock.
  """
  path = workdir / FILE
  workdir.mkdir(parents=True, exist_ok=True)
  descriptor = _acquire(path, say)
  try:
    about = {'process': os.getpid(), 'host': socket.gethostname(), 'since': _now()}
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
      os.truncate(descriptor, 0)
      os.write(descriptor, json.dumps(about).encode())
    yield
  finally:
    if is_at(descriptor, path):
      path.unlink()
    os.close(descriptor)


def _acquire(path: Path, say: Callable[[str], None]) -> int:
  """Returns the descriptor of a locked file at this path."""
  while True:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      if not _flock(descriptor, fcntl.LOCK_EX):
        raise ValueError(_sentence(path.parent))
    except OSError as error:
      say(
        f'Warning: the file system of {path.parent} has no locks ({error.strerror}), so a second '
        'training there would not be noticed; make sure that only one runs.'
      )
      return descriptor
    except ValueError:
      os.close(descriptor)
      raise
    if is_at(descriptor, path):
      return descriptor
    os.close(descriptor)  # its holder removed the file in the meantime


def _flock(descriptor: int, kind: int) -> bool:
  """Returns whether the lock was free; raises an OSError if the file system has no locks."""
  try:
    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
  except OSError as error:
    if error.errno in BUSY:
      return False
    raise
  return True


def is_at(descriptor: int, path: Path) -> bool:
  """Returns whether an open file is still the one at a path."""
  try:
    return os.path.samestat(os.fstat(descriptor), path.stat())
  except OSError:
    return False


def _now() -> str:
  return datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M:%S %Z')


def _sentence(workdir: Path) -> str:
  try:
    about = json.loads((workdir / FILE).read_bytes())
    who = f'process {about["process"]} on host {about["host"]}, since {about["since"]}'
  except (OSError, ValueError, TypeError, KeyError):  # not written yet, or damaged
    who = 'which has just started'
  return (
    f'Another training ({who}) is running in {workdir}. Wait until it ends, stop it, or choose another '
    '--workdir.'
  )
