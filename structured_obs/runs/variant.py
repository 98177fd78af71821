"""Saves a run's checkpoint under another configuration that has the same parameters."""

from pathlib import Path

import jax

from structured_obs.config import Config
from structured_obs.devices import mesh as meshes
from structured_obs.runs import checkpoint, configuration, initial, restore, workdir
from structured_obs.runs import experiment as experiments


def save(source: Path, which: str | int, target: Path, config: Config, command: str) -> int:
  """Writes a checkpoint of one run into a new workdir with another configuration; returns its step.

  The new workdir has it as the best and as the latest checkpoint, so that all programs open it and a
  training continues from it.

  Args:
    source: workdir of the run.
    which: checkpoint, see `restore.restore`.
    target: workdir to make; it must be empty or not exist.
    config: of the new run.
    command: that made it, for run.json.

  Raises:
    FileNotFoundError: there is no such checkpoint.
    ValueError: the target holds something, the checkpoint is damaged, or the configuration is invalid or
      has other parameters.
  """
  if target.exists() and (not target.is_dir() or any(target.iterdir())):
    raise ValueError(f'--output={target} holds something; name an empty or a new directory.')
  mesh = meshes.make_mesh(jax.local_devices()[:1])
  restored = restore.restore(source, which)
  directory, step = restore.locate(source, which)
  state = checkpoint.load(directory, step, initial.abstract_state(restored.experiment, mesh))
  changed = experiments.build(config, restored.experiment.spec)
  misfit = checkpoint.differences(
    checkpoint.describe(state), checkpoint.describe(initial.state_shapes(changed))
  )
  if misfit:
    raise ValueError(
      f'The new configuration has other parameters than {source}:\n{checkpoint.summary(misfit)}'
    )
  about = {
    name: value for name, value in restored.metadata.items() if name not in ('arrays', 'crc32')
  } | {'config': configuration.to_dict(changed.config), 'command': command}
  workdir.write(target, {name: about[name] for name in workdir.ENTRIES})
  for name in (checkpoint.BEST, checkpoint.CHECKPOINTS):
    checkpoint.save(target / name, state, about, keep=1)
  return step
