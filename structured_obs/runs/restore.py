"""A run that has trained, opened again: its model and its data, and the report of its training."""

from pathlib import Path

from structured_obs.data import prepare
from structured_obs.data.prepare import Prepared
from structured_obs.evaluation import classification, report
from structured_obs.evaluation.results import Trained
from structured_obs.train import checkpoint, distributed, metrics
from structured_obs.train import experiment as experiments
from structured_obs.train import workdir as workdirs


def load(
  workdir: str | Path, which: str | int = 'best', name: str = ''
) -> tuple[Trained, Prepared]:
  """Opens a run.

  Args:
    workdir: of the run.
    which: checkpoint, see `experiment.restore`.
    name: of the model in tables and pictures; '' takes the workdir's last part.

  Returns:
    The model, on the first local device, and the data that it was trained on.

  Raises:
    FileNotFoundError: if there is no run, no such checkpoint or no data.
    ValueError: if the checkpoint is damaged, the data are no longer those of the training, or the run is
      of a classifier.
  """
  trained, prepared = reopen(workdir, which, name)
  if classification.is_classifier(trained):
    raise ValueError(
      f'{workdir} is of a classifier, which is no distribution of images: its accuracy is in '
      f'{Path(workdir) / "report.md"}, and evaluations of other runs compare images in its features by '
      f'--features=classifier:{workdir}.'
    )
  return trained, prepared


def reopen(
  workdir: str | Path, which: str | int = 'best', name: str = ''
) -> tuple[Trained, Prepared]:
  """Opens a run of any kind of model, also of a classifier; see `load`."""
  workdirs.read(Path(workdir))
  restored = experiments.restore(workdir, which)
  experiment = restored.experiment
  prepared = prepare.prepare(experiment.config.data)
  if prepared.spec.sha256 != experiment.spec.sha256:
    raise ValueError(
      f'The images of {experiment.spec.source} are no longer those that {workdir} was trained on: '
      f'their SHA-256 was {experiment.spec.sha256[:16]} and is '
      f'{prepared.spec.sha256[:16]}. Put the original images back, or train again.'
    )
  trained = Trained(
    name=name or Path(workdir).resolve().name,
    workdir=str(workdir),
    config=experiment.config,
    spec=experiment.spec,
    model=experiment.model,
    variables=restored.variables,
    step=restored.step,
  )
  return trained, prepared


def write_report(workdir: str | Path) -> Path | None:
  """Writes the report of a training into its workdir; see `evaluation.report.write_report`.

  It is of the best checkpoint, or where that is missing or damaged of the latest. Of several hosts
  all call it, since they read a checkpoint together; process 0 writes, on its first device, and gets
  the path.

  Raises:
    FileNotFoundError, ValueError: as `load`, but for classifiers.
  """
  best = checkpoint.steps_in(Path(workdir) / experiments.BEST)
  try:
    trained, prepared = reopen(workdir, 'best' if best else 'latest')
  except checkpoint.DamagedError as error:
    if not best:
      raise
    metrics.warn(f'{error}\nThe report is of the latest checkpoint.')
    trained, prepared = reopen(workdir, 'latest')
  if not distributed.primary():
    return None
  if classification.is_classifier(trained):
    return classification.write_report(trained, prepared.images)
  command = workdirs.read(Path(workdir))['command']
  return report.write_report(trained, prepared.images, metrics.read(Path(workdir)), command)
