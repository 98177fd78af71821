"""U-Net from an image to the outputs of a family at its size, for images of any size.

Residual blocks at every resolution, halved in between by convolutions of stride 2; on the way back up,
nearest-neighbour upsampling, a convolution, the features of the same resolution added, and residual
blocks again. With one resolution nothing is halved, and the network is a plain stack of convolutions at
the image's size, as DnCNN is.

The mean is the input plus what the network emits (residual prediction): it begins near the input.

Letters: B batch; H W C image height, width, channels; F features.

Reference: Ronneberger et al., "U-Net", 2015; residual prediction of noise: Zhang et al., "Beyond a
Gaussian Denoiser", 2017 (DnCNN).
"""

from typing import Any

import flax.linen as nn
import jax

from structured_obs.distributions import base
from structured_obs.models.networks import convolutions, layers
from structured_obs.models.networks.heads import Heads

Array = jax.Array

MEAN = 'mean'  # the output that the input is added to


class UNet(nn.Module):
  """Fields as of `layers.Decoder`, which it replaces: its input is an image instead of latents."""

  outputs: dict[str, base.Shape]
  features: tuple[int, ...]  # at each resolution, finest first
  blocks: int  # residual blocks at each resolution, down and up
  norm: str  # of `layers.norm_layer`
  axis_name: str | None  # mapped axis over which batch norm averages
  dtype: Any = None  # of the products, but those of the heads; None: that of input and parameters

  @nn.compact
  def __call__(self, image: Array, train: bool) -> dict[str, Array]:
    """Maps images [B, H, W, C] to one array [B, *shape] for each output."""
    x = convolutions.Conv(self.features[0], (3, 3), dtype=self.dtype)(image)
    seen = []
    for level, width in enumerate(self.features):
      if level > 0:
        x = convolutions.Conv(width, (3, 3), strides=2, dtype=self.dtype)(nn.silu(x))
      x = self._blocks(x, train)
      seen.append(x)
    for width, beside in reversed(list(zip(self.features[:-1], seen[:-1], strict=True))):
      x = layers.upsample(nn.silu(x), *beside.shape[1:3])
      x = self._blocks(convolutions.Conv(width, (3, 3), dtype=self.dtype)(x) + beside, train)
    # Features of unit variance, as in `mirror.emit`: without a norm, what skips add up to may explode.
    x = nn.LayerNorm(use_bias=False, use_scale=False)(layers.full(nn.silu(x)))
    outputs = Heads(self.outputs, window=3, name='heads')(x)
    return {**outputs, MEAN: image + outputs[MEAN]}

  def _blocks(self, x: Array, train: bool) -> Array:
    for _ in range(self.blocks):
      x = layers.ResidualBlock(self.norm, self.axis_name, self.dtype)(x, train)
    return x
