# One file of more than 300 lines: recipes of one method stand side by side.
"""What recipes share: variants of a method, or families of p(x|z), alike but for what they are about."""

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from structured_obs import config, distributions, names

SOS_VAE = ('sos_vae', 'beta_vae', 'unconstrained')


class BlurVariant(NamedTuple):
  """A variant of Blur-VAE, or what it is compared with."""

  circulant: Mapping[str, Any] | None = None  # options of that family; None is independent pixels
  loss: str = ''  # in the place of the density, which it is evaluated by all the same
  epsilon: float = 0.0  # of the loss of the paper
  generated: bool = False  # whether kernels are those of a network
  own_noise: bool = False  # whether the constant C of the covariance is the recipe's


# 'blur_vae', 'wiener' and 'inverse_eps' maximise the density of their parametrisation, with a shared
# scale at its optimum. 'l2' is the density of independent pixels of one variance, at its optimum too.
# The next ones are trained by another loss and evaluated by that density. The rest is the loss as
# published: with a network of kernels or fixed Gaussian ones, with a small epsilon or without the
# log-determinant, and with other constants C of the Wiener filter; they are evaluated by the default's
# density of their kernel.
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
  entropy = {'entropy': {'bound': recipe.entropy_bound}} if variant == 'sos_vae' else {}
  return dataclasses.replace(
    base,
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=dataclasses.replace(
      base.objective,
      beta=0.0,  # the multiplier of the KL's constraint takes its place
      constraints={'kl': {'bound': recipe.kl_bound}} | entropy,
    ),
  )


class BlurVae(NamedTuple):
  """What the variants are made of."""

  kernel_size: int = 11
  kernel_features: int = 1000  # hidden units of the kernel network
  kernel_learning_rate: float = 0.0  # of that network; 0 is the same
  noise: float = 0.2  # C of 'blur_vae': the smaller, the more do blurred-away frequencies weigh
  white_steps: int = 0  # first so many with independent pixels, while the kernel network learns
  reflect: bool = False  # mirror images at their borders, instead of continuing them periodically
  # What brings each baseline to about the size of a density in nats.
  weights: Mapping[str, float] = MappingProxyType(
    {'l1': 10.0, 'ssim': 2.0, 'cross_entropy': 50.0, 'focal_frequency': 500.0}
  )
  weight: float = 50.0  # of the other ones


def blur_vae(base: config.Config, recipe: BlurVae, variant: str) -> config.Config:
  """Complete a configuration to one of the variants of BLUR_VAE."""
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
  """Sizes of srVAE, and of the VAE in one level that it is compared with."""

  options: Mapping[str, Any]  # of the model: growths and steps of the networks
  prior: Mapping[str, Any]  # options of the RealNVP prior, of both models
  vae_growths: tuple[int, int]  # of the one-level VAE: of its encoder and its decoder
  vae_steps: int  # of a dense block
  latents: int = 16  # channels
  components: int = 10  # of the mixtures
  levels: int = 256  # of the images


