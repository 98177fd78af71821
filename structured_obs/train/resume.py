"""Finds the checkpoint to resume from: the newest that is not damaged.

Damaged ones are skipped with a message and renamed. If that loses more than an hour of training, a flag
must allow it.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from structured_obs.runs import checkpoint, metrics_file
from structured_obs.runs import workdir as workdirs
from structured_obs.runs.state import TrainState

HOUR = 3600.0  # seconds of training that may be lost without a flag


class Found(NamedTuple):
  """An undamaged checkpoint."""

  directory: Path
  step: int
  state: TrainState
  metadata: dict[str, Any]


class _Damaged(NamedTuple):
  """A damaged checkpoint."""

  directory: Path
  step: int
  complaint: str


def newest(
  workdir: Path, like: TrainState, batch_size: int, allow_older: bool, say: Callable[[str], None]
) -> Found | None:
  """Returns the newest undamaged checkpoint; None if there are no checkpoints.

  Every process of a run must call it. Newer, damaged checkpoints are moved aside.

  Args:
    workdir: of the run.
    like: shapes of the state, with shardings.
    batch_size: of the run.
    allow_older: whether more than an hour of training may be lost.
    say: receives a message for each damaged checkpoint.

  Raises:
    ValueError: every checkpoint is damaged, too much would be lost, or one does not match `like`.
  """
  damaged: list[_Damaged] = []
  found = None
  for directory, step in workdirs.candidates(workdir):
    result = _try(directory, step, like)
    if isinstance(result, Found):
      found = result
      break
    damaged.append(result)
  if damaged:
    _check(workdir, damaged, found, batch_size, allow_older)
  for one in damaged:
    kept = checkpoint.move_aside(one.directory, one.step)
    say(f'{one.complaint}\nIt is kept as {kept}.')
  return found


def lost_seconds(
  workdir: Path, damaged: tuple[Path, int], whole: tuple[Path, int], batch_size: int
) -> float:
  """Returns the seconds of training between two checkpoints.

  They follow from the recorded speed, or without records from the age of the directories.

  Args:
    workdir: of the run.
    damaged: directory and step of the newer checkpoint.
    whole: directory and step of the older one.
    batch_size: of the run.
  """
  steps = range(whole[1] + 1, damaged[1] + 1)
  speeds = {
    record['step']: record['images_per_second']
    for record in metrics_file.read(workdir)
    if record['kind'] == 'train' and (record.get('images_per_second') or 0) > 0
  }
  between = [speed for step, speed in speeds.items() if step in steps]
  if speeds:
    return len(steps) * batch_size / statistics.median(between or speeds.values())
  newer, older = (directory / str(step) for directory, step in (damaged, whole))
  return newer.stat().st_mtime - older.stat().st_mtime


def _try(directory: Path, step: int, like: TrainState) -> Found | _Damaged:
  """Loads a checkpoint; it counts as damaged if any process of the run finds it so."""
  found, complaint = None, ''
  try:
    metadata = checkpoint.read_metadata(directory, step)
    if not isinstance(metadata.get('standing'), dict):
      raise checkpoint.DamagedError(
        f'The checkpoint of step {step} in {directory} is not from training.'
      )
    found = Found(directory, step, checkpoint.load(directory, step, like), metadata)
  except checkpoint.DamagedError as error:
    complaint = str(error)
  if jax.process_count() > 1:
    everywhere = multihost_utils.process_allgather(np.asarray(found is not None))
    complaint = complaint or f'Another process reports that the checkpoint of step {step} is damaged.'
    found = found if np.all(everywhere) else None
  return found or _Damaged(directory, step, complaint)


def _check(
  workdir: Path, damaged: list[_Damaged], found: Found | None, batch_size: int, allow_older: bool
) -> None:
  """Raises a ValueError if there is nothing to resume from, or too much would be lost."""
  complaint = damaged[0].complaint
  if found is None:
    raise ValueError(
      f'{complaint}\nAll other checkpoints in {workdir} are damaged too. Choose another --workdir to '
      'train from the start.'
    )
  lost = lost_seconds(workdir, damaged[0][:2], found[:2], batch_size)
  if lost > HOUR and not allow_older:
    raise ValueError(
      f'{complaint}\nThe newest undamaged one is of step {found.step}, about {lost / HOUR:.1f} '
      'hours of training earlier; --allow_older_checkpoint resumes from it and keeps the damaged one.'
    )
