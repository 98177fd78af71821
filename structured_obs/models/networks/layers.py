"""Building blocks of convolutional networks for images of any size.

Letters: B batch; H W image height, width; F features.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models.networks import convolutions

Array = jax.Array


def norm_layer(
  kind: str, train: bool, axis_name: str | None, dtype: Any = None
) -> Callable[[Array], Array]:
  """Returns the normalisation by name: 'none', 'group' or 'batch' (over all devices of the axis).

  Statistics are of float32 at least, whatever the dtype of the result.

  Args:
    kind: 'none', 'group' or 'batch'.
    train: whether batch norm uses the batch's statistics and updates its running ones.
    axis_name: mapped axis over which batch norm averages.
    dtype: of the result; None keeps that of the layer.
  """
  layers = {
    'none': lambda x: x,
    'group': lambda x: nn.GroupNorm(num_groups=None, group_size=min(8, x.shape[-1]))(full(x)),
    'batch': lambda x: nn.BatchNorm(use_running_average=not train, axis_name=axis_name)(full(x)),
  }
  if kind not in layers:
    raise ValueError(f'norm must be one of {", ".join(layers)}; got {kind!r}.')
  layer = layers[kind]
  return layer if dtype is None else lambda x: layer(x).astype(dtype)


def full(x: Array) -> Array:
  """Returns the same in float32, where it has less.

  What a network's last layers and everything after read.
  """
  return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions added to their input."""

  norm: str = 'none'
  axis_name: str | None = None
  dtype: Any = None  # of the products; None: that of input and parameters

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, F] to the same shape."""
    features, normalise = x.shape[-1], norm_layer(self.norm, train, self.axis_name, self.dtype)
    y = convolutions.Conv(features, (3, 3), dtype=self.dtype)(nn.silu(normalise(x)))
    y = convolutions.Conv(features, (3, 3), dtype=self.dtype)(nn.silu(normalise(y)))
    return x + y


class Encoder(nn.Module):
  """Fields of convolutional encoders, from images [B, H, W, C] to [B, outputs]."""

  outputs: int
  features: tuple[int, ...]  # at each resolution, finest first
  blocks: int  # at each resolution
  norm: str  # of `norm_layer`
  axis_name: str | None  # mapped axis over which batch norm averages
  dtype: Any = None  # of the products, but the last one; None: that of input and parameters


class Decoder(nn.Module):
  """Fields of convolutional decoders, from latents [B, Z] to one array [B, *shape] for each output."""

  image: base.ImageShape
  outputs: dict[str, base.Shape]
  features: tuple[int, ...]  # at each resolution, finest first
  blocks: int  # at each resolution
  norm: str  # of `norm_layer`
  axis_name: str | None  # mapped axis over which batch norm averages
  extra_layers: int = 0  # 3x3 convolutions at the image's size, before the heads
  head_scale: float = 0.1  # standard deviation of the outputs at the start
  dtype: Any = None  # of the products, but those of the heads; None: that of input and parameters


def halved(size: int) -> int:
  """Returns the size of an image's side at the next coarser resolution."""
  return -(-size // 2)


def resolutions(image: base.ImageShape, number: int) -> list[tuple[int, int]]:
  """Returns the height and width of an image at this number of resolutions, finest first."""
  sizes = [(image.height, image.width)]
  for _ in range(number - 1):
    sizes.append((halved(sizes[-1][0]), halved(sizes[-1][1])))
  return sizes


def upsample(x: Array, height: int, width: int) -> Array:
  """Repeats every pixel of [B, h, w, F] twice in both directions and crops to height x width.

  Args:
    x: [B, h, w, F].
    height: of the result.
    width: of the result.
  """
  x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
  return x[:, :height, :width]