SMALL_IMAGE = {'compression': 'downscale', 'factor': 2, 'method': 'area'}
SR_VAE = SrVae(  # as the authors'
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
  """Complete a configuration to srVAE, or to the VAE in one level with the same blocks and prior."""
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
  """The 'small' networks with their schedule, or the 'full' ones with the authors'.

  Args:
    variant: 'small' or 'full'.
    data: that it is trained on.
    epoch: steps of 32 images, of the full schedule.
    epochs: of the full schedule.
    two_levels: whether it is srVAE, or the VAE in one level.
  """
  if variant == 'small':
    return sr_vae(sr_vae_in_minutes(data), SR_VAE_SMALL, two_levels)
  return sr_vae(sr_vae_as_published(data, epoch, epochs), SR_VAE, two_levels)


def sr_vae_as_published(data: config.DataConfig, epoch: int, epochs: int) -> config.Config:
  """The authors' schedule, for epochs of so many steps of 32 images."""
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
  """A schedule for small networks on a CPU."""
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


class SupnVariant(NamedTuple):
  """A model of the mean and one variance, or of the covariance on such a mean."""

  kind: str = 'vae'
  family: str = 'diagonal'
  start: str = ''  # variant whose mean it takes over and keeps; '' learns the mean
  beta: float = 1.0
  input_noise: float = 0.0  # standard deviation
  at_once: bool = False  # whether mean and variances of pixels are learnt together

  @property
  def stage(self) -> str:
    """What is learnt, but for those that learn everything at once."""
    return 'covariance' if self.start else 'mean'

  def stages(self, steps: int) -> tuple[str, ...]:
    """Returns the stages of so many steps."""
    return () if self.at_once else (f'{self.stage}:{steps}',)

  def model(self, network: Mapping[str, Any], covariance: Mapping[str, Any]) -> config.ModelConfig:
    """Returns the model, of a network and that of its covariance, if it has one of its own."""
    options: dict[str, Any] = {'blocks': 0, 'scale': 'none' if self.at_once else 'learned'}
    options['covariance'] = dict(covariance) if self.start else {}
    noise = {'input_noise': self.input_noise} if self.input_noise else {}
    return config.ModelConfig(self.kind, {**network, **options, **noise})


SUPN: Mapping[str, SupnVariant] = {
  'vae_mean': SupnVariant(),
  'ae_mean': SupnVariant('ae'),
  'beta5_mean': SupnVariant(beta=5.0),
  'vae': SupnVariant('vae', 'sparse_precision', start='vae_mean'),
  'ae': SupnVariant('ae', 'sparse_precision', start='ae_mean'),
  'beta5': SupnVariant('vae', 'sparse_precision', start='beta5_mean', beta=5.0),
  'vae_diagonal': SupnVariant('vae', start='vae_mean'),
  'ae_diagonal': SupnVariant('ae', start='ae_mean'),
  'diagonal': SupnVariant(at_once=True),
  'dae': SupnVariant('ae', input_noise=0.1),
}


class Covariances(NamedTuple):
  """What families of p(x|z) are compared with: as much alike as they can be."""

  min_scale: float  # smallest standard deviation of a pixel, in [-1, 1]
  initial_scale: float  # that of outputs 0
  rank: int = 16
  filter_size: int = 5
  kernel_size: int = 11
  noise: float = 0.2  # C of the circulant ones
  components: int = 5  # of the mixture
  levels: int = 256  # of the images


def covariances(base: config.Config, recipe: Covariances, family: str) -> config.Config:
  """Complete a configuration with a family of p(x|z), one of COVARIANCES, and its options.

  Networks, data, optimizer, steps and seed are the base's for all. The mixture is of gray levels, and
  trains without noise.
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
  """A VAE of 32x32 photographs, for minutes on a CPU, with a family of COVARIANCES."""
  base = config.Config(
    data=data,
    model=config.ModelConfig('vae', {'latents': 64, 'features': (16, 32, 64), 'norm': 'group'}),
    optim=config.OptimConfig(learning_rate=1e-3, schedule='cosine', clip_norm=1e4),
    train=config.TrainConfig(steps=1200, batch_size=32, validate_every=300, checkpoint_every=600),
    eval=config.EvalConfig(batch_size=32, importance_samples=50, chunk=5),
  )
  return covariances(base, Covariances(min_scale=0.01, initial_scale=0.2), family)


def choose(variant: str, variants: Iterable[str], file: str) -> str:
  """Return the variant, or the first one for ''; raise ValueError if the file has no such variant."""
  variants = tuple(variants)
  variant = variant or variants[0]
  if variant not in variants:
    near = names.nearest(variant, variants)
    hint = f'; did you mean {near!r}?' if near else '.'
    raise ValueError(f'{file} has the variants {", ".join(variants)}; got {variant!r}{hint}')
  return variant
