"""Checkpoints: the state and what it belongs to, so written that a kill at any moment is harmless.

The one module that knows Orbax. A checkpoint is complete or it is not there: Orbax commits it last,
and what a kill left half written is removed when the directory is opened again. Every checkpoint
carries metadata (JSON) and a CRC-32 of each leaf, compared after reading.
"""

import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from structured_obs.train.state import TrainState

Json = dict[str, Any]
PyTree = Any
Checkpointer = ocp.training.Checkpointer
SHOWN = 3  # differences that a message lists


def open_directory(directory: Path, keep: int) -> Checkpointer:
  """Returns a writer into `directory` that keeps the `keep` latest checkpoints."""
  policy: Any = ocp.training.preservation_policies.LatestN(keep)
  path = str(Path(directory).absolute())
  return Checkpointer(path, preservation_policy=policy, cleanup_tmp_directories=True)


def open_for_reading(directory: Path) -> Checkpointer:
  """Returns a reader of a directory that exists; it removes nothing."""
  return Checkpointer(str(Path(directory).absolute()))


def steps_in(directory: Path) -> list[int]:
  """Returns the steps of the complete checkpoints in a directory, ascending; [] without one."""
  if not Path(directory).is_dir():
    return []
  with open_for_reading(directory) as checkpointer:
    return saved_steps(checkpointer)


def saved_steps(checkpointer: Checkpointer) -> list[int]:
  """Returns the steps of the complete checkpoints, ascending."""
  return [checkpoint.step for checkpoint in checkpointer.checkpoints]


def save(checkpointer: Checkpointer, state: TrainState, metadata: Json) -> None:
  """Writes the state under its step, and returns when it is on disk. A step once saved stays."""
  step = int(jax.device_get(state.step))
  if step in saved_steps(checkpointer):
    return
  about: Any = {**metadata, 'crc32': digests(state)}
  checkpointer.save(step, state, force=True, custom_metadata=about)


def read_metadata(checkpointer: Checkpointer, step: int) -> Json:
  """Returns the metadata given to `save`."""
  stored: Any = checkpointer.metadata(step).custom_metadata
  return stored or {}


def load(checkpointer: Checkpointer, step: int, like: TrainState) -> TrainState:
  """Returns the state saved at `step`, laid out as `like`: a state, or its shapes with shardings.

  Raises:
    ValueError: if the checkpoint's arrays differ from `like` in name, shape or dtype, or if a leaf
      does not read back as it was written.
  """
  stored: Any = checkpointer.metadata(step)
  where = f'The checkpoint of step {step} in {checkpointer.directory}'
  found = describe(stored.metadata)
  _refuse(f"{where} does not fit the configuration's model and optimizer", found, describe(like))
  abstract = jax.tree.map(_abstract, like)
  state = checkpointer.load(step, abstract)
  _refuse(f'{where} was not read back whole', describe(like), describe(state))
  expected = (stored.custom_metadata or {}).get('crc32', {})
  _refuse(f'{where} is damaged: its checksums differ', expected, digests(state))
  return state


def describe(tree: PyTree) -> dict[str, str]:
  """Returns dtype and shape of each leaf by its path, alike for a record and for its metadata."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): f'{np.dtype(leaf.dtype)}{list(leaf.shape)}' for path, leaf in leaves}


def digests(tree: PyTree) -> dict[str, int]:
  """Returns the CRC-32 of each leaf's bytes by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {_name(path): zlib.crc32(_local(leaf).tobytes()) for path, leaf in leaves}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """Returns 'name: old -> new' for every entry that differs, in the order of `new`."""
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


def _refuse(complaint: str, old: dict[str, Any], new: dict[str, Any]) -> None:
  lines = differences(old, new)
  if lines:
    raise ValueError(f'{complaint}:\n{summary(lines)}')


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _local(leaf: jax.Array) -> np.ndarray:
  return np.asarray(jax.device_get(leaf.addressable_data(0)))


def _name(path: tuple[Any, ...]) -> str:
  return '/'.join(jax.tree_util.keystr((entry,), simple=True) for entry in path)
