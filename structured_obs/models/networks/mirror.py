"""Convolutional encoder and decoder for images of any size, one pixel wide or odd ones too.

Letters: B batch; H W C image height, width, channels; Z latents; F features.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.models.networks import convolutions, layers
from structured_obs.models.networks.heads import Heads

Array = jax.Array


class Encoder(layers.Encoder):
  """Residual blocks at every resolution, halved in between, and two dense layers at the end."""

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps images [B, H, W, C] to [B, outputs]."""
    for level, width in enumerate(self.features):
      stride = 1 if level == 0 else 2
      x = x if self.blocks or level == 0 else nn.silu(x)
      x = convolutions.Conv(width, (3, 3), strides=stride, dtype=self.dtype)(x)
      for _ in range(self.blocks):
        x = layers.ResidualBlock(self.norm, self.axis_name, self.dtype)(x, train)
    x = nn.silu(x).reshape(x.shape[0], -1)
    x = nn.silu(nn.Dense(4 * self.features[-1], dtype=self.dtype)(x))
    return nn.Dense(self.outputs)(layers.full(x))


class Decoder(layers.Decoder):
  """Mirror of `Encoder`, ending in one head for every output of a family."""

  @nn.compact
  def __call__(self, z: Array, train: bool, image: Array | None = None) -> dict[str, Array]:
    """Maps latents [B, Z] to one array [B, *shape] for each output.

    Args:
      z: [B, Z].
      train: whether batch norm uses the batch's statistics and updates its running ones.
      image: [B, H, W, C], seen beside the features after the last resolution; None for none.
    """
    sizes = layers.resolutions(self.image, len(self.features))
    (height, width), coarsest = sizes[-1], self.features[-1]
    x = nn.silu(nn.Dense(4 * coarsest, dtype=self.dtype)(z))
    x = nn.Dense(height * width * coarsest, dtype=self.dtype)(x).reshape(-1, height, width, coarsest)
    levels = zip(reversed(self.features), reversed(sizes), strict=True)
    for level, (channels, (height, width)) in enumerate(levels):
      if level > 0:
        # Without residual blocks there would be no other nonlinearity between the resolutions.
        x = x if self.blocks else nn.silu(x)
        x = convolutions.Conv(channels, (3, 3), dtype=self.dtype)(layers.upsample(x, height, width))
      for _ in range(self.blocks):
        x = layers.ResidualBlock(self.norm, self.axis_name, self.dtype)(x, train)
    return emit(self, x, image)


def emit(decoder: Any, x: Array, image: Array | None, window: int = 1) -> dict[str, Array]:
  """Maps features [B, H, W, F] to the outputs: the end of every decoder, called in its scope.

  A pixel's outputs depend on the features in a window of this many pixels around it. They are float32 at
  least, and so are the products of the heads: rounded to bfloat16, a mean would be off by half a gray
  level.

  Args:
    decoder: module with the fields of `layers.Decoder`.
    x: [B, H, W, F], features.
    image: [B, H, W, C], seen beside the features; None for none.
    window: pixels across.
  """
  if image is not None:
    x = jnp.concatenate([x, image.astype(x.dtype)], axis=-1)
  for _ in range(decoder.extra_layers):
    x = convolutions.Conv(decoder.features[0], (3, 3), dtype=decoder.dtype)(nn.silu(x))
  # The heads read features of about unit variance, so that their small weights mean what they say.
  x = nn.LayerNorm(use_bias=False, use_scale=False)(layers.full(nn.silu(x)))
  return Heads(decoder.outputs, decoder.head_scale, window, name='heads')(x)
