"""Writes the report of a finished training into its workdir."""

from pathlib import Path

from structured_obs.devices import hosts
from structured_obs.evaluation import classification, report
from structured_obs.runs import checkpoint, metrics_file, restore
from structured_obs.runs import workdir as workdirs


def write(workdir: str | Path) -> Path | None:
  """Writes the report of a training into its workdir; see `evaluation.report.write_report`.

  It describes the best checkpoint, or the latest if that is missing or damaged. On several hosts every
  process must call it, because they read a checkpoint together; process 0 writes, on its first device,
  and gets the path.

  Raises:
    FileNotFoundError, ValueError: as `load`, except for classifiers.
  """
  best = checkpoint.steps_in(Path(workdir) / checkpoint.BEST)
  try:
    trained, prepared = restore.reopen(workdir, 'best' if best else 'latest')
  except checkpoint.DamagedError as error:
    if not best:
      raise
    metrics_file.warn(f'{error}\nThe report describes the latest checkpoint.')
    trained, prepared = restore.reopen(workdir, 'latest')
  if not hosts.primary():
    return None
  if trained.model.traits.classifies:
    return classification.write_report(trained, prepared.images)
  command = workdirs.read(Path(workdir))['command']
  return report.write_report(trained, prepared.images, metrics_file.read(Path(workdir)), command)
