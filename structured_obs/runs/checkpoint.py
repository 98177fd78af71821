"""Writes and reads checkpoints; a kill at any moment leaves no half-written one.

The only module that uses Orbax. A directory holds one checkpoint per step, in a subdirectory named by
the step. Orbax writes under a temporary name and renames at the end, so an interrupted save is never
visible under the final name. Each checkpoint carries metadata (JSON) with a checksum of itself and the
shape, dtype and CRC-32 of each array. `load` compares all of them: a checkpoint reads back as it was
written, or a DamagedError says what differs. A damaged checkpoint is never deleted, only renamed when
its step is saved again.
"""

import contextlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from structured_obs.devices import hosts
from structured_obs.runs import quiet
from structured_obs.runs.state import TrainState

Json = dict[str, Any]
CHECKPOINTS = 'checkpoints'  # in a workdir: the latest ones
BEST = 'best'  # in a workdir: the one with the best validation ELBO
FLAGS = {'latest': CHECKPOINTS, 'best': BEST}  # values of --checkpoint
PyTree = Any
Value = TypeVar('Value')
SHOWN = 3  # differences that a message lists
SHORT = 160  # characters of another library's message
METADATA = '_CHECKPOINT_METADATA'
PARTS = (METADATA, 'state/_METADATA', 'state/manifest.ocdbt')  # files that every checkpoint has
TEMPORARY = '.orbax-checkpoint-tmp'  # in the name of a checkpoint that is being written
CHECKSUM = 'checksum'  # of the other metadata


class DamagedError(ValueError):
  """A checkpoint that does not read back as it was written."""


class NonFiniteStateError(ValueError):
  """A state that is not saved because it has NaN or infinite numbers."""


def clean(directory: Path) -> None:
  """Removes half-written checkpoints; call it only in the process that writes."""
  for path in Path(directory).glob(f'*{TEMPORARY}*'):
    shutil.rmtree(path, ignore_errors=True)


def entries(directory: Path) -> list[int]:
  """Returns the steps of all checkpoints in a directory, complete or not, in ascending order."""
  if not Path(directory).is_dir():
    return []
  names = [path.name for path in Path(directory).iterdir()]
  return sorted(int(name) for name in names if re.fullmatch('0|[1-9][0-9]*', name, re.ASCII))


def steps_in(directory: Path) -> list[int]:
  """Returns the steps of the complete checkpoints in a directory, in ascending order.

  A checkpoint is complete when none of its parts is missing. It can still be damaged; `load` detects
  that.
  """
  return [step for step in entries(directory) if not _lacks(Path(directory) / str(step))]


def save(directory: Path, state: TrainState, metadata: Json, keep: int) -> None:
  """Writes the state under its step, and returns once it is on disk.

  Writes nothing if the same state is already saved and undamaged. Every process of a run must call it.

  Args:
    directory: of the checkpoints; created if missing.
    state: replicated over all devices.
    metadata: JSON about the state.
    keep: number of checkpoints that stay in the directory, this one included; older ones are removed.

  Raises:
    NonFiniteStateError: the state has NaN or infinite numbers; nothing is written.
    OSError: writing failed, with `errno` and path; existing checkpoints are unchanged.
  """
  step = int(jax.device_get(state.step))
  arrays = _local(state)
  _check_finite(step, arrays)
  about = {**metadata, 'arrays': describe(state), 'crc32': _crc32(arrays)}
  about = json.loads(json.dumps(about))
  path = Path(directory).absolute() / str(step)
  if os.path.lexists(path):
    reason = _why_replace(directory, state, about)
    if not reason:
      return
    move_aside(directory, step, reason)
  with _writing(path), quiet.orbax():
    ocp.save(str(path), state, custom_metadata={**about, CHECKSUM: checksum(about)})
  others = [other for other in entries(directory) if other != step]
  for other in others[: max(len(others) - keep + 1, 0)] if hosts.primary() else ():
    shutil.rmtree(path.parent / str(other), ignore_errors=True)


def move_aside(directory: Path, step: int, reason: str = 'damaged') -> Path:
  """Renames a checkpoint to 'REASON-STEP', so that it is not read and its name is free.

  Every process of a run must call it; process 0 renames.

  Returns:
    The new path.
  """
  names = [f'{reason}-{step}', *(f'{reason}-{step}-{number}' for number in range(2, 1000))]
  target = next(path for path in map(Path(directory).joinpath, names) if not os.path.lexists(path))
  hosts.barrier(f'{target} is free')  # every process has chosen the name before the first renames
  if hosts.primary():
    os.rename(Path(directory) / str(step), target)
  hosts.barrier(f'{target} is taken')
  return target


def read_metadata(directory: Path, step: int) -> Json:
  """Returns the metadata given to `save`, with the arrays' shapes and checksums.

  Raises:
    DamagedError: the metadata do not read back as they were written.
  """
  path = Path(directory) / str(step)
  lacks = _lacks(path)
  if lacks:
    raise _damaged(path, lacks)
  about = _reading(path, lambda: json.loads((path / METADATA).read_bytes())['custom_metadata'])
  if not isinstance(about, dict) or not isinstance(about.get('crc32'), dict):
    raise _damaged(path, f'{METADATA} has no checksums of the arrays')
  expected = about.pop(CHECKSUM, None)
  older = expected is None and 'arrays' not in about  # written before metadata had a checksum
  if not older and expected != checksum(about):
    raise _damaged(path, f'the checksum of {METADATA} differs')
  return about


