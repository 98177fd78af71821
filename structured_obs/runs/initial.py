"""The first parameters of a model: compiled for one run, and checked where they depend on data."""

from collections.abc import Callable
from typing import Any

import jax
import jax.errors
import numpy as np

from structured_obs.config import Config

# Options of XLA for the CPU that leave optimizations out.
QUICK = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


def data_dependent(model: Any) -> bool:
  """Whether a model's `init` needs the run's first batch; models say so by an attribute of this name."""
  return getattr(model, 'data_dependent', False)


def check(model: Any, config: Config) -> None:
  """Raises a ValueError if the first batch is of one image and the initialisation depends on it."""
  if data_dependent(model) and config.train.batch_size < 2:
    raise ValueError(
      f'--config.train.batch_size is {config.train.batch_size}, but the initialisation of this model '
      'gives every layer the mean and the deviation of its outputs on the first batch: it must be at '
      'least 2.'
    )


def run_once(function: Callable[..., Any], *arguments: Any) -> Any:
  """Returns `function(*arguments)`, compiled quickly, as a program that runs once.

  XLA compiles the initialisation of configs/digits.py for a CPU in 0.7 s of processor time, with all
  optimizations in 4.9 s. The random numbers are the same, but for round-off in what is made of them.
  """
  if jax.default_backend() != 'cpu':
    return jax.jit(function)(*arguments)
  try:
    return jax.jit(function, compiler_options=QUICK)(*arguments)
  except jax.errors.JaxRuntimeError:  # a version of XLA may lack one of the options
    return jax.jit(function)(*arguments)


def check_finite(params: Any, from_data: bool) -> None:
  """Raises a ValueError if the first batch left numbers that are not finite.

  Args:
    params: what was initialised.
    from_data: whether there was a first batch.
  """
  if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(params))):
    return
  raise ValueError(
    'The initialisation of this model depends on the first batch of training images, but '
    + (
      'these are all the same, so that there is a layer whose outputs do not vary.'
      if from_data
      else 'init_state was given none: give it the images of the training split.'
    )
  )
