"""From a configuration to everything a run is made of, once."""

import dataclasses
import functools
from typing import Any, NamedTuple

import optax

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.devices import mesh as meshes
from structured_obs.distributions.base import Family, ImageShape
from structured_obs.models import latent_priors
from structured_obs.models.base import Model
from structured_obs.models.classes import Classes
from structured_obs.models.networks import sr_vae_networks
from structured_obs.objectives import alternating, bounds, constraints, reconstruction
from structured_obs.runs import configuration, discrete, kinds, optimizers
from structured_obs.runs import schedule as schedules


class Experiment(NamedTuple):
  """What a configuration stands for. Build it once: a second model would be compiled again."""

  config: Config
  spec: DataSpec
  image: ImageShape
  family: Family
  model: Model
  objective: bounds.Objective
  optimizer: optax.GradientTransformation
  schedule: schedules.Schedule  # updates made -> learning rate


def resolve(config: Config) -> Config:
  """Returns the configuration, checked, with every option of family, prior and model written out.

  Raises:
    ValueError: naming the field that cannot be.
  """
  configuration.check(config)
  options = distributions.options(config.likelihood.family, **config.likelihood.options)
  likelihood = dataclasses.replace(config.likelihood, options=options)
  prior_options = latent_priors.options_of(config.model.prior, config.model.prior_options)
  model = dataclasses.replace(config.model, prior_options=prior_options)
  if model.kind == 'sr_vae':
    model = dataclasses.replace(model, options=sr_vae_networks.options_of(model.options))
  config = dataclasses.replace(config, likelihood=likelihood, model=model)
  configuration.check_options(config)
  return config


def build(config: Config, spec: DataSpec) -> Experiment:
  """Makes family, model, objective and optimizer of a run.

  Raises:
    ValueError: naming the field of the configuration that cannot be.
  """
  config = resolve(config)
  _check_data(config, spec)
  family = distributions.family(config.likelihood.family, **config.likelihood.options)
  discrete.check(config, family, spec)
  image = ImageShape(spec.height, spec.width, spec.channels)
  model = kinds.KINDS[config.model.kind](config, family, image)
  if spec.class_counts:
    model = model.clone(label_classes=Classes(tuple(spec.class_counts), spec.levels))
  check_batch_size(model, config)
  held = constraints_of(config)
  return Experiment(
    config=config,
    spec=spec,
    image=image,
    family=family,
    model=model,
    objective=bounds.negative_elbo(config.objective.beta, held, meshes.AXIS, fit_of(config)),
    optimizer=optimizers.make_optimizer(
      config.optim,
      config.train.steps,
      constraints.ascend(config.objective.multiplier_rate) if held else None,
      config.model.kernel_features > 0,
    ),
    schedule=schedules.learning_rate(config.optim, config.train.steps),
  )


def constraints_of(config: Config) -> dict[str, constraints.Constraint]:
  """Returns the constraints that a configuration asks for, by the name of the statistic."""
  objective, held = config.objective, {}
  if objective.kl_bound > 0:
    held['kl_z'] = constraints.Constraint(objective.kl_bound, damping=objective.damping)
  if objective.entropy_bound > 0:
    bound = objective.entropy_bound * config.likelihood.options['rank']
    held['excess_entropy'] = constraints.Constraint(bound, damping=objective.damping)
  return held


def fit_of(config: Config) -> alternating.Fit:
  """Returns what the loss of a configuration has in the place of log p(x|z)."""
  objective = config.objective
  loss: Any = None
  if objective.reconstruction == configuration.PAPER_LOSS:
    noise, epsilon = config.likelihood.options['noise'], objective.epsilon or None
    loss = alternating.of_kernels(
      functools.partial(reconstruction.paper_loss, noise=noise, epsilon=epsilon)
    )
  elif objective.reconstruction:
    loss = alternating.of_images(reconstruction.make(objective.reconstruction))
  return alternating.Fit(
    reconstruction=loss,
    weight=objective.reconstruction_weight,
    white_steps=objective.white_steps,
    boundary=objective.kernel_boundary if config.model.kernel_features else None,
  )


def _check_data(config: Config, spec: DataSpec) -> None:
  """Raises a ValueError if the model or the objective is not for this kind of data."""
  given = spec.condition > 0 and not spec.class_counts
  if given != (config.model.kind in kinds.CONDITIONED):
    raise ValueError(
      f"--config.model.kind is '{config.model.kind}', but --config.data.source '{config.data.source}' "
      f'comes {"with" if given else "without"} the means of its images: '
      f"{'a model that is given them' if given else 'a model that needs none'} is of kind "
      f"{', '.join(kind for kind in kinds.KINDS if (kind in kinds.CONDITIONED) == given)}."
    )
  if config.objective.dequantize and not spec.levels:
    raise ValueError(
      f"--config.objective.dequantize must be False for --config.data.source '{config.data.source}', "
      "which is of real numbers: there is no level whose width the noise could have."
    )


def check_batch_size(model: Model, config: Config) -> None:
  """Raises a ValueError if the first batch is of one image and the initialisation depends on it."""
  if model.traits.data_dependent and config.train.batch_size < 2:
    raise ValueError(
      f'--config.train.batch_size is {config.train.batch_size}, but the initialisation of this model '
      'gives every layer the mean and the deviation of its outputs on the first batch: it must be at '
      'least 2.'
    )
