"""Starts a run from another: takes over parameters by name, and measures the residuals' scale.

A covariance network starts from a model of the mean: it takes over encoder and mean; parameters that the
other run lacks are new, and the new covariance is white at the scale of the residuals.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import names
from structured_obs.config import Config
from structured_obs.data import pixels
from structured_obs.devices.keys import numbered_keys
from structured_obs.distributions import gaussian
from structured_obs.distributions.base import ImageShape
from structured_obs.models import masks, observation
from structured_obs.models.base import Bound
from structured_obs.runs import optimizers, restore
from structured_obs.runs import state as states
from structured_obs.runs.experiment import Experiment

PyTree = Any
MEASURED = 512  # training images that determine the scale
BATCH = 64


class Taken(NamedTuple):
  """The start of a run."""

  state: states.TrainState
  said: str  # one line about it


def source(config: Config) -> Path:
  """Returns the workdir of `train.start_from`."""
  return Path(names.local_path('--config.train.start_from', config.train.start_from))


def take_over(experiment: Experiment, state: states.TrainState, images: np.ndarray) -> Taken:
  """Takes over the parameters of the run in `train.start_from`, by name.

  If the covariance is new and the model has a learnt scale, the scale is set so that the initial white
  distribution has the root mean square of the residuals.

  Args:
    experiment: about to start.
    state: before its first step.
    images: uint8 [N, H, W, C], the training split; the first 512 are measured.

  Raises:
    FileNotFoundError: there is no such run, or it has no checkpoint.
    ValueError: a network of the same name has another size, or no names match.
  """
  workdir = str(source(experiment.config))
  old = jax.device_get(restore.restore(workdir).variables)
  variables = {'params': state.params['model'], **state.model_state}
  merged, taken, fresh = merge(variables, old, workdir)
  said = f'Took {len(taken)} arrays over from {workdir}; {len(fresh)} are new'
  learned = experiment.config.model.options.get('scale') == 'learned'
  if learned and any(_of_covariance(path) for path in fresh):
    scale = residual_scale(experiment, merged, images)
    merged['params']['log_scale'] = jnp.asarray(
      math.log(scale / _white_scale(experiment)) / observation.RATE, jnp.float32
    )
    said += f', and start white at the scale of the residuals, {scale:.4g}'
  params = {**state.params, 'model': merged['params']}
  new = state._replace(
    params=params,
    model_state={name: tree for name, tree in merged.items() if name != 'params'},
    ema=None if state.ema is None else jax.tree.map(jnp.copy, merged['params']),
  )
  return Taken(new, f'{said}.')


def merge(new: PyTree, old: PyTree, source: str) -> tuple[PyTree, list[str], list[str]]:
  """Returns `new` with the leaves of `old` by name, the paths taken over, and the new paths.

  Heads and a decoder of the covariance stay new if their sizes differ.

  Args:
    new: parameters of the run about to start.
    old: parameters of the other run.
    source: name of the other run in messages.

  Raises:
    ValueError: any other leaf differs in size, or no names match.
  """
  known = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(old)}
  taken, fresh = [], []

  def choose(path: tuple[Any, ...], leaf: Any) -> Any:
    name = jax.tree_util.keystr(path)
    found = known.get(name)
    if found is not None and found.shape == leaf.shape:
      taken.append(name)
      return jnp.asarray(found, leaf.dtype)
    if found is not None and not _of_covariance(name):
      raise ValueError(
        f'--config.train.start_from={source}: its {name} has the shape {found.shape}, but here '
        f'it has {leaf.shape}; use networks of the same size.'
      )
    fresh.append(name)
    return leaf

  merged = jax.tree_util.tree_map_with_path(choose, new)
  if not taken:
    raise ValueError(f'--config.train.start_from={source} has no parameter of this model.')
  return merged, taken, fresh


def residual_scale(experiment: Experiment, variables: PyTree, images: np.ndarray) -> float:
  """Returns the root mean square of x - mean over the first images, at the mean of q(z|x)."""
  family, spec = experiment.family, experiment.spec

  @jax.jit
  def squares(bound: Bound, batch: jax.Array) -> jax.Array:
    x = pixels.to_unit(batch, spec.levels)
    params = bound.predict(numbered_keys(jax.random.key(0), len(x)), x)
    moved = masks.pixels(bound.model, x) - jax.vmap(family.mean)(params)
    mask = masks.of_images(bound.model, x)
    if mask is None:
      return jnp.mean(jnp.square(moved))
    return jnp.sum(jnp.where(mask, jnp.square(moved), 0)) / jnp.sum(masks.counted(bound.model, x))

  chosen = np.asarray(images[:MEASURED])
  starts = range(0, len(chosen) - len(chosen) % BATCH or len(chosen), BATCH)
  bound = Bound(experiment.model, variables)
  means = [float(squares(bound, chosen[first : first + BATCH])) for first in starts]
  dequantized = experiment.config.objective.dequantize and spec.levels
  noise = pixels.noise_variance(spec.levels) if dequantized else 0
  return math.sqrt(np.mean(means) + noise)


def _white_scale(experiment: Experiment) -> float:
  """Returns the standard deviation of a pixel when the network's outputs are 0, for any image."""
  family, image = experiment.family, ImageShape(1, 1, experiment.image.channels)
  outputs = {name: jnp.zeros(shape) for name, shape in family.outputs(image).items()}
  variance = gaussian.variance(family, family.from_outputs(outputs))
  return math.sqrt(float(jnp.mean(variance)))


def _of_covariance(name: str) -> bool:
  heads = ''.join(f"['{key}']" for key in optimizers.HEADS)
  if f"['{optimizers.COVARIANCE}']" in name:
    return True
  return heads in name and f"{heads}['{observation.MEAN}']" not in name
