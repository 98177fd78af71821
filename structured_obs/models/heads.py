"""Heads: the last layer of a decoder, one named output for each that the family asks for.

Letters: B batch; H W C image height, width, channels; F features.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base

Array = jax.Array


class Heads(nn.Module):
  """One linear layer for every entry of `shapes`, under that entry's name.

  An entry that begins with the image's height and width is a 1x1 convolution; any other is a dense
  layer on the features averaged over the image. Small weights and zero biases start every output near
  0, the value at which a family is a plain white distribution; they are never exactly 0, since a
  low-rank factor of 0 would have no gradient.
  """

  shapes: dict[str, base.Shape]
  scale: float = 0.1  # standard deviation of the outputs at the start, for features of unit variance

  @nn.compact
  def __call__(self, features: Array) -> dict[str, Array]:
    """Map features [B, H, W, F] to one array [B, *shape] for each name."""
    init = nn.initializers.variance_scaling(self.scale**2, 'fan_in', 'normal')
    outputs = {}
    for name, shape in self.shapes.items():
      spatial = shape[:2] == features.shape[1:3]
      source = features if spatial else jnp.mean(features, axis=(1, 2))
      width = math.prod(shape[2:] if spatial else shape)
      if width == 0:  # rank 0: nothing to predict
        outputs[name] = jnp.zeros_like(source, shape=(source.shape[0], *shape))
        continue
      layer = nn.Dense(width, kernel_init=init, name=name)
      outputs[name] = layer(source).reshape(source.shape[0], *shape)
    return outputs