def load(directory: Path, step: int, like: TrainState) -> TrainState:
  """Returns the state saved at `step`, sharded like `like`.

  Args:
    directory: of the checkpoints.
    step: of the checkpoint.
    like: a state, or its shapes with shardings.

  Raises:
    DamagedError: the checkpoint does not read back as it was written.
    ValueError: its arrays differ from `like` in name, shape or dtype.
  """
  path = Path(directory).absolute() / str(step)
  about = read_metadata(directory, step)
  with quiet.orbax():
    stored = about.get('arrays') or _reading(path, lambda: describe(ocp.metadata(str(path)).metadata))
    if stored.keys() != about['crc32'].keys():
      raise _damaged(path, 'the names of its arrays differ from those of its checksums')
    misfit = differences(stored, describe(like))
    if misfit:
      raise ValueError(
        f"{_where(path)} does not match the configuration's model and optimizer:\n{summary(misfit)}"
      )
    state = _reading(path, lambda: ocp.load(str(path), jax.tree.map(_abstract, like)))
  lines = differences(describe(like), describe(state))
  lines = lines or differences(about['crc32'], _crc32(_local(state)))
  if lines:
    raise _damaged(path, f'its checksums differ:\n{summary(lines)}')
  return state


def describe(tree: PyTree) -> dict[str, str]:
  """Returns dtype and shape of each leaf by its path, for arrays and for Orbax's metadata of them."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): f'{np.dtype(leaf.dtype)}{list(leaf.shape)}' for path, leaf in leaves}


def digests(tree: PyTree) -> dict[str, int]:
  """Returns the CRC-32 of each leaf's bytes by its path."""
  return _crc32(_local(tree))


def checksum(about: Json) -> int:
  """Returns the CRC-32 of JSON, independent of layout and order of keys."""
  return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Returns 'name: old -> new' for each entry that differs, in the order of `new`."""
  absent = object()
  lines = []
  for name in {**new, **old}:
    before, after = old.get(name, absent), new.get(name, absent)
    if before != after:
      shown = ['(absent)' if value is absent else repr(value) for value in (before, after)]
      lines.append(f'{name}: {shown[0]} -> {shown[1]}')
  return lines


def summary(lines: list[str]) -> str:
  """Returns the first three lines and a count of the others."""
  shown = lines[:SHOWN] + ([f'... and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else [])
  return '\n'.join(f'  {line}' for line in shown)


def _why_replace(directory: Path, state: TrainState, about: Json) -> str:
  """Returns why to overwrite the checkpoint of this step; '' if it holds this state undamaged."""
  step = int(jax.device_get(state.step))
  try:
    load(directory, step, state)
    same = read_metadata(directory, step)['crc32'] == about['crc32']
  except DamagedError:
    return 'damaged'
  except ValueError:  # of another model
    same = False
  return '' if same else 'replaced'


def _check_finite(step: int, arrays: dict[str, np.ndarray]) -> None:
  wrong = [
    name
    for name, array in arrays.items()
    if jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all()
  ]
  if wrong:
    more = f' and {len(wrong) - 1} more' if wrong[1:] else ''
    raise NonFiniteStateError(
      f'The state after step {step} has NaN or infinite numbers, in {wrong[0]}{more}.'
    )


def _lacks(path: Path) -> str:
  """Returns which part of a checkpoint is missing; '' if none is."""
  if not path.is_dir():
    return 'it is not a directory'
  missing = [part for part in PARTS if not (path / part).is_file() or not (path / part).stat().st_size]
  return f'it is incomplete: {missing[0]} is missing' if missing else ''


def _reading(path: Path, read: Callable[[], Value]) -> Value:
  """Returns what `read` returns; what it raises becomes a DamagedError, unless files are unreadable."""
  try:
    return read()
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:  # Orbax and its libraries raise errors of many types
    for file in path.rglob('*'):
      if file.is_file():
        file.read_bytes()  # raises an OSError that names a file whose content is not to be had now
    reason = re.split(r'\s*\[tensorstore_spec|\n', str(error).strip())[0]
    if len(reason) > SHORT:
      reason = f'... {reason[-SHORT:].split(maxsplit=1)[-1]}'  # the cause stands last
    raise _damaged(path, f'{type(error).__name__}: {reason}') from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
  """Turns a failed save into an OSError that names the path, and removes what was half written."""
  try:
    yield
  except Exception as error:
    if hosts.primary():
      for half in path.parent.glob(f'{path.name}{TEMPORARY}*'):
        shutil.rmtree(half, ignore_errors=True)
    found = re.search(r"os_error_code='(\d+)'", str(error))
    number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
    if number is None:
      raise
    raise OSError(number, os.strerror(number), str(path)) from error


def _where(path: Path) -> str:
  return f'The checkpoint of step {path.name} in {path.parent}'


def _damaged(path: Path, reason: str) -> DamagedError:
  return DamagedError(f'{_where(path)} is damaged: {reason}')


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _local(tree: PyTree) -> dict[str, np.ndarray]:
  """Returns each leaf's copy on the first local device by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): np.asarray(jax.device_get(leaf.addressable_data(0))) for path, leaf in leaves}


def _crc32(arrays: dict[str, np.ndarray]) -> dict[str, int]:
  return {name: zlib.crc32(array.tobytes()) for name, array in arrays.items()}


def _name(path: tuple[Any, ...]) -> str:
  return '/'.join(jax.tree_util.keystr((entry,), simple=True) for entry in path)
