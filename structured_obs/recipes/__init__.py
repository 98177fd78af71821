"""Shared parts of the files in configs/: variants of a method, and families of p(x|z)."""

from structured_obs.recipes.blur import BLUR_VAE, BlurVae, BlurVaePaper, blur_vae, blur_vae_as_published
from structured_obs.recipes.choice import choose
from structured_obs.recipes.families import (
  COVARIANCES,
  MEAN_GRADIENT,
  Covariances,
  covariances,
  covariances_of_photographs,
  joint_objective,
  with_covariance_decoder,
)
from structured_obs.recipes.sos import SOS_VAE, SosVae, sos_vae, sos_vae_as_published
from structured_obs.recipes.super_resolution import (
  SR_VAE,
  SR_VAE_DIGITS,
  SR_VAE_SMALL,
  SrVae,
  sr_vae,
  sr_vae_as_published,
  sr_vae_in_minutes,
  sr_vae_of_size,
)
from structured_obs.recipes.supn import SUPN, Supn, SupnVariant, supn

__all__ = [
  'BLUR_VAE',
  'COVARIANCES',
  'MEAN_GRADIENT',
  'SOS_VAE',
  'SR_VAE',
  'SR_VAE_DIGITS',
  'SR_VAE_SMALL',
  'SUPN',
  'BlurVae',
  'BlurVaePaper',
  'Covariances',
  'SosVae',
  'SrVae',
  'Supn',
  'SupnVariant',
  'blur_vae',
  'blur_vae_as_published',
  'choose',
  'covariances',
  'covariances_of_photographs',
  'joint_objective',
  'sos_vae',
  'sos_vae_as_published',
  'sr_vae',
  'sr_vae_as_published',
  'sr_vae_in_minutes',
  'sr_vae_of_size',
  'supn',
  'with_covariance_decoder',
]
