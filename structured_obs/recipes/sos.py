"""Variants of SOS-VAE: a low-rank model with two constraints, and what it is compared with."""

import dataclasses
from typing import Any, NamedTuple

from structured_obs import config, distributions

SOS_VAE = ('sos_vae', 'beta_vae', 'unconstrained', 'equal')


class SosVae(NamedTuple):
  """The parts of the variants."""

  low_rank: dict[str, Any]  # options of the family low_rank, for 'sos_vae'
  learnt_noise: dict[str, Any]  # those of them that differ for 'unconstrained'
  diagonal: dict[str, Any]  # options of the family diagonal, for 'beta_vae'
  kl_bound: float  # nats, for all variants
  entropy_bound: float  # nats per rank, for 'sos_vae' and 'equal'


def sos_vae(base: config.Config, recipe: SosVae, variant: str) -> config.Config:
  """Completes a configuration to one of the variants of SOS_VAE.

  'sos_vae' is the low-rank model with both constraints. 'beta_vae' has independent pixels, hence no
  entropy per rank to bound. 'unconstrained' may raise its entropy and learn the noise of each pixel, as
  in Appendix A of Langley et al. (2022). 'equal' holds KL and entropy at their bounds, where the other
  ones may stay below: what the damping in the authors' code does.

  Args:
    base: data, networks, optimizer and steps.
    recipe: the parts of the variants.
    variant: its name.
  """
  family = 'diagonal' if variant == 'beta_vae' else 'low_rank'
  options = recipe.diagonal if variant == 'beta_vae' else recipe.low_rank
  options = options | (recipe.learnt_noise if variant == 'unconstrained' else {})
  held: dict[str, dict[str, Any]] = {'kl': {'bound': recipe.kl_bound}}
  if variant in ('sos_vae', 'equal'):
    held['entropy'] = {'bound': recipe.entropy_bound}
  if variant == 'equal':
    held = {name: {**bound, 'kind': 'equal'} for name, bound in held.items()}
  return dataclasses.replace(
    base,
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=dataclasses.replace(
      base.objective,
      beta=0.0,  # the multiplier of the KL's constraint replaces it
      constraints=held,
    ),
  )


def sos_vae_as_published(
  variant: str,
  data: config.DataConfig,
  entropy_bound: float,
  evaluation: config.EvalConfig,
  kl_bound: float = 45.0,
) -> config.Config:
  """Returns a variant of SOS_VAE with the network and schedule of the paper's models.

  Args:
    variant: its name.
    data: images of some size, about 10,000 of them.
    entropy_bound: nats per rank.
    evaluation: how to evaluate at this size.
    kl_bound: nats; the default is that of CelebA.
  """
  eps, epoch = 4e-5, 8035 // 25  # the paper's 1e-5 of pixels in [0, 1]; steps
  recipe = SosVae(
    low_rank={'rank': 25, 'noise_variance': eps},
    learnt_noise={'learn_diag': True, 'noise_variance': 2 * eps, 'min_variance': eps},
    diagonal={'min_scale': eps**0.5, 'initial_scale': 0.1},
    kl_bound=kl_bound,
    entropy_bound=entropy_bound,
  )
  network = {'architecture': 'resnet', 'latents': 128, 'features': (64, 128, 256, 512)}
  base = config.Config(
    data=data,
    model=config.ModelConfig('vae', {**network, 'blocks': 2, 'norm': 'batch'}),
    optim=config.OptimConfig(learning_rate=1e-4, stages=(f'mean:{5 * epoch}',)),
    train=config.TrainConfig(
      steps=100 * epoch, batch_size=25, validate_every=epoch, checkpoint_every=epoch
    ),
    eval=evaluation,
  )
  return sos_vae(base, recipe, variant)
