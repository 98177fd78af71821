"""Variants of Blur-VAE, and the baselines of its tables."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from structured_obs import config, distributions


class BlurVariant(NamedTuple):
  """A variant of Blur-VAE, or of its baselines."""

  circulant: Mapping[str, Any] | None = None  # options of the family; None for independent pixels
  loss: str = ''  # replaces the density in training; the density still evaluates
  epsilon: float = 0.0  # of the paper's loss
  generated: bool = False  # whether a network predicts the kernels
  own_noise: bool = False  # whether the recipe sets the constant C of the covariance
  kernel_gradient: str = 'held'  # whether latents learn from the kernel that they give: 'latents'
  rotated: bool = False  # whether each rotated colour channel has a kernel and a scale of its own


# 'blur_vae', 'wiener' and 'inverse_eps' maximise the density of their parametrisation, with a shared
# scale at its optimum; 'blur_vae_colour' that of 'blur_vae' with a kernel for each of three rotated
# channels, gray, red-blue and green-magenta. 'l2' is the density of independent pixels of one variance,
# also at its optimum. The next ones train with another loss and are evaluated by that density. The rest
# are the loss as published: with a network of kernels or fixed Gaussian ones, with a small epsilon or
# without the log-determinant, and with other constants C of the Wiener filter. The density of the
# default, with their kernel, evaluates them.
BLUR_VAE: Mapping[str, BlurVariant] = {
  'blur_vae': BlurVariant({}, generated=True, own_noise=True),
  'blur_vae_colour': BlurVariant({'per_channel': True}, generated=True, own_noise=True, rotated=True),
  'wiener': BlurVariant({'parametrization': 'wiener'}, generated=True),
  'inverse_eps': BlurVariant({'parametrization': 'inverse_eps'}, generated=True),
  'l2': BlurVariant(),
  'l1': BlurVariant(loss='l1'),
  'ssim': BlurVariant(loss='ssim'),
  'cross_entropy': BlurVariant(loss='cross_entropy'),
  'focal_frequency': BlurVariant(loss='focal_frequency'),
  'vgg': BlurVariant(loss='vgg'),
  'watson': BlurVariant(loss='watson'),
  'paper_loss': BlurVariant({}, 'paper_loss', generated=True, kernel_gradient='latents'),
  'gaussian_2': BlurVariant({'gaussian_variance': 2.0}, 'paper_loss'),
  'gaussian_4': BlurVariant({'gaussian_variance': 4.0}, 'paper_loss'),
  'epsilon_small': BlurVariant(
    {}, 'paper_loss', epsilon=0.05, generated=True, kernel_gradient='latents'
  ),
  'noise_0.005': BlurVariant({'noise': 0.005}, 'paper_loss', generated=True, kernel_gradient='latents'),
  'noise_0.1': BlurVariant({'noise': 0.1}, 'paper_loss', generated=True, kernel_gradient='latents'),
}


class BlurVae(NamedTuple):
  """The parts of the variants."""

  kernel_size: int = 11
  kernel_features: int = 1000  # hidden units of the kernel network
  kernel_learning_rate: float = 0.0  # of that network; 0 for the same rate
  noise: float = 0.2  # C of 'blur_vae'; a smaller C gives blurred-away frequencies more weight
  white_steps: int = 0  # first steps, with independent pixels while the kernel network learns
  reflect: bool = False  # mirror images at their borders instead of continuing them periodically
  # Weights that bring each baseline to about the size of a density in nats.
  weights: Mapping[str, float] = MappingProxyType(
    {'l1': 10.0, 'ssim': 2.0, 'cross_entropy': 50.0, 'focal_frequency': 500.0}
  )
  weight: float = 50.0  # of the other losses


def blur_vae(base: config.Config, recipe: BlurVae, variant: str) -> config.Config:
  """Completes a configuration to one of the variants of BLUR_VAE.

  Args:
    base: data, networks, optimizer and steps.
    recipe: the parts of the variants.
    variant: its name.
  """
  chosen, family, options = BLUR_VAE[variant], 'diagonal', {'learn_scale': False}
  if chosen.circulant is not None:
    family = 'circulant'
    options = {'kernel_size': recipe.kernel_size, 'scale': 'fixed', 'reflect': recipe.reflect}
    options |= {'noise': recipe.noise} if chosen.own_noise else {}
    options |= chosen.circulant
  of_loss: dict[str, Any] = {}
  if chosen.loss:
    of_loss = {'weight': recipe.weights.get(variant, recipe.weight)}
  if chosen.epsilon:
    of_loss['epsilon'] = chosen.epsilon
  kernel = {
    'features': recipe.kernel_features,
    'boundary': 'reflect' if recipe.reflect else 'circular',
    'learning_rate': recipe.kernel_learning_rate,
  }
  of_model = {'scale': 'optimal', 'kernel': kernel if chosen.generated else {}}
  # One scale of each rotated channel for all images: only the kernels depend on the image.
  wrappers = {'colour': {'scale': 'learned'}} if chosen.rotated else {}
  return dataclasses.replace(
    base,
    likelihood=config.LikelihoodConfig(
      family, distributions.options(family, **options), tuple(wrappers), wrappers
    ),
    objective=dataclasses.replace(
      base.objective,
      reconstruction=chosen.loss,
      reconstruction_options=of_loss,
      white_steps=recipe.white_steps if chosen.generated else 0,
      kernel_gradient=chosen.kernel_gradient,
    ),
    model=dataclasses.replace(base.model, options=base.model.options | of_model),
  )


class BlurVaePaper(NamedTuple):
  """Sizes that differ between the paper's models of Blur-VAE."""

  epoch: int  # steps
  epochs: int = 100
  white_epochs: int = 10  # first epochs, with independent pixels
  checkpoint_epochs: int = 5  # between two checkpoints
  patience: int = 0  # epochs without a better validation ELBO that end a training; 0 for none
  batch_size: int = 64
  features: tuple[int, ...] = (64, 128, 256, 512)
  kernel_size: int = 11


def blur_vae_as_published(variant: str, data: config.DataConfig, sizes: BlurVaePaper) -> config.Config:
  """Returns a variant of BLUR_VAE with the paper's network and schedule.

  Args:
    variant: its name.
    data: to train on.
    sizes: of the network and the schedule.
  """
  network = {'architecture': 'strided', 'latents': 256, 'features': sizes.features, 'norm': 'batch'}
  base = config.Config(
    data=data,
    model=config.ModelConfig('vae', network),
    optim=config.OptimConfig(learning_rate=1e-4),
    train=config.TrainConfig(
      steps=sizes.epochs * sizes.epoch,
      batch_size=sizes.batch_size,
      validate_every=sizes.epoch,
      patience=sizes.patience,
      checkpoint_every=sizes.checkpoint_epochs * sizes.epoch,
      keep=20,
    ),
    eval=config.EvalConfig(batch_size=32, importance_samples=100, chunk=5),
  )
  recipe = BlurVae(kernel_size=sizes.kernel_size, white_steps=sizes.white_epochs * sizes.epoch)
  return blur_vae(base, recipe, variant)
