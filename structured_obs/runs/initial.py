"""Initialises a run: its first state, compiled quickly, and checked where it depends on data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.errors
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from structured_obs.config import Config
from structured_obs.data import pipeline, pixels
from structured_obs.data.prepare import DataSpec
from structured_obs.devices import keys as image_keys
from structured_obs.devices import mesh as meshes
from structured_obs.runs import experiment as experiments
from structured_obs.runs import state as states
from structured_obs.runs.experiment import Experiment

Array = jax.Array
Preprocess = Callable[[Array, Array], Array]  # (keys [B], uint8 [B, H, W, C]) -> [B, H, W, C]

# XLA options for the CPU that skip optimizations.
QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


def run_once(function: Callable[..., Any], *arguments: Any) -> Any:
  """Returns `function(*arguments)`, compiled quickly because it runs only once.

  For configs/digits.py on a CPU, XLA compiles the initialisation in 0.7 s of processor time, instead of
  4.9 s with all optimizations. Random numbers are the same; values computed from them agree up to
  round-off.
  """
  if jax.default_backend() != 'cpu':
    return jax.jit(function)(*arguments)
  try:
    return jax.jit(function, compiler_options=QUICK)(*arguments)
  except jax.errors.JaxRuntimeError:  # a version of XLA may lack one of the options
    return jax.jit(function)(*arguments)


def check_finite(params: Any, from_data: bool) -> None:
  """Raises a ValueError if the initialisation left numbers that are not finite.

  Args:
    params: the initialised parameters.
    from_data: whether there was a first batch.
  """
  if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(params))):
    return
  raise ValueError(
    'The initialisation of this model depends on the first batch of training images, but '
    + (
      'these are all the same, so the outputs of some layer do not vary.'
      if from_data
      else 'init_state was given none; pass the images of the training split.'
    )
  )


def run_keys(experiment: Experiment) -> tuple[Array, Array, Array]:
  """Returns the keys of the initialisation, the training and the validation."""
  initial, training, validation = jax.random.split(jax.random.key(experiment.config.train.seed), 3)
  return initial, training, validation


def init_state(
  experiment: Experiment, key: Array, images: np.ndarray | None = None
) -> states.TrainState:
  """Returns the state before the first step, on the default device.

  An initialisation that depends on data uses the run's first batch, with the noise of the first step, on
  one device of each process. It is therefore the same for any number of devices.

  Args:
    experiment: of `build`.
    key: of the initialisation.
    images: [N, H, W, C], the training split as stored; required if the initialisation depends on data.

  Raises:
    ValueError: the initialisation depends on data, and there are none, or all images of the first batch
      are the same.
  """
  dependent, first = experiment.model.traits.data_dependent, None
  if dependent and images is not None:
    first = jnp.asarray(pipeline.global_batch(experiment.config.train, images, 0))
  state = run_once(functools.partial(_init, experiment), key, first)
  if dependent:
    check_finite(state.params['model'], images is not None)
  return state


def _init(experiment: Experiment, key: Array, batch: Array | None) -> states.TrainState:
  config, model = experiment.config, experiment.model
  dependent = model.traits.data_dependent
  size = config.train.batch_size if dependent else 1
  model_key, image_key = jax.random.split(key)
  keys, x = image_key[None], jnp.zeros((size, *experiment.spec.stored), jnp.float32)
  if dependent:
    data_keys, keys = image_keys.step_keys(run_keys(experiment)[1], 0, size, None)
    x = x if batch is None else make_preprocess(config, experiment.spec)(data_keys, batch)
  variables = model.init(model_key, keys, x)
  multipliers = experiments.multipliers_of(config)
  return states.create(variables, experiment.optimizer, config.optim.ema_decay > 0, multipliers)


def make_preprocess(config: Config, spec: DataSpec) -> Preprocess:
  """Returns the first part of a step, `(keys [B], stored images [B, ...]) -> float32 of their shape`.

  It augments as configured, scales to [-1, 1] and dequantises.
  """

  def one(key: Array, image: Array) -> Array:
    augment_key, noise_key = jax.random.split(key)
    data = config.data
    image = pixels.augment(augment_key, image, data.flip, data.shift, data.turn)
    x = pixels.to_unit(image, spec.levels)
    if config.objective.dequantize:
      x = pixels.dequantize(noise_key, x, spec.levels, spec.channels)
    return x

  return jax.vmap(one)


def state_shapes(experiment: Experiment) -> states.TrainState:
  """Returns the shapes of the state, without computing it."""
  return jax.eval_shape(lambda key: _init(experiment, key, None), jax.random.key(0))


def abstract_state(experiment: Experiment, mesh: Mesh) -> states.TrainState:
  """Returns the shapes of the state, with the sharding of a run over the mesh."""
  of_leaf = functools.partial(jax.ShapeDtypeStruct, sharding=meshes.replicated(mesh))
  return jax.tree.map(lambda leaf: of_leaf(leaf.shape, leaf.dtype), state_shapes(experiment))
