"""TrainState: everything that passes from one step to the next, and everything a checkpoint holds."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
PyTree = Any


class TrainState(NamedTuple):
  """State between two steps. The order of the data and the noise follow from `step` alone."""

  step: Array  # [] int32  updates tried so far
  params: dict[str, PyTree]  # {'model': the network's, 'multipliers': the constraints'}
  model_state: dict[str, PyTree]  # mutable collections, such as {'batch_stats': ..}; {} without any
  opt_state: PyTree
  ema: PyTree | None  # moving average of params['model']; None where none is kept
  skipped: Array  # [] int32  consecutive non-finite steps up to now


def create(
  variables: dict[str, PyTree],
  optimizer: optax.GradientTransformation,
  keep_ema: bool,
  multipliers: dict[str, Array] | None = None,
) -> TrainState:
  """Returns the state before the first step.

  Args:
    variables: result of the model's `init`; 'params' are trained, other collections are carried along.
    optimizer: of the tree {'model', 'multipliers'}.
    keep_ema: whether to keep a moving average of the model's parameters.
    multipliers: initial multipliers by the constraint's name.
  """
  params = {'model': variables['params'], 'multipliers': multipliers or {}}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state={name: tree for name, tree in variables.items() if name != 'params'},
    opt_state=optimizer.init(params),
    # A copy, because the state is donated to the step, and a buffer can be donated only once.
    ema=jax.tree.map(jnp.copy, variables['params']) if keep_ema else None,
    skipped=jnp.zeros((), jnp.int32),
  )


def evaluation_variables(state: TrainState) -> dict[str, PyTree]:
  """Returns the variables for evaluation: averaged parameters where they are kept."""
  params = state.params['model'] if state.ema is None else state.ema
  return {'params': params, **state.model_state}
