"""Covariance network: from an image's known mean to the covariance of its noise, in any family.

Letters: B batch; H W C image height, width, channels; D = H W C; F features.

Its input is the image with its mean behind it, [B, H, W, 2 C]; it has no latents. There are two
networks. 'mlp' is that of the paper, with layers on all pixels at once. 'patch' assumes more about the
task and needs fewer examples: what is emitted at a pixel is one function of the means in a
window around it, of the image's edges there, and of a summary of the whole image.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, sections 4 and 5.1.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models import observation
from structured_obs.models.base import Traits
from structured_obs.models.kind import IMAGES, PRIOR, Kind, Setting
from structured_obs.models.networks import convolutions, layers
from structured_obs.models.networks.heads import Heads
from structured_obs.models.networks.options import Norm
from structured_obs.objectives.terms import Terms
from structured_obs.option_records import OneOf
from structured_obs.option_values import Range, Widths

Array = jax.Array

MEAN = 'mean'  # the output of a family that is known here


class PatchOptions(NamedTuple):
  """Options of layers that see one window each and a summary of the whole image."""

  window: Annotated[int, Range(1, odd=True)] = 5  # pixels across
  # Channels of the summary, at 1/2, 1/4, ...; () for none.
  context: Annotated[tuple[int, ...], Range(1)] = (32, 64)


class MlpOptions(NamedTuple):
  """Options of fully connected layers."""

  norm: Norm = 'none'
  last_norm: bool = True  # bring each image's features to mean 0 and variance 1 before the heads


class Options(NamedTuple):
  """Size of the network, and the options of the chosen one."""

  network: Annotated[str, OneOf({'patch': PatchOptions, 'mlp': MlpOptions})] = 'patch'
  features: Widths = (64, 64, 64)  # features of each layer
  window: int = 5
  context: tuple[int, ...] = (32, 64)
  norm: str = 'none'
  last_norm: bool = True


class CovarianceNetwork(nn.Module):
  """Network of the covariance of a given family, for images whose mean is known.

  It has the methods of `vae.VAE` that make sense without latents.
  """

  family: base.Family
  image: base.ImageShape
  options: Options = Options()
  axis_name: str | None = None  # mapped axis over which batch norm averages
  dtype: Any = None  # of the networks' products, but those of the heads; None: that of the images
  label_classes = None
  masked = False
  traits = Traits()

  def setup(self) -> None:
    """Makes the network; raises ValueError if the family has no mean."""
    outputs = self.family.outputs(self.image)
    if MEAN not in outputs:
      raise ValueError(
        f"A covariance network is given the mean, but this family has no output '{MEAN}'; it has "
        f'{", ".join(outputs)}.'
      )
    rest = {name: shape for name, shape in outputs.items() if name != MEAN}
    network = {'patch': PatchNetwork, 'mlp': Mlp}[self.options.network]
    self.decoder = network(rest, self.options, self.axis_name, self.dtype)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Reports the log density of each image.

    Args:
      keys: [B], not used: nothing is drawn.
      x: [B, H, W, 2 C], floats: the images, and behind them their means.
      train: whether batch norm uses the batch's statistics and updates its running ones.
    """
    del keys
    params = self._parameters(x, train)
    images = x[..., : self.image.channels]
    log_p = {'x': jax.vmap(self.family.log_prob)(params, images)}
    return Terms(log_p=log_p, log_q={}, stats=observation.stats(self.family, params))

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Returns the parameters of p(x|mean) for images with their means, [B, H, W, 2 C].

    The means alone are read.
    """
    del keys
    return self._parameters(x, train=False)

  def _parameters(self, x: Array, train: bool) -> Any:
    image, channels = self.image, self.image.channels
    stored = (image.height, image.width, 2 * channels)
    if x.ndim != 4 or x.shape[1:] != stored or not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(
        'x must be floating-point images with their means behind them, of shape (batch, '
        f'{", ".join(map(str, stored))}); got {x.dtype} of shape {x.shape}.'
      )
    mean = x[..., channels:]
    outputs = {MEAN: mean, **self.decoder(mean, train)}
    return jax.vmap(self.family.from_outputs)(outputs)


class _Network(nn.Module):
  """Fields of a network from means [B, H, W, C] to one array [B, *shape] for each output."""

  outputs: dict[str, base.Shape]
  options: Options
  axis_name: str | None
  dtype: Any = None  # of the products, but those of the heads; None: that of the means


class PatchNetwork(_Network):
  """Layers that see one window of the image each, modulated by a summary of the whole image."""

  @nn.compact
  def __call__(self, mean: Array, train: bool) -> dict[str, Array]:
    """Maps means [B, H, W, C] to one array [B, *shape] for each output."""
    del train
    window, features = self.options.window, self.options.features
    # The padding of a channel of ones tells where the image ends.
    seen = jnp.concatenate([mean, jnp.ones_like(mean[..., :1])], axis=-1)
    sides = tuple(min(window, 2 * side - 1) for side in mean.shape[1:3])
    x = convolutions.Conv(features[0], sides, dtype=self.dtype)(seen)
    if self.options.context:
      summary = nn.Dense(2 * features[0], dtype=self.dtype)(self._summary(mean))
      scale, shift = jnp.split(summary[:, None, None], 2, axis=-1)
      x = x * (1 + scale) + shift
    for width in features[1:]:
      y = nn.Dense(width, dtype=self.dtype)(nn.relu(x))
      x = x + y if width == x.shape[-1] else y
    x = nn.LayerNorm(use_bias=False, use_scale=False)(layers.full(nn.relu(x)))
    return Heads(self.outputs, name='heads')(x)

  def _summary(self, mean: Array) -> Array:
    """Returns numbers about the whole image, [B, 2 F]."""
    z = mean
    for channels in self.options.context:
      z = nn.relu(convolutions.Conv(channels, (3, 3), strides=2, dtype=self.dtype)(z))
    z = z.reshape(z.shape[0], -1)
    for _ in range(2):
      z = nn.relu(nn.Dense(2 * self.options.features[0], dtype=self.dtype)(z))
    return z


class Mlp(_Network):
  """Fully connected layers, as the paper's for splines."""

  @nn.compact
  def __call__(self, mean: Array, train: bool) -> dict[str, Array]:
    """Maps means [B, H, W, C] to one array [B, *shape] for each output."""
    normalise = layers.norm_layer(self.options.norm, train, self.axis_name, self.dtype)
    x = mean.reshape(mean.shape[0], -1)
    for width in self.options.features:
      x = nn.relu(normalise(nn.Dense(width, dtype=self.dtype)(x)))
    x = layers.full(x)
    x = nn.LayerNorm(use_bias=False, use_scale=False)(x) if self.options.last_norm else x
    return Heads(self.outputs, name='heads')(x[:, None, None])


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> CovarianceNetwork:
  return CovarianceNetwork(family, image, Options(**options), setting.axis_name, setting.dtype)


KIND = Kind(Options, _build, unused=(*PRIOR, *IMAGES), given_mean=True)
