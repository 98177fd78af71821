"""Opens a workdir: restores a checkpoint into a trained model, with the data of the run."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from structured_obs.data import prepare
from structured_obs.data.prepare import DataSpec, Prepared
from structured_obs.devices import mesh as meshes
from structured_obs.models.base import Bound
from structured_obs.runs import checkpoint, configuration, initial
from structured_obs.runs import experiment as experiments
from structured_obs.runs import state as states
from structured_obs.runs import workdir as workdirs
from structured_obs.runs.experiment import Experiment
from structured_obs.runs.trained import Trained


def load(workdir: str | Path, which: str | int = 'best', name: str = '') -> tuple[Trained, Prepared]:
  """Opens a run.

  Args:
    workdir: of the run.
    which: checkpoint, see `restore`.
    name: of the model in tables and figures; '' for the last part of the workdir.

  Returns:
    The model, on the first local device, and the data it was trained on.

  Raises:
    FileNotFoundError: there is no run, no such checkpoint or no data.
    ValueError: the checkpoint is damaged, the data have changed since the training, or the run trained a
      classifier.
  """
  trained, prepared = reopen(workdir, which, name)
  if trained.model.traits.classifies:
    raise ValueError(
      f'{workdir} is the run of a classifier, which does not model images. Its accuracy is in '
      f'{Path(workdir) / "report.md"}; evaluations of other runs use its features by '
      f'--features=classifier:{workdir}.'
    )
  return trained, prepared


def reopen(workdir: str | Path, which: str | int = 'best', name: str = '') -> tuple[Trained, Prepared]:
  """Opens a run of any kind of model, including classifiers; see `load`."""
  workdirs.read(Path(workdir))
  restored = restore(workdir, which)
  experiment = restored.experiment
  prepared = prepare.prepare(experiment.config.data)
  if prepared.spec.sha256 != experiment.spec.sha256:
    raise ValueError(
      f'The images of {experiment.spec.source} have changed since {workdir} was trained: '
      f'their SHA-256 was {experiment.spec.sha256[:16]} and is now '
      f'{prepared.spec.sha256[:16]}. Restore the original images, or train again.'
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


class Restored(NamedTuple):
  """A trained model, ready to be evaluated."""

  experiment: Experiment
  variables: dict[str, Any]  # {'params': .., 'batch_stats': ..}; averaged parameters where kept
  step: int
  metadata: dict[str, Any]  # of the checkpoint

  @property
  def bound(self) -> Bound:
    """The model with its variables."""
    return Bound(self.experiment.model, self.variables)


def restore(workdir: str | Path, which: str | int = 'best') -> Restored:
  """Returns the model of a run, on the first local device.

  Args:
    workdir: of the run.
    which: 'best' by validation ELBO, 'latest', or the step of a checkpoint that is still kept.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the checkpoint is damaged, or does not match its own configuration.
  """
  directory, step = locate(Path(workdir), which)
  try:
    metadata = checkpoint.read_metadata(directory, step)
    config = configuration.from_dict(metadata['config'])
    experiment = experiments.build(config, DataSpec(**metadata['data']))
    mesh = meshes.make_mesh(jax.local_devices()[:1])
    state = checkpoint.load(directory, step, initial.abstract_state(experiment, mesh))
  except checkpoint.DamagedError as error:
    raise checkpoint.DamagedError(f'{error}\nThe run {_choice(Path(workdir), str(which))}') from error
  return Restored(experiment, states.evaluation_variables(state), step, metadata)


def locate(workdir: Path, which: str | int) -> tuple[Path, int]:
  """Returns the directory and the step of a checkpoint; see `restore`."""
  found = {name: checkpoint.steps_in(workdir / name) for name in checkpoint.FLAGS.values()}
  for name, steps_there in found.items():
    if steps_there and checkpoint.FLAGS.get(str(which)) == name:
      return workdir / name, steps_there[-1]
    if str(which).isdecimal() and int(which) in steps_there:
      return workdir / name, int(which)
  if not any(found.values()):
    raise FileNotFoundError(
      f"{workdir} has no checkpoint '{which}' nor any other; continue its training until one is saved."
    )
  raise FileNotFoundError(f"{workdir} has no checkpoint '{which}'; it {_choice(workdir)}")


def _choice(workdir: Path, but: str = '') -> str:
  """Returns which checkpoints there are, and the flags that select them, except for one."""
  found = {flag: checkpoint.steps_in(workdir / name) for flag, name in checkpoint.FLAGS.items()}
  flags = [f'--checkpoint={flag}' for flag, there in found.items() if there and flag != but]
  flags.append('--checkpoint=STEP')
  there = f'has the steps {found["latest"]}, and best {found["best"]}'
  return f'{there}; select one by {" or ".join(flags)}.'
