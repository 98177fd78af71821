"""The first parameters of a model, where they depend on data: what is checked before and after."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from structured_obs.config import Config


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


def check_finite(params: Any, from_data: bool) -> None:
  """Raises a ValueError if the first batch left numbers that are not finite; passes tracers.

  Args:
    params: what was initialised.
    from_data: whether there was a first batch.
  """
  leaves = jax.tree.leaves(params)
  if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
    return
  if all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves):
    return
  raise ValueError(
    'The initialisation of this model depends on the first batch of training images, but '
    + (
      'these are all the same, so that there is a layer whose outputs do not vary.'
      if from_data
      else 'init_state was given none: give it the images of the training split.'
    )
  )
