"""Optimizers: Adam or Adamax on the network, in stages, and another update for the multipliers.

One `optax.partition` separates the network, the multipliers, and a network of blur kernels, which has
moments and a learning rate of its own. A second one inside it splits the network by the heads' names, so
that a stage can train the mean's head before the covariance's. Parameters that wait receive no update,
and their moments do not change.
"""

import dataclasses
from typing import Any

import jax
import optax

from structured_obs.config import OptimConfig
from structured_obs.runs import schedule
from structured_obs.runs import stages as staging

PyTree = Any
HEADS = ['decoder', 'heads']  # path of the heads of a network's outputs
COVARIANCE = 'covariance_decoder'  # a separate decoder of the covariance
KERNEL = 'kernel_generator'  # a network with an optimizer to itself
OPTIMIZERS = {'adam': optax.scale_by_adam, 'adamax': optax.scale_by_adamax}


def make_optimizer(
  config: OptimConfig,
  steps: int,
  multipliers: optax.GradientTransformation | None = None,
  kernel: float | None = None,
) -> optax.GradientTransformation:
  """Returns the optimizer of the tree {'model', 'multipliers'}.

  Args:
    config: learning rate, schedule, clipping, decay and stages.
    steps: of the whole run; the cosine schedule ends there.
    multipliers: transforms the multipliers' gradients; None leaves them unchanged.
    kernel: learning rate of a network of blur kernels, which has its own optimizer and takes no part in
      stages; 0 for the same rate as the rest, None if the model has no such network.
  """
  stages = staging.parse(config.stages)
  transforms = []
  if config.clip_norm > 0:
    # Waiting heads have gradients too; they must not count in the norm that is clipped.
    transforms += [_by_stage(optax.identity(), stages)] if stages else []
    transforms += [optax.clip_by_global_norm(config.clip_norm)]
  transforms += [_by_stage(_scaled(config), stages) if stages else _scaled(config)]
  rate: Any = schedule.learning_rate(config, steps)
  transforms += [optax.scale_by_learning_rate(rate)]
  parts: dict[Any, optax.GradientTransformation] = {
    'model': optax.chain(*transforms),
    'multipliers': multipliers or optax.set_to_zero(),
  }
  if kernel is not None:
    own = dataclasses.replace(config, learning_rate=kernel, stages=()) if kernel else config
    own_rate: Any = schedule.learning_rate(own, steps)
    parts['kernel'] = optax.chain(_scaled(config), optax.scale_by_learning_rate(own_rate))
  return _with_standard_promotion(optax.partition(parts, _parts))


def _parts(params: PyTree) -> PyTree:
  """Labels networks and multipliers with their optimizers."""
  model = {name: 'kernel' if name == KERNEL else 'model' for name in params['model']}
  return {'model': model, 'multipliers': 'multipliers'}


def label_of(path: tuple[Any, ...], separate: bool = False) -> str:
  """Returns the label of the parameter at a path ('model', ..): by its head's name, or 'rest'.

  Args:
    path: of the parameter.
    separate: whether the covariance has its own decoder; the other decoder is then the mean's.
  """
  keys = [getattr(entry, 'key', '') for entry in path]
  if separate and keys[:2] == ['model', COVARIANCE]:
    return 'other_heads'
  if separate and keys[:2] == ['model', HEADS[0]]:
    return 'mean_head'
  if keys[:3] != ['model', *HEADS] or len(keys) < 4:
    return 'rest'
  return 'mean_head' if keys[3] == 'mean' else 'other_heads'


def labels(params: PyTree) -> PyTree:
  """Returns the labels of the tree {'model': the network's parameters}."""
  separate = COVARIANCE in params['model']
  return jax.tree_util.tree_map_with_path(lambda path, _: label_of(path, separate), params)


def _with_standard_promotion(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Lets optax mix integers and floats where the caller's strict mode refuses that."""

  def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
    with jax.numpy_dtype_promotion('standard'):
      return inner.update(updates, state, params)

  return optax.GradientTransformation(inner.init, update)


def _scaled(config: OptimConfig) -> optax.GradientTransformation:
  """Returns the update without its learning rate; decay is added after the moments, which exclude it."""
  scale = OPTIMIZERS[config.optimizer]()
  if config.weight_decay == 0:
    return scale
  return optax.chain(scale, optax.add_decayed_weights(config.weight_decay, mask=_kernels))


def _kernels(params: PyTree) -> PyTree:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: getattr(path[-1], 'key', '') == 'kernel', params
  )


def _condition(stages: tuple[staging.Stage, ...], label: str) -> Any:
  """Returns the condition in the type that optax declares, where a step may be any number."""
  learns = staging.learns(stages, label)
  return lambda step, **_: learns(step)


def _by_stage(
  inner: optax.GradientTransformation, stages: tuple[staging.Stage, ...]
) -> optax.GradientTransformation:
  return optax.partition(
    {label: optax.conditionally_mask(inner, _condition(stages, label)) for label in staging.LABELS},
    labels,
  )
