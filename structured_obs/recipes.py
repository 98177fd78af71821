"""What recipes share: the variants of SOS-VAE, equal in all but the family of p(x|z) and its bound."""

import dataclasses
from typing import Any, NamedTuple

from structured_obs import config, distributions

SOS_VAE = ('sos_vae', 'beta_vae', 'unconstrained')


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


def choose(variant: str, variants: tuple[str, ...], file: str) -> str:
  """Return the variant, or the first one for ''; raise ValueError if the file has no such variant."""
  variant = variant or variants[0]
  if variant not in variants:
    raise ValueError(f'{file} has the variants {", ".join(variants)}; got {variant!r}.')
  return variant
