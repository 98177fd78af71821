"""What recipes share: the variants of SOS-VAE and of Blur-VAE, equal in all but what they are about."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from structured_obs import config, distributions

SOS_VAE = ('sos_vae', 'beta_vae', 'unconstrained')
BASELINES = ('l2', 'l1', 'ssim', 'cross_entropy', 'focal_frequency', 'vgg', 'watson')
# Of the loss as published: with a network of kernels or fixed Gaussian ones, with a small epsilon or
# without the log-determinant, and with other constants C of the Wiener filter.
ABLATION = ('paper_loss', 'gaussian_2', 'gaussian_4', 'epsilon_small', 'noise_0.005', 'noise_0.1')
BLUR_VAE = ('blur_vae', 'wiener', 'inverse_eps', *BASELINES, *ABLATION)


class SosVae(NamedTuple):
  """What the variants are made of."""

  low_rank: dict[str, Any]  # options of the family low_rank, of 'sos_vae'
  learnt_noise: dict[str, Any]  # of them, those that 'unconstrained' has otherwise
  diagonal: dict[str, Any]  # options of the family diagonal, of 'beta_vae'
  kl_bound: float  # nats, of all variants
  entropy_bound: float  # nats per rank, of 'sos_vae'


def sos_vae(base: config.Config, recipe: SosVae, variant: str) -> config.Config:
  """Complete a configuration to one of the variants of SOS_VAE.

  'sos_vae' is the low-rank model with both constraints. 'beta_vae' has independent pixels, and with
  them no entropy per rank to bound. 'unconstrained' is free to raise its entropy and to learn the noise
  of each pixel: what Appendix A of Langley et al. (2022) shows.
  """
  family = 'diagonal' if variant == 'beta_vae' else 'low_rank'
  options = recipe.diagonal if variant == 'beta_vae' else recipe.low_rank
  options = options | (recipe.learnt_noise if variant == 'unconstrained' else {})
  return dataclasses.replace(
    base,
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=dataclasses.replace(
      base.objective,
      beta=0.0,  # the multiplier of the KL's constraint takes its place
      kl_bound=recipe.kl_bound,
      entropy_bound=recipe.entropy_bound if variant == 'sos_vae' else 0.0,
    ),
  )


class BlurVae(NamedTuple):
  """What the variants are made of."""

  kernel_size: int = 11
  kernel_features: int = 1000  # hidden units of the kernel network
  noise: float = 0.2  # C of 'blur_vae': the smaller, the more do blurred-away frequencies weigh
  white_steps: int = 0  # first so many with independent pixels, while the kernel network learns
  reflect: bool = False  # mirror images at their borders, instead of continuing them periodically
  # What brings each baseline to about the size of a density in nats.
  weights: Mapping[str, float] = MappingProxyType(
    {'l1': 10.0, 'ssim': 2.0, 'cross_entropy': 50.0, 'focal_frequency': 500.0}
  )
  weight: float = 50.0  # of the other ones


def blur_vae(base: config.Config, recipe: BlurVae, variant: str) -> config.Config:
  """Complete a configuration to one of the variants of BLUR_VAE.

  'blur_vae', 'wiener' and 'inverse_eps' maximise the density of their parametrisation, with a shared
  scale at its optimum. 'l2' is the density of independent pixels of one variance, at its optimum too;
  the other baselines are trained by another loss and evaluated by that density. The variants of ABLATION
  are trained by the loss of the paper, and evaluated by the default's density of their kernel.
  """
  options: dict[str, Any] = {'learn_scale': False}
  family = 'diagonal'
  if variant not in BASELINES:
    family = 'circulant'
    options = {'kernel_size': recipe.kernel_size, 'scale': 'fixed', 'reflect': recipe.reflect}
  if variant == 'blur_vae':
    options['noise'] = recipe.noise
  if variant in ('wiener', 'inverse_eps'):
    options['parametrization'] = variant
  name, _, number = variant.partition('_')
  if name == 'gaussian':
    options['gaussian_variance'] = float(number)
  if name == 'noise':
    options['noise'] = float(number)
  generated = family == 'circulant' and name != 'gaussian'
  loss = 'paper_loss' if variant in ABLATION else variant
  objective = dataclasses.replace(
    base.objective,
    reconstruction=loss if variant in (*BASELINES[1:], *ABLATION) else '',
    reconstruction_weight=recipe.weights.get(variant, recipe.weight),
    epsilon=0.05 if variant == 'epsilon_small' else 0.0,
    white_steps=recipe.white_steps if generated else 0,
    kernel_boundary='reflect' if recipe.reflect else 'circular',
  )
  model = dataclasses.replace(
    base.model,
    optimal_scale=True,
    kernel_features=recipe.kernel_features if generated else 0,
  )
  likelihood = config.LikelihoodConfig(family, distributions.options(family, **options))
  return dataclasses.replace(base, likelihood=likelihood, objective=objective, model=model)


def choose(variant: str, variants: tuple[str, ...], file: str) -> str:
  """Return the variant, or the first one for ''; raise ValueError if the file has no such variant."""
  variant = variant or variants[0]
  if variant not in variants:
    raise ValueError(f'{file} has the variants {", ".join(variants)}; got {variant!r}.')
  return variant
