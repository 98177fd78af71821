"""Builds everything a run consists of from its configuration."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from structured_obs.config import Config, ObjectiveConfig
from structured_obs.data.prepare import DataSpec
from structured_obs.devices import mesh as meshes
from structured_obs.distributions.base import Family, ImageShape
from structured_obs.models import KINDS
from structured_obs.models.base import Model
from structured_obs.models.classes import Classes
from structured_obs.models.kind import Setting
from structured_obs.objectives import alternating, bounds, constraints, reconstruction
from structured_obs.runs import checks, configuration, optimizers
from structured_obs.runs import schedule as schedules
from structured_obs.runs import stages as staging

COMPUTE = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}  # dtypes of a network's products


class Experiment(NamedTuple):
  """A configuration's objects. Build them once: a second model would be compiled again."""

  config: Config
  spec: DataSpec
  image: ImageShape
  family: Family
  model: Model
  objective: bounds.Objective
  optimizer: optax.GradientTransformation
  schedule: schedules.Schedule  # updates made -> learning rate


def build(config: Config, spec: DataSpec) -> Experiment:
  """Builds the family, model, objective and optimizer of a run.

  Raises:
    ValueError: naming the invalid field of the configuration.
  """
  config = configuration.resolve(config)
  family = checks.family_of(config)
  checks.check_data(config, family, spec)
  image = ImageShape(spec.height, spec.width, spec.channels)
  kind = KINDS[config.model.kind]
  model = kind.build(config.model.options, family, image, _setting(config))
  if spec.class_counts:
    model = model.clone(label_classes=Classes(tuple(spec.class_counts), spec.levels))
  if spec.masked:
    model = model.clone(masked=True)
  check_batch_size(model, config)
  held = constraints_of(config, image)
  return Experiment(
    config=config,
    spec=spec,
    image=image,
    family=family,
    model=model,
    objective=bounds.negative_elbo(
      config.objective.beta,
      held,
      meshes.AXIS,
      fit_of(config),
      bounds.Weighting(config.objective.beta_warmup_steps, config.objective.free_bits),
    ),
    optimizer=optimizers.make_optimizer(
      config.optim,
      config.train.steps,
      _ascent(config) if held else None,
      config.model.options.get('kernel', {}).get('learning_rate'),
    ),
    schedule=schedules.learning_rate(config.optim, config.train.steps),
  )


def _setting(config: Config) -> Setting:
  """Returns what a model depends on besides its own options."""
  stages = staging.parse(config.optim.stages)
  learning = staging.ever_learning(stages, config.train.steps)
  return Setting(
    axis_name=meshes.AXIS,
    dtype=COMPUTE[config.train.compute],
    frozen_mean=not learning & {'mean_head', 'rest'},
    white='other_heads' not in learning,
    kernel_gradient=config.objective.kernel_gradient,
    mean_gradient=config.objective.mean_gradient,
  )


def constraints_of(config: Config, image: ImageShape) -> dict[str, constraints.Constraint]:
  """Returns the constraints of a configuration, by the name of the statistic."""
  rank, chosen = checks.rank_of(config), config.objective.constraints
  return {
    constraints.statistic_of(name, one): constraints.make(name, one, rank, image.size)
    for name, one in chosen.items()
  }


def multipliers_of(config: Config) -> dict[str, Any]:
  """Returns the initial multipliers of a configuration's constraints, by the name of the statistic."""
  chosen = config.objective.constraints.items()
  return constraints.initial_multipliers([constraints.statistic_of(name, one) for name, one in chosen])


def _ascent(config: Config) -> optax.GradientTransformation:
  """Returns the ascent on the multipliers."""
  chosen = {
    constraints.statistic_of(name, one): one for name, one in config.objective.constraints.items()
  }
  return constraints.ascend(
    {name: one['rate'] for name, one in chosen.items()},
    [name for name, one in chosen.items() if one['kind'] == constraints.EQUAL],
  )


def fit_of(config: Config) -> alternating.Fit:
  """Returns the loss of a configuration that replaces log p(x|z)."""
  objective, options = config.objective, config.objective.reconstruction_options
  loss: Any = None
  if objective.reconstruction == reconstruction.PAPER_LOSS:
    noise, epsilon = config.likelihood.options['noise'], options.get('epsilon') or None
    loss = alternating.of_kernels(
      functools.partial(reconstruction.paper_loss, noise=noise, epsilon=epsilon)
    )
  elif objective.reconstruction:
    loss = alternating.of_images(reconstruction.make(objective.reconstruction))
  return alternating.Fit(
    mean_gradient=objective.mean_gradient,
    mean_loss=_mean_loss(objective),
    reconstruction=loss,
    weight=options.get('weight', 1.0),
    phases=_phases(config, options.get('weight', 1.0)),
    boundary=config.model.options.get('kernel', {}).get('boundary'),
  )


def _phases(config: Config, weight: float) -> tuple[alternating.Phase, ...]:
  """Returns the steps whose loss is not the run's own: of stages, or the first `white_steps`.

  Args:
    config: resolved, so that it has either of them.
    weight: of the run's own reconstruction loss.
  """
  found, white = [], config.objective.white_steps
  if white and config.objective.reconstruction:  # a loss that is white, too, and weighs as much
    found.append(alternating.Phase(0, white, alternating.of_images(reconstruction.l2), weight))
  elif white:
    found.append(alternating.Phase(0, white, white=True))
  for begin, end, stage in staging.spans(staging.parse(config.optim.stages)):
    if stage.loss in (staging.DENSITY, staging.WHITE):
      found.append(alternating.Phase(begin, end, white=stage.loss == staging.WHITE))
    elif stage.loss:
      loss = alternating.of_images(reconstruction.make(stage.loss))
      found.append(alternating.Phase(begin, end, loss, stage.weight))
  return tuple(found)


def _mean_loss(objective: ObjectiveConfig) -> alternating.Losses | None:
  """Returns what the mean learns from besides the density; None for white pixels."""
  if not objective.mean_loss:
    return None
  loss = reconstruction.make(objective.mean_loss)
  weight = objective.mean_loss_options['weight']
  return alternating.of_images(lambda x, mean: weight * loss(x, mean))


def check_batch_size(model: Model, config: Config) -> None:
  """Raises a ValueError if the initialisation needs a first batch of at least two images."""
  if model.traits.data_dependent and config.train.batch_size < 2:
    raise ValueError(
      f'--config.train.batch_size={config.train.batch_size} is too small: this model initialises every '
      'layer from the mean and standard deviation of its outputs on the first batch; use at least 2.'
    )
