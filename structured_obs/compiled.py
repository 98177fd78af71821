"""Keeps compiled programs on disk, so that a machine compiles each once, and sets options of XLA.

  from structured_obs import compiled
  compiled.keep()

The launch scripts do this. Each version of jaxlib and each kind of CPU has its own folder, because
machines that share a home folder may not run each other's programs. Only the user can write to it,
since its programs are executed. Unreadable entries are removed and compiled again. If the folder is not
writable, one warning says so, and programs are compiled without a cache.
"""

import hashlib
import os
import platform
import re
import shutil
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

ENVIRONMENT = 'JAX_COMPILATION_CACHE_DIR'  # jax's own variable; if set, jax decides the folder
MOST = 2 * 2**30  # bytes of all programs together
FREE = 64 * 2**20  # bytes that must be free on the disk

# XLA compiles a loop whose body touches fewer bytes than this into one native function.
LOOPS = 'xla_cpu_small_while_loop_byte_threshold'
LOOP_BYTES = 10_000_000

_CPU = re.compile(r'^(vendor_id|cpu family|model|flags|CPU \w+|Features)\s*:\s*(.*)$', re.MULTILINE)
_FAILURE = re.compile(
  r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", re.DOTALL
)


def native_loops() -> None:
  """Lets XLA compile larger loops into native code on CPUs, unless XLA_FLAGS sets such options itself.

  Useful for programs that mainly sample from `sparse_precision`: its triangular solves take two thirds
  of the time. Convolutions and matrix products in a loop then lose their fast routines: a training step
  of configs/folder.py took 7.7 s of processor time instead of 0.9
  (`python -m launch.benchmark --suite=training --recipes=folder --repeats=5 --xla_flag`).

  Call it before jax computes anything: XLA reads the environment variable XLA_FLAGS once.
  """
  given = os.environ.get('XLA_FLAGS', '')
  if LOOPS not in given and 'xla_backend_extra_options' not in given:
    flag = f'--xla_backend_extra_options={LOOPS}={LOOP_BYTES}'
    os.environ['XLA_FLAGS'] = f'{given} {flag}'.strip()


def default_folder() -> Path:
  """Returns the folder in the user's cache that holds compiled programs."""
  cache = os.environ.get('XDG_CACHE_HOME', '')
  home = Path(cache) if os.path.isabs(cache) else Path('~', '.cache').expanduser()
  return home / 'structured_obs' / 'compiled'


def keep(folder: str | Path | None = None, most: int = MOST) -> Path | None:
  """Stores all programs compiled from now on, and reuses those stored before.

  Args:
    folder: where to store them; by default the environment variable JAX_COMPILATION_CACHE_DIR, which is
      then left to jax and its own settings, or else `default_folder()`.
    most: bytes of all programs; beyond it, the least recently used are removed.

  Returns:
    The folder of this machine's programs; None if it is not writable.
  """
  if folder is None and os.environ.get(ENVIRONMENT):
    place = Path(os.environ[ENVIRONMENT])
  else:
    place: Any = folder or 'the home folder'
    try:
      root = Path(folder) if folder is not None else default_folder()
      place = root / f'jaxlib-{version("jaxlib")}-{machine()}'
      place.mkdir(mode=0o700, parents=True, exist_ok=True)
      limit(root, most)
      _check_writable(place)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
      _warn(place, str(error))
      return None
    jax.config.update('jax_compilation_cache_dir', str(place))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  _hear_failures(place)
  return place


def machine() -> str:
  """Returns a digest of the CPU's kind and features; programs run on machines with the same digest."""
  try:
    about = repr(sorted({*_CPU.findall(Path('/proc/cpuinfo').read_text(encoding='utf-8'))}))
  except OSError:  # not Linux: the machine's name is part of the digest instead
    about = repr(platform.uname())
  return hashlib.sha256(f'{platform.machine()} {about}'.encode()).hexdigest()[:12]


def limit(root: Path, most: int) -> None:
  """Removes the least recently used programs of all versions, down to `most` bytes.

  It frees another quarter, so that it is not needed again soon, and leaves other files alone.
  """
  found = []
  for path in root.glob('jaxlib-*/**/*'):
    try:
      about = path.stat()
    except OSError:  # another process has removed it
      continue
    if path.is_file():
      found.append((max(about.st_atime, about.st_mtime), about.st_size, path))
  total = sum(size for _, size, _ in found)
  if total <= most:
    return
  for _, size, path in sorted(found):
    if total <= most * 3 // 4:
      break
    path.unlink(missing_ok=True)
    total -= size


def _check_writable(place: Path) -> None:
  """Raises an OSError if the place is not writable, or the disk is almost full."""
  with tempfile.TemporaryFile(dir=place) as file:
    file.write(b'x')
  free = shutil.disk_usage(place).free
  if free < FREE:
    raise OSError(f'the disk has only {free / 2**20:.0f} MiB left')


def _warn(place: Path | str, reason: str) -> None:
  print(
    f'Warning: compiled programs are not kept in {place}: {reason}. Every start compiles them again. '
    'Launch scripts keep them elsewhere with --compile_cache=PATH; --nocompile_cache silences this '
    'warning.',
    file=sys.stderr,
  )


def _hear_failures(place: Path) -> None:
  """Removes programs that jax warns it cannot read; reports the first that it cannot write."""
  show, told = warnings.showwarning, set()

  def answer(message: Warning | str, *about: Any, **more: Any) -> None:
    failure = _FAILURE.match(str(message))
    if failure is None:
      show(message, *about, **more)
    elif failure[1] == 'reading':  # half-written, after a kill or on a full disk
      for path in place.glob(f'{failure[2]}-*-cache'):
        path.unlink(missing_ok=True)
    elif not told:
      told.add(failure[1])
      _warn(place, failure[3])

  warnings.showwarning = answer
