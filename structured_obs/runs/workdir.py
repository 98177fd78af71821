"""The directory of a run: opens it, or refuses it before anything expensive starts.

`run.json` is written first. It holds the resolved configuration, the data, versions and the command,
and a later start is compared with it. Every checkpoint holds the same, so that a lost or damaged
run.json is read from the newest checkpoint.
"""

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structured_obs
from structured_obs import names
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.runs import checkpoint, configuration, lock, metrics_file

FILE = 'run.json'
OWN = (lock.FILE, f'{FILE}.tmp')  # left by a run that was killed while starting
ENTRIES: dict[str, type] = {'config': dict, 'data': dict, 'versions': dict, 'command': str}
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
Json = dict[str, Any]


def describe(config: Config, spec: DataSpec, command: str) -> Json:
  """Returns the contents of run.json."""
  return {
    'config': configuration.to_dict(config),
    'data': json.loads(json.dumps(spec._asdict())),
    'versions': versions(),
    'command': command,
  }


def versions() -> dict[str, str]:
  """Returns the versions of Python, of this package and of its numerical dependencies."""
  found = {'python': platform.python_version(), 'structured_obs': structured_obs.__version__}
  return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def check(workdir: Path, config: Config, allow_change: bool, locked: bool = False) -> None:
  """Compares the configuration of a run about to start with the run in the workdir.

  Args:
    workdir: of the run; it need not exist.
    config: resolved.
    allow_change: accept another configuration.
    locked: whether this process holds the lock of the workdir.

  Raises:
    ValueError: the workdir holds other files, a run of another configuration, or one that is running.
  """
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f'--workdir={workdir} is a file; name a directory, which need not exist.')
  if not locked:
    lock.check(workdir)
  run = find(workdir)
  if run is None:
    if workdir.is_dir() and any(path.name not in OWN for path in workdir.iterdir()):
      raise ValueError(
        f'--workdir={workdir} holds files but no {FILE}, so it is not the directory of a run; choose a '
        'directory that is empty or does not exist.'
      )
    return
  old = configuration.binding(configuration.from_dict(run['config']))
  lines = checkpoint.differences(old, configuration.binding(config))
  if lines and not allow_change:
    raise ValueError(
      f'--workdir={workdir} holds a run of another configuration:\n{checkpoint.summary(lines)}\n'
      'Choose another --workdir, or continue with the new configuration by --allow_config_change.'
    )


def check_data(workdir: Path, spec: DataSpec, allow_change: bool) -> None:
  """Compares the data of a run about to start with those of the run in the workdir.

  Args:
    workdir: of the run; it need not exist.
    spec: of the prepared data.
    allow_change: accept other data.

  Raises:
    ValueError: the workdir holds a run on other data.
  """
  run = None if allow_change else find(workdir)
  if run is None:
    return
  # Compares the pixels: the fingerprint also changes when the same files have moved.
  old, new = run['data']['sha256'], spec.sha256
  if old != new:
    raise ValueError(
      f'--workdir={workdir} holds a run on other data:\n  data.sha256: {old} -> {new}\n'
      'Choose another --workdir, or continue with the new data by --allow_config_change.'
    )


def read(workdir: Path) -> Json:
  """Returns run.json; see `find`.

  Raises:
    FileNotFoundError: the directory holds no run.
    ValueError: as `find`.
  """
  run = find(workdir)
  if run is None:
    near = names.nearest(workdir.name, [path.parent.name for path in workdir.parent.glob(f'*/{FILE}')])
    hint = f'; did you mean {workdir.parent / near}?' if near else '.'
    raise FileNotFoundError(f'There is no run in {workdir}: {FILE} is missing{hint}')
  return run


