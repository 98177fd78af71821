"""Models of images: a kind is one module here and one line below."""

from structured_obs.models import (
  autoencoder,
  classifier,
  covariance_network,
  denoiser,
  distribution,
  sr_vae,
  vae,
)
from structured_obs.models.kind import Kind

__all__ = ['KINDS', 'Kind']

KINDS: dict[str, Kind] = {
  'vae': vae.KIND,
  'ae': autoencoder.KIND,
  'covariance': covariance_network.KIND,
  'denoiser': denoiser.KIND,
  'distribution': distribution.KIND,
  'sr_vae': sr_vae.KIND,
  'classifier': classifier.KIND,
}
