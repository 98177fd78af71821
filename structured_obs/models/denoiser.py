"""Denoiser: a network from an image with white noise to the distribution p(x|y) of the clean image.

y = x + noise, and the mean of p(x|y) is y plus what a U-Net predicts (residual prediction, as DnCNN); no
bottleneck has to hold the image. Its other outputs are those of the family, so that what is left of the
noise may have any covariance. It is trained by log p(x|y) of the clean images; with one learnt scale of
all pixels and the covariance frozen (the stage 'mean'), that is the mean squared error.

The noise has one standard deviation, `noise`. With `blind`, that of each image is uniform between 0 and
`noise`, and the network, which is not told, works for all of them.

Wherever images are scored, a denoiser sees them with noise drawn by the key of each; `reconstruct`
without keys takes images as the noisy ones.

Letters: B batch; H W C image height, width, channels.

Reference: Zhang et al., "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
2017.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from structured_obs.distributions import base
from structured_obs.models import encoder_decoder, observation, vae
from structured_obs.models.base import Traits
from structured_obs.models.kind import PRIOR, Kind, Setting
from structured_obs.models.networks import unet
from structured_obs.models.networks.options import Norm
from structured_obs.objectives.terms import Terms
from structured_obs.option_values import Count, Positive, Widths

Array = jax.Array

NOISE = 0x6E6F6973  # folded into keys: others may draw samples with the same ones


class Options(NamedTuple):
  """Options of a denoiser."""

  features: Widths = (16, 32, 64)  # channels at each resolution, finest first, then halved
  blocks: Count = 1  # residual blocks at each resolution, down and up
  norm: Norm = 'none'
  scale: encoder_decoder.Scale = 'none'
  noise: Positive = 0.1  # standard deviation of the noise, of pixels in [-1, 1]
  blind: bool = False  # that of each image is uniform from 0 to `noise`


class Denoiser(nn.Module):
  """p(x|y) of a given family, for images y with white noise. Fields as of `vae.VAE`."""

  family: base.Family
  image: base.ImageShape
  features: tuple[int, ...] = (16, 32, 64)
  blocks: int = 1
  norm: str = 'none'
  axis_name: str | None = None
  options: observation.Options = observation.Options()
  noise: float = 0.1  # standard deviation, of pixels in [-1, 1]; with `blind` the largest one
  blind: bool = False  # draw the standard deviation of each image's noise, uniform from 0
  dtype: Any = None
  label_classes = None
  masked = False
  traits = Traits(denoises=True)

  def setup(self) -> None:
    """Makes the network; raises ValueError for a family without a mean at the image's size."""
    _check(self.family, self.image)
    self.decoder = unet.UNet(
      self.family.outputs(self.image), self.features, self.blocks, self.norm, self.axis_name, self.dtype
    )
    self.log_scale = observation.scale_parameter(self, self.options)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Reports log p(x|y) of clean images, y drawn by their keys.

    Args:
      keys: [B], one per image.
      x: [B, H, W, C], floats.
      train: whether batch norm uses the batch's statistics and updates its running ones.
    """
    predicted = self._predict(self.add_noise(keys, x), train)
    log_p = {'x': jax.vmap(self.family.log_prob)(predicted.params, x)}
    stats = observation.stats(self.family, predicted.params)
    return Terms(log_p, {}, stats, observation.images(predicted, x))

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Returns the parameters of p(x|y), each with a leading B.

    Args:
      keys: [B], of the noise that is added to images; None takes them as noisy ones.
      x: [B, H, W, C].
    """
    return self._predict(x if keys is None else self.add_noise(keys, x), train=False).params

  def add_noise(self, keys: Array, x: Array) -> Array:
    """Returns images [B, H, W, C] with the noise that the keys [B] draw."""
    vae.check_images(x, self.image)

    def one(key: Array, image: Array) -> Array:
      level_key, noise_key = jax.random.split(jax.random.fold_in(key, NOISE))
      level = jax.random.uniform(level_key, (), image.dtype) if self.blind else 1.0
      return image + self.noise * level * jax.random.normal(noise_key, image.shape, image.dtype)

    return jax.vmap(one)(keys, x)

  def _predict(self, noisy: Array, train: bool) -> observation.Predicted:
    vae.check_images(noisy, self.image)
    decoders = observation.Decoders(self.decoder)
    return observation.predict(self.family, self.options, decoders, self.log_scale, noisy, train)


def _check(family: base.Family, image: base.ImageShape) -> None:
  outputs = family.outputs(image)
  if outputs.get(observation.MEAN) != tuple(image):
    raise ValueError(
      f"A denoiser (--config.model.kind=denoiser) adds the noisy image to the family's output "
      f"'{observation.MEAN}', which this --config.likelihood.family lacks: it has {', '.join(outputs)}."
    )


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> Denoiser:
  _check(family, image)
  return Denoiser(
    family,
    image,
    options['features'],
    options['blocks'],
    options['norm'],
    setting.axis_name,
    encoder_decoder.observation_options(options, setting),
    options['noise'],
    options['blind'],
    setting.dtype,
  )


KIND = Kind(Options, _build, unused=PRIOR)
