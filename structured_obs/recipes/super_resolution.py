"""srVAE in three sizes, and the VAE in one level that it is compared with."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from structured_obs import config, distributions


class SrVae(NamedTuple):
  """Sizes of srVAE, and of the one-level VAE that it is compared with."""

  options: Mapping[str, Any]  # of the model: growths and steps of the networks
  prior: Mapping[str, Any]  # options of the RealNVP prior, of both models
  vae_growths: tuple[int, int]  # of the one-level VAE's encoder and decoder
  vae_steps: int  # per dense block
  latents: int = 16  # channels
  components: int = 10  # of the mixtures
  levels: int = 256  # of the images


# As published: pixels independent of y but for what the network makes of it.
SMALL_IMAGE = {
  'compression': 'downscale', 'factor': 2, 'method': 'bilinear', 'consistent': False, 'skip': 'none',
}  # fmt: skip
# p(x|y, z) over the images whose blocks have the mean y, around y up-scaled by regression.
CONSISTENT = {
  'compression': 'downscale',
  'factor': 2,
  'method': 'area',
  'consistent': True,
  'skip': 'learnt',
}
SR_VAE = SrVae(  # the authors' sizes
  options=SMALL_IMAGE | {
    'y_encoder_growth': 64, 'y_encoder_depth': 3, 'y_decoder_growth': 128, 'y_decoder_depth': 4,
    'x_encoder_growth': 16, 'x_encoder_depth': 4, 'z_y_growth': 32, 'z_y_depth': 5, 'z_growth': 64,
    'z_depth': 3, 'z_blocks': 3, 'x_decoder_growth': 64, 'x_decoder_depth': 8, 'x_y_depth': 0,
    'x_growth': 64, 'x_depth': 5, 'x_blocks': 3,
  },
  prior={'scales': 2, 'couplings': 3, 'growth': 64, 'layers': 5},
  vae_growths=(16, 128),
  vae_steps=7,  # theirs has 8 in the encoder and 6 in the decoder
)  # fmt: skip
SR_VAE_SMALL = SrVae(
  options=CONSISTENT | {
    'y_encoder_growth': 16, 'y_encoder_depth': 2, 'y_decoder_growth': 32, 'y_decoder_depth': 2,
    'x_encoder_growth': 8, 'x_encoder_depth': 2, 'z_y_growth': 12, 'z_y_depth': 2, 'z_growth': 16,
    'z_depth': 2, 'z_blocks': 1, 'x_decoder_growth': 24, 'x_decoder_depth': 2, 'x_y_depth': 4,
    'x_growth': 12, 'x_depth': 2, 'x_blocks': 1,
  },
  prior={'scales': 2, 'couplings': 2, 'growth': 12, 'layers': 2},
  vae_growths=(8, 42),
  vae_steps=3,
  latents=8,
  components=5,
)  # fmt: skip
SR_VAE_DIGITS = SrVae(
  options=CONSISTENT | {
    'y_encoder_growth': 8, 'y_encoder_depth': 1, 'y_decoder_growth': 24, 'y_decoder_depth': 2,
    'x_encoder_growth': 8, 'x_encoder_depth': 1, 'z_y_growth': 8, 'z_y_depth': 1,
    'z_growth': 16, 'z_depth': 1, 'z_blocks': 1, 'x_decoder_growth': 24, 'x_decoder_depth': 1,
    'x_y_depth': 3, 'x_growth': 12, 'x_depth': 2, 'x_blocks': 1, 'skip_features': 64,
  },
  prior={'scales': 1, 'couplings': 2, 'growth': 16, 'layers': 1},
  vae_growths=(8, 42),
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
