"""Families of p(x|z) compared on equal terms."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from structured_obs import config, distributions
from structured_obs.recipes.choice import choose

# The families that configs/compare_*.py compare.
COVARIANCES = (
  'diagonal', 'low_rank', 'sparse_precision', 'circulant', 'scaled_circulant',
  'discretized_logistic_mixture',
)  # fmt: skip


# Share of white pixels in what the mean learns from, where mean and covariance learn together; a density
# of correlated pixels alone would leave the mean blurred.
MEAN_GRADIENT = 0.9


class Covariances(NamedTuple):
  """The common parts of models that compare families of p(x|z)."""

  min_scale: float  # smallest standard deviation of a pixel, in [-1, 1]
  initial_scale: float  # standard deviation of a pixel at outputs of 0
  rank: int = 16
  factor_scale: float = 0.1  # of the low-rank family: entries of P at outputs of 1
  filter_size: int = 5
  kernel_size: int = 11
  noise: float = 0.2  # C of the circulant families
  components: int = 5  # of the mixture
  levels: int = 256  # of the images


def covariances(base: config.Config, recipe: Covariances, variant: str) -> config.Config:
  """Completes a configuration with a family of COVARIANCES, its wrappers, and their options.

  Networks, data, optimizer, steps and seed are the base's for all. The mean has MEAN_GRADIENT, and all
  other outputs a decoder of their own, but for the mixture: it models gray levels, has no mean of its
  own, and trains without noise.

  Args:
    base: the common configuration.
    recipe: scales and sizes of the families.
    variant: name of the family, and of wrappers around it, the innermost first: 'diagonal+colour'.

  Raises:
    ValueError: there is no such family or wrapper.
  """
  family, *wrappers = variant.split('+')
  family = choose(family, COVARIANCES, 'The comparison of families')
  for wrapper in wrappers:
    choose(wrapper, distributions.WRAPPERS, f'A variant such as {family}+colour')
  scales = {'min_scale': recipe.min_scale, 'initial_scale': recipe.initial_scale}
  circulant = {'kernel_size': recipe.kernel_size, 'noise': recipe.noise, **scales}
  chosen: dict[str, dict[str, Any]] = {
    'diagonal': scales,
    'low_rank': {
      'rank': recipe.rank,
      'factor_scale': recipe.factor_scale,
      'learn_diag': True,
      'min_variance': recipe.min_scale**2,
      'noise_variance': recipe.initial_scale**2,
    },
    'sparse_precision': {'filter_size': recipe.filter_size, 'channels': 'pixel', **scales},
    'circulant': circulant,
    'scaled_circulant': circulant,
    'discretized_logistic_mixture': {'components': recipe.components, 'levels': recipe.levels},
  }
  options = {'low_rank_update': {'rank': recipe.rank}}
  likelihood = config.LikelihoodConfig(
    family,
    distributions.options(family, **chosen[family]),
    tuple(wrappers),
    {name: options[name] for name in wrappers if name in options},
  )
  completed = dataclasses.replace(base, likelihood=likelihood, objective=joint_objective(chosen[family]))
  return completed if 'levels' in chosen[family] else with_covariance_decoder(completed)


def joint_objective(options: Mapping[str, Any]) -> config.ObjectiveConfig:
  """Returns the objective of a family whose mean and covariance learn together.

  Args:
    options: of the family; with 'levels', it has probabilities of gray levels, and no mean to emit.
  """
  discrete = 'levels' in options
  return config.ObjectiveConfig(
    dequantize=not discrete, mean_gradient=0.0 if discrete else MEAN_GRADIENT
  )


def with_covariance_decoder(base: config.Config) -> config.Config:
  """Returns the configuration with a second decoder, like the first, for all outputs but the mean.

  It sees the mean. One decoder for both has features for one of them at a time: on CIFAR-10, after 400
  steps with a sparse factor, its mean is 1.4 dB and its density 0.13 bits/dim worse.
  """
  network = base.model.options
  covariance = {'features': network['features'], 'sees_mean': True}
  model = dataclasses.replace(base.model, options={**network, 'covariance': covariance})
  return dataclasses.replace(base, model=model)


def covariances_of_photographs(data: config.DataConfig, variant: str) -> config.Config:
  """Returns a VAE of 32x32 photographs, for minutes on a CPU; `variant` is as of `covariances`."""
  base = config.Config(
    data=data,
    model=config.ModelConfig('vae', {'latents': 64, 'features': (16, 32, 64), 'norm': 'group'}),
    optim=config.OptimConfig(learning_rate=1e-3, schedule='cosine', clip_norm=1e4),
    train=config.TrainConfig(steps=1200, batch_size=32, validate_every=300, checkpoint_every=600),
    eval=config.EvalConfig(batch_size=32, importance_samples=50, chunk=5),
  )
  return covariances(base, Covariances(min_scale=0.01, initial_scale=0.2), variant)
