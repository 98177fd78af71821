# One file of more than 300 lines: recipes of one method stand side by side.
"""Shared parts of recipes: variants of a method, or families of p(x|z), that differ in one respect."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from structured_obs import config, distributions

SOS_VAE = ('sos_vae', 'beta_vae', 'unconstrained')


class BlurVariant(NamedTuple):
  """A variant of Blur-VAE, or of its baselines."""

  circulant: Mapping[str, Any] | None = None  # options of the family; None for independent pixels
  loss: str = ''  # replaces the density in training; the density still evaluates
  epsilon: float = 0.0  # of the paper's loss
  generated: bool = False  # whether a network predicts the kernels
  own_noise: bool = False  # whether the recipe sets the constant C of the covariance


# 'blur_vae', 'wiener' and 'inverse_eps' maximise the density of their parametrisation, with a shared
# scale at its optimum. 'l2' is the density of independent pixels of one variance, also at its optimum.
# The next ones train with another loss and are evaluated by that density. The rest are the loss as
# published: with a network of kernels or fixed Gaussian ones, with a small epsilon or without the
# log-determinant, and with other constants C of the Wiener filter. The density of the default, with
# their kernel, evaluates them.
BLUR_VAE: Mapping[str, BlurVariant] = {
  'blur_vae': BlurVariant({}, generated=True, own_noise=True),
  'wiener': BlurVariant({'parametrization': 'wiener'}, generated=True),
  'inverse_eps': BlurVariant({'parametrization': 'inverse_eps'}, generated=True),
  'l2': BlurVariant(),
  'l1': BlurVariant(loss='l1'),
  'ssim': BlurVariant(loss='ssim'),
  'cross_entropy': BlurVariant(loss='cross_entropy'),
  'focal_frequency': BlurVariant(loss='focal_frequency'),
  'vgg': BlurVariant(loss='vgg'),
  'watson': BlurVariant(loss='watson'),
  'paper_loss': BlurVariant({}, 'paper_loss', generated=True),
  'gaussian_2': BlurVariant({'gaussian_variance': 2.0}, 'paper_loss'),
  'gaussian_4': BlurVariant({'gaussian_variance': 4.0}, 'paper_loss'),
  'epsilon_small': BlurVariant({}, 'paper_loss', epsilon=0.05, generated=True),
  'noise_0.005': BlurVariant({'noise': 0.005}, 'paper_loss', generated=True),
  'noise_0.1': BlurVariant({'noise': 0.1}, 'paper_loss', generated=True),
}


# The families that configs/compare_*.py compare.
COVARIANCES = (
  'diagonal', 'low_rank', 'sparse_precision', 'circulant', 'scaled_circulant',
  'discretized_logistic_mixture',
)  # fmt: skip


class SosVae(NamedTuple):
  """The parts of the variants."""

  low_rank: dict[str, Any]  # options of the family low_rank, for 'sos_vae'
  learnt_noise: dict[str, Any]  # those of them that differ for 'unconstrained'
  diagonal: dict[str, Any]  # options of the family diagonal, for 'beta_vae'
  kl_bound: float  # nats, for all variants
  entropy_bound: float  # nats per rank, for 'sos_vae'


def sos_vae(base: config.Config, recipe: SosVae, variant: str) -> config.Config:
  """Completes a configuration to one of the variants of SOS_VAE.

  'sos_vae' is the low-rank model with both constraints. 'beta_vae' has independent pixels, hence no
  entropy per rank to bound. 'unconstrained' may raise its entropy and learn the noise of each pixel, as
  in Appendix A of Langley et al. (2022).

  Args:
    base: data, networks, optimizer and steps.
    recipe: the parts of the variants.
    variant: its name.
  """
  family = 'diagonal' if variant == 'beta_vae' else 'low_rank'
  options = recipe.diagonal if variant == 'beta_vae' else recipe.low_rank
  options = options | (recipe.learnt_noise if variant == 'unconstrained' else {})
  entropy = {'entropy': {'bound': recipe.entropy_bound}} if variant == 'sos_vae' else {}
  return dataclasses.replace(
    base,
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=dataclasses.replace(
      base.objective,
      beta=0.0,  # the multiplier of the KL's constraint replaces it
      constraints={'kl': {'bound': recipe.kl_bound}} | entropy,
    ),
  )


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
  return dataclasses.replace(
    base,
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=dataclasses.replace(
      base.objective,
      reconstruction=chosen.loss,
      reconstruction_options=of_loss,
      white_steps=recipe.white_steps if chosen.generated else 0,
    ),
    model=dataclasses.replace(base.model, options=base.model.options | of_model),
  )


class SrVae(NamedTuple):
  """Sizes of srVAE, and of the one-level VAE that it is compared with."""

  options: Mapping[str, Any]  # of the model: growths and steps of the networks
  prior: Mapping[str, Any]  # options of the RealNVP prior, of both models
  vae_growths: tuple[int, int]  # of the one-level VAE's encoder and decoder
  vae_steps: int  # per dense block
  latents: int = 16  # channels
  components: int = 10  # of the mixtures
  levels: int = 256  # of the images


SMALL_IMAGE = {'compression': 'downscale', 'factor': 2, 'method': 'area'}
SR_VAE = SrVae(  # the authors' sizes
  options=SMALL_IMAGE
  | {
    'y_encoder_growth': 64,
    'y_encoder_depth': 3,
    'y_decoder_growth': 128,
    'y_decoder_depth': 4,
    'x_encoder_growth': 16,
    'x_encoder_depth': 4,
    'z_y_growth': 32,
    'z_y_depth': 5,
    'z_growth': 64,
    'z_depth': 3,
    'z_blocks': 3,
    'x_decoder_growth': 64,
    'x_decoder_depth': 8,
    'x_growth': 64,
    'x_depth': 5,
    'x_blocks': 3,
  },
  prior={'scales': 2, 'couplings': 3, 'growth': 64, 'layers': 5},
  vae_growths=(16, 128),
  vae_steps=7,  # theirs has 8 in the encoder and 6 in the decoder
)
SR_VAE_SMALL = SrVae(
  options=SMALL_IMAGE
  | {
    'y_encoder_growth': 16,
    'y_encoder_depth': 2,
    'y_decoder_growth': 32,
    'y_decoder_depth': 2,
    'x_encoder_growth': 8,
    'x_encoder_depth': 2,
    'z_y_growth': 12,
    'z_y_depth': 2,
    'z_growth': 16,
    'z_depth': 2,
    'z_blocks': 1,
    'x_decoder_growth': 24,
    'x_decoder_depth': 2,
    'x_growth': 12,
    'x_depth': 2,
    'x_blocks': 1,
  },
  prior={'scales': 2, 'couplings': 2, 'growth': 12, 'layers': 2},
  vae_growths=(8, 48),
  vae_steps=3,
  latents=8,
  components=5,
)
SR_VAE_DIGITS = SrVae(
  options=SMALL_IMAGE | {
    'y_encoder_growth': 8, 'y_encoder_depth': 1, 'y_decoder_growth': 24, 'y_decoder_depth': 2,
    'x_encoder_growth': 8, 'x_encoder_depth': 1, 'z_y_growth': 8, 'z_y_depth': 1,
    'z_growth': 16, 'z_depth': 1, 'z_blocks': 1, 'x_decoder_growth': 24, 'x_decoder_depth': 1,
    'x_growth': 12, 'x_depth': 2, 'x_blocks': 1,
  },
  prior={'scales': 1, 'couplings': 2, 'growth': 16, 'layers': 1},
  vae_growths=(8, 24),
  vae_steps=2,
  latents=4,
  components=3,
  levels=17,
)  # fmt: skip


def sr_vae(base: config.Config, recipe: SrVae, two_levels: bool = True) -> config.Config:
  """Completes a configuration to srVAE, or to the one-level VAE with the same blocks and prior.

  Args:
    base: data, optimizer and steps.
    recipe: sizes of the networks.
    two_levels: whether to build srVAE, or the one-level VAE.
  """
  sizes: dict[str, Any] = dict(recipe.options)
  if not two_levels:
    sizes = {
      'architecture': 'dense', 'features': recipe.vae_growths, 'blocks': recipe.vae_steps,
    }  # fmt: skip
  of_prior = {'prior': 'realnvp', 'prior_options': dict(recipe.prior)}
  model = config.ModelConfig(
    'sr_vae' if two_levels else 'vae', {'latents': recipe.latents, **of_prior, **sizes}
  )
  family = 'discretized_logistic_mixture'
  options = distributions.options(family, components=recipe.components, levels=recipe.levels)
  return dataclasses.replace(
    base,
    model=model,
    likelihood=config.LikelihoodConfig(family, options),
    objective=dataclasses.replace(base.objective, dequantize=False),
  )


def sr_vae_of_size(
  variant: str, data: config.DataConfig, epoch: int, epochs: int = 2000, two_levels: bool = True
) -> config.Config:
  """Returns the 'small' networks with their schedule, or the 'full' ones with the authors'.

  Args:
    variant: 'small' or 'full'.
    data: to train on.
    epoch: steps of 32 images per epoch, for the full schedule.
    epochs: of the full schedule.
    two_levels: whether to build srVAE, or the one-level VAE.
  """
  if variant == 'small':
    return sr_vae(sr_vae_in_minutes(data), SR_VAE_SMALL, two_levels)
  return sr_vae(sr_vae_as_published(data, epoch, epochs), SR_VAE, two_levels)


def sr_vae_as_published(data: config.DataConfig, epoch: int, epochs: int) -> config.Config:
  """Returns the authors' schedule.

  Args:
    data: to train on.
    epoch: steps of 32 images per epoch.
    epochs: of the whole schedule.
  """
  return config.Config(
    data=data,
    optim=config.OptimConfig(
      optimizer='adamax',
      learning_rate=2e-3,
      schedule='exponential',
      schedule_options={'decay': 0.999999, 'min_learning_rate': 1e-4},
    ),
    train=config.TrainConfig(
      steps=epochs * epoch, batch_size=32, validate_every=epoch, checkpoint_every=epoch, log_every=100
    ),
    eval=config.EvalConfig(batch_size=32, importance_samples=500, chunk=5),
  )


def sr_vae_in_minutes(data: config.DataConfig) -> config.Config:
  """Returns a schedule for small networks on a CPU."""
  return config.Config(
    data=data,
    optim=config.OptimConfig(
      optimizer='adamax', learning_rate=4e-3, schedule='cosine', clip_norm=1000.0
    ),
    train=config.TrainConfig(
      steps=1500, batch_size=32, validate_every=500, checkpoint_every=250, log_every=50
    ),
    eval=config.EvalConfig(batch_size=32, importance_samples=50, chunk=5),
  )


class Covariances(NamedTuple):
  """The common parts of models that compare families of p(x|z)."""

  min_scale: float  # smallest standard deviation of a pixel, in [-1, 1]
  initial_scale: float  # standard deviation of a pixel at outputs of 0
  rank: int = 16
  filter_size: int = 5
  kernel_size: int = 11
  noise: float = 0.2  # C of the circulant families
  components: int = 5  # of the mixture
  levels: int = 256  # of the images


def covariances(base: config.Config, recipe: Covariances, family: str) -> config.Config:
  """Completes a configuration with a family of COVARIANCES and its options.

  Networks, data, optimizer, steps and seed are the base's for all. The mixture models gray levels, and
  trains without noise.

  Args:
    base: the common configuration.
    recipe: scales and sizes of the families.
    family: its name.
  """
  scales = {'min_scale': recipe.min_scale, 'initial_scale': recipe.initial_scale}
  circulant = {'kernel_size': recipe.kernel_size, 'noise': recipe.noise, **scales}
  chosen: dict[str, dict[str, Any]] = {
    'diagonal': scales,
    'low_rank': {
      'rank': recipe.rank,
      'learn_diag': True,
      'min_variance': recipe.min_scale**2,
      'noise_variance': recipe.initial_scale**2,
    },
    'sparse_precision': {'filter_size': recipe.filter_size, 'channels': 'pixel', **scales},
    'circulant': circulant,
    'scaled_circulant': circulant,
    'discretized_logistic_mixture': {'components': recipe.components, 'levels': recipe.levels},
  }
  likelihood = config.LikelihoodConfig(family, distributions.options(family, **chosen[family]))
  objective = dataclasses.replace(base.objective, dequantize='levels' not in chosen[family])
  return dataclasses.replace(base, likelihood=likelihood, objective=objective)


def covariances_of_photographs(data: config.DataConfig, family: str) -> config.Config:
  """Returns a VAE of 32x32 photographs, for minutes on a CPU, with a family of COVARIANCES."""
  base = config.Config(
    data=data,
    model=config.ModelConfig('vae', {'latents': 64, 'features': (16, 32, 64), 'norm': 'group'}),
    optim=config.OptimConfig(learning_rate=1e-3, schedule='cosine', clip_norm=1e4),
    train=config.TrainConfig(steps=1200, batch_size=32, validate_every=300, checkpoint_every=600),
    eval=config.EvalConfig(batch_size=32, importance_samples=50, chunk=5),
  )
  return covariances(base, Covariances(min_scale=0.01, initial_scale=0.2), family)


def choose(variant: str, variants: Iterable[str], file: str) -> str:
  """Returns the variant, or the first one for ''.

  Args:
    variant: as typed.
    variants: all of them.
    file: the config file, for the message.

  Raises:
    ValueError: the file has no such variant.
  """
  variants = tuple(variants)
  variant = variant or variants[0]
  if variant not in variants:
    raise ValueError(f'{file} has the variants {", ".join(variants)}; got {variant!r}.')
  return variant
