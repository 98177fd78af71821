"""Autoencoder: the VAE's networks with one latent per image, without noise, prior or KL.

Trained by its likelihood. With one learnt scale of all pixels and the covariance frozen (the stage
'mean'), that is the mean squared error. With `input_noise` it is a denoising autoencoder, which sees a
noisy image and is scored on the clean one.

Letters: B batch; H W C image height, width, channels; Z latents.

Reference: Vincent et al., "Extracting and composing robust features with denoising autoencoders", 2008.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models import encoder_decoder, masks, observation, vae
from structured_obs.models.base import Traits
from structured_obs.models.kind import PRIOR, Kind, Setting
from structured_obs.models.own_decoder import Maker
from structured_obs.objectives.terms import Terms
from structured_obs.option_records import OneOf
from structured_obs.option_values import NotNegative

Array = jax.Array


class Options(NamedTuple):
  """Options of an autoencoder besides its latents."""

  architecture: Annotated[str, OneOf(encoder_decoder.VECTORS)] = 'mirror'
  scale: encoder_decoder.Scale = 'none'
  input_noise: NotNegative = 0.0  # sd of noise in what it sees, not in what it is scored on


class Autoencoder(nn.Module):
  """Autoencoder with observations of a given family. Fields as of `vae.VAE`."""

  family: base.Family
  image: base.ImageShape
  latents: int = 16
  features: tuple[int, ...] = (32, 64)
  blocks: int = 1
  norm: str = 'none'
  axis_name: str | None = None
  options: observation.Options = observation.Options()
  architecture: str = 'mirror'  # one of `networks.ARCHITECTURES`
  dtype: Any = None
  input_noise: float = 0.0  # sd of normal noise added to what the encoder sees in `__call__`
  own_decoder: Maker | None = None
  masked: bool = False  # where images come with masks, as their last channel; see `masks`
  label_classes = None
  traits = Traits(has_latents=True)

  def setup(self) -> None:
    """Makes the networks."""
    self.encoder, decoders = observation.make_networks(self, outputs=self.latents)
    self.decoder, self.covariance_decoder, self.kernel_generator = decoders
    self.log_scale = observation.scale_parameter(self, self.options)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Reports log p(x|z) at the latent of each image, or of a noisy version of it.

    Args:
      keys: [B], one per image.
      x: [B, H, W, C], floats; with masks [B, H, W, C + 1].
      train: whether batch norm uses the batch's statistics and updates its running ones.
    """
    seen = x
    if self.input_noise > 0:
      noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
      seen = x + self.input_noise * noise
      if self.masked:  # the mask has no noise
        seen = jnp.concatenate([seen[..., :-1], x[..., -1:]], axis=-1)
    z = self.encode(seen, train and not self.options.frozen_mean)
    predicted = self._predict(z, train)
    log_p = {'x': masks.log_prob(self, predicted.params, x)}
    stats = observation.stats(self.family, predicted.params)
    mask = masks.of_images(self, x)
    images = observation.images(predicted, masks.pixels(self, x), mask)
    return Terms(log_p, {}, stats, images)

  def encode(self, x: Array, train: bool = False) -> Array:
    """Returns latents [B, Z]."""
    vae.check_images(x, self.image, with_mask=self.masked)
    return self.encoder(masks.pixels(self, x), train)

  def decode(self, z: Array, train: bool = False) -> Any:
    """Returns the parameters of p(x|z) for latents [B, Z].

    The family's record, each field with a leading B.
    """
    return self._predict(z, train).params

  def infer(self, keys: Array | None, x: Array) -> Array:
    """Returns latents [B, Z]; there is nothing random about them."""
    del keys
    return self.encode(x)

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Returns the parameters of p(x|z) at the latents of images [B, H, W, C], without noise."""
    return self.decode(self.infer(keys, x))

  def _predict(self, z: Array, train: bool) -> observation.Predicted:
    decoders = observation.Decoders(self.decoder, self.covariance_decoder, self.kernel_generator)
    return observation.predict(self.family, self.options, decoders, self.log_scale, z, train)


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> Autoencoder:
  shared = encoder_decoder.arguments(options, setting)
  return Autoencoder(family, image, **shared, input_noise=options['input_noise'])


KIND = Kind((encoder_decoder.Latents, Options), _build, unused=PRIOR, masks=True)
