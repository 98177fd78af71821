"""Heads: the last layer of a decoder, one named output for each that a family needs.

Letters: B batch; H W C image height, width, channels; F features.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base
from structured_obs.models.networks import convolutions

Array = jax.Array


class Heads(nn.Module):
  """One linear layer for every entry of `shapes`, under that entry's name.

  An entry that begins with the image's height and width is a convolution, and one of D (D - 1) / 2
  numbers, the columns of a strictly lower triangle, is a 1x1 one: every pixel emits its own. Any other
  is a dense layer on the features averaged over the image. Small weights and zero biases start every
  output near 0, the value at which a family is a plain white distribution; they are never exactly 0,
  since a low-rank factor of 0 would have no gradient. For a `base.Shared` shape there is no layer, but
  one array of all images that begins at 0.
  """

  shapes: dict[str, base.Shape]
  scale: float = 0.1  # standard deviation of the outputs at the start, for features of unit variance
  window: int = 1  # pixels across that a pixel's own outputs see

  @nn.compact
  def __call__(self, features: Array) -> dict[str, Array]:
    """Maps features [B, H, W, F] to one array [B, *shape] for each name."""
    init = self._init()
    outputs = {}
    for name, shape in self.shapes.items():
      if isinstance(shape, base.Shared):
        array = self.param(name, nn.initializers.zeros, tuple(shape), jnp.float32)
        outputs[name] = jnp.broadcast_to(array, (features.shape[0], *shape))
        continue
      spatial = shape[:2] == features.shape[1:3]
      source = features if spatial else jnp.mean(features, axis=(1, 2))
      width = math.prod(shape[2:] if spatial else shape)
      if width == 0:  # rank 0: nothing to predict
        outputs[name] = jnp.zeros_like(source, shape=(source.shape[0], *shape))
        continue
      order = _triangle_order(shape, features.shape[1] * features.shape[2])
      if order:
        outputs[name] = self._triangle(features, name, order)
        continue
      if spatial and self.window > 1:
        layer = convolutions.Conv(width, (self.window, self.window), kernel_init=init, name=name)
      else:
        layer = nn.Dense(width, kernel_init=init, name=name)
      outputs[name] = layer(source).reshape(source.shape[0], *shape)
    return outputs

  def _triangle(self, features: Array, name: str, order: int) -> Array:
    """Returns the columns [B, D (D - 1) / 2] of a strictly lower triangle, one after the other."""
    batch, pixels = features.shape[0], features.shape[1] * features.shape[2]
    width = order // pixels * (order - 1)
    columns = nn.Dense(width, kernel_init=self._init(), name=name)(features)
    # A column holds the later of the D - 1 other pixels first; what is left over has no place.
    pixel, step = np.nonzero(np.add.outer(np.arange(order), np.arange(order - 1)) < order - 1)
    return columns.reshape(batch, order, order - 1)[:, pixel, step]

  def _init(self) -> Any:
    return nn.initializers.variance_scaling(self.scale**2, 'fan_in', 'normal')


def _triangle_order(shape: base.Shape, pixels: int) -> int:
  """Returns D, where the shape is (D (D - 1) / 2,) with D pixels of some channels; else 0."""
  if len(shape) != 1 or pixels == 1:
    return 0
  order = round((1 + math.sqrt(1 + 8 * shape[0])) / 2)
  return order if order * (order - 1) // 2 == shape[0] and order % pixels == 0 else 0