def find(workdir: Path) -> Json | None:
  """Returns run.json, or the newest checkpoint's copy of it; None if there is neither.

  Raises:
    ValueError: the file is damaged and there is no checkpoint to read it from.
  """
  path = workdir / FILE
  try:
    return _parse(path.read_bytes())
  except (FileNotFoundError, NotADirectoryError):
    trouble = ''
  except (ValueError, TypeError, AttributeError, RecursionError, IsADirectoryError) as error:
    trouble = f'{path} is damaged ({error})'
  for directory, step in candidates(workdir):
    with contextlib.suppress(checkpoint.DamagedError):
      about = checkpoint.read_metadata(directory, step)
      if all(isinstance(about.get(name), kind) for name, kind in ENTRIES.items()):
        metrics_file.warn(
          f'{trouble or f"{path} is missing"}; its contents are read from the checkpoint of step {step} '
          f'in {directory}.'
        )
        return {name: about[name] for name in ENTRIES}
  if trouble:
    raise ValueError(
      f'{trouble}, and there is no checkpoint to read it from. Choose another --workdir, or empty this '
      'one to train from the start.'
    )
  return None


def candidates(workdir: Path) -> list[tuple[Path, int]]:
  """Returns directory and step of all checkpoints of a run, complete or not, newest first.

  If a step is there twice, the one of the latest checkpoints comes before the best.
  """
  directories = [workdir / name for name in (checkpoint.CHECKPOINTS, checkpoint.BEST)]
  found = [(directory, step) for directory in directories for step in checkpoint.entries(directory)]
  return sorted(found, key=lambda entry: -entry[1])


def write(workdir: Path, run: Json) -> None:
  """Replaces run.json atomically."""
  workdir.mkdir(parents=True, exist_ok=True)
  text = json.dumps({**run, checkpoint.CHECKSUM: checkpoint.checksum(run)}, indent=2) + '\n'
  metrics_file.replace(workdir / FILE, text)


@contextlib.contextmanager
def explained(workdir: Path, command: str) -> Iterator[None]:
  """Adds to an error of the file system which checkpoint is safe, and the command that resumes.

  Args:
    workdir: of the run.
    command: as the user typed it.
  """
  try:
    yield
  except OSError as error:
    if error.errno is None:  # a message of this program
      raise
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    saved = [entry for entry in candidates(workdir) if entry[1] in checkpoint.steps_in(entry[0])]
    safe = 'There was no checkpoint yet; the same command starts again'
    if saved:
      directory, step = saved[0]
      safe = f'The checkpoint of step {step} in {directory} is safe; the same command resumes from it'
    raise OSError(
      f'{error.strerror}: {error.filename or workdir}. {"Make room there. " if full else ""}{safe}'
      f'{f": {command}" if command else "."}'
    ) from error


@contextlib.contextmanager
def watched(workdir: Path) -> Iterator[Callable[[int], None]]:
  """Yields a function of the step that raises an OSError if the directory is gone."""
  descriptor = os.open(workdir, os.O_RDONLY)  # kept open, so that no new directory gets its number

  def check(step: int) -> None:
    if not lock.is_at(descriptor, workdir):
      raise OSError(
        f'The workdir {workdir} was deleted, moved or replaced while its training ran. The training '
        f'stops after step {step} and writes nothing more. Put the directory back, and the same command '
        'resumes from the last checkpoint in it.'
      )

  try:
    yield check
  finally:
    os.close(descriptor)


def _parse(content: bytes) -> Json:
  """Returns the entries of run.json; raises a ValueError or TypeError that says what is wrong."""
  run = json.loads(content)
  if not isinstance(run, dict):
    raise ValueError('it is not a JSON object')
  if run.pop(checkpoint.CHECKSUM, None) not in (None, checkpoint.checksum(run)):
    raise ValueError('its checksum differs')
  for name, kind in ENTRIES.items():
    if not isinstance(run.get(name), kind):
      raise ValueError(f"'{name}' is missing, or of another type")
  configuration.from_dict(run['config'])
  DataSpec(**run['data'])
  return {name: run[name] for name in ENTRIES}
