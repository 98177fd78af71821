"""Diagnoses a loss that stays infinite or NaN: finds the first bad term and saves the evidence."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from structured_obs.devices import keys
from structured_obs.devices import mesh as meshes
from structured_obs.models.base import Bound
from structured_obs.runs.experiment import Experiment
from structured_obs.runs.initial import make_preprocess
from structured_obs.runs.state import TrainState
from structured_obs.train import step

Array = jax.Array
DIRECTORY = 'nonfinite'


def explain(
  experiment: Experiment, state: TrainState, key: Array, batch: np.ndarray, workdir: Path
) -> str:
  """Runs the model again on one batch, saves batch and parameters, and returns one sentence.

  Args:
    experiment: of the run.
    state: with which the step began.
    key: of the run.
    batch: the whole batch of that step, [B, H, W, C] uint8.
    workdir: the files are written to its directory 'nonfinite'.
  """
  number = int(state.step)
  state, key = jax.tree.map(_local, (state, key))
  term = first_nonfinite(experiment, state, key, batch)
  try:
    kept = f'are in {save(workdir, number, state, batch)}'
  except OSError as error:  # a full disk must not hide why the run stops
    kept = f'could not be written: {error}'
  what = f"the first non-finite term is '{term}'" if term else 'repeated, all terms are finite'
  return (
    f'The loss or its gradient was not finite in {experiment.config.train.max_nonfinite} consecutive '
    f'steps (--config.train.max_nonfinite), the last of them step {number + 1}: {what}. The batch and '
    f'the parameters {kept}.'
  )


def first_nonfinite(
  experiment: Experiment, state: TrainState, key: Array, batch: np.ndarray
) -> str | None:
  """Returns the name of the first term that is not finite, in the order of computation."""
  examine = make_examination(experiment)
  for name, finite in jax.device_get(examine(state, key, batch)):
    if not finite:
      return name
  return None


def make_examination(experiment: Experiment) -> Any:
  """Returns `(state, key, batch) -> [(name, whether finite)]`, in the order of computation."""
  preprocess = make_preprocess(experiment.config, experiment.spec)
  mesh = meshes.make_mesh(jax.local_devices()[:1])
  listed: list[str] = []

  def local(state: TrainState, key: Array, batch: Array) -> list[Array]:
    data_keys, model_keys = keys.step_keys(key, state.step, batch.shape[0], meshes.AXIS)
    x = preprocess(data_keys, batch)
    bound = Bound(experiment.model, {'params': state.params['model'], **state.model_state})
    terms, _ = bound.training_terms(model_keys, x)
    loss, _ = experiment.objective(terms, state.params['multipliers'], state.step)
    gradient = step.make_gradient(
      experiment.model, experiment.objective, preprocess, meshes.AXIS,
      experiment.config.train.accumulate,
    )  # fmt: skip
    grads = gradient(state, key, batch)[3]
    stages = [('input', x), ('params', state.params), ('model_state', state.model_state)]
    stages += [('log_p', terms.log_p), ('log_q', terms.log_q)]
    stages += [('stats', terms.stats), ('loss', loss), ('gradient', grads)]
    named = [entry for name, tree in stages for entry in _named(name, tree)]
    listed[:] = [name for name, _ in named]
    return [jnp.isfinite(leaf).all() for _, leaf in named]

  whole = PartitionSpec()
  # One device: nothing varies over it, whatever the types say.
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=(whole, whole, whole), out_specs=whole, check_vma=False
  )
  compiled = jax.jit(mapped)

  def examine(state: TrainState, key: Array, batch: np.ndarray) -> list[tuple[str, Array]]:
    flags = compiled(state, key, batch)  # tracing it fills the list of names
    return list(zip(listed, flags, strict=True))

  return examine


def save(workdir: Path, number: int, state: TrainState, batch: np.ndarray) -> Path:
  """Saves batch, parameters and model state as one .npz file and returns its path."""
  directory = Path(workdir) / DIRECTORY
  directory.mkdir(parents=True, exist_ok=True)
  path = directory / f'step_{number:08d}.npz'
  arrays = dict(_named('params', state.params) + _named('model_state', state.model_state))
  saved: Any = {'batch': batch} | {name: np.asarray(leaf) for name, leaf in arrays.items()}
  np.savez(path, **saved)
  return path


def _local(leaf: Any) -> Any:
  return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf


def _named(name: str, tree: Any) -> list[tuple[str, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [
    ('/'.join([name, *(jax.tree_util.keystr((entry,), simple=True) for entry in path)]), leaf)
    for path, leaf in leaves
  ]
