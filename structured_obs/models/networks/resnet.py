"""ResNet encoder and decoder of SOS-VAE, for images of any size.

The encoder ends in a maximum over the image, so only the decoder's first layer knows the image's size:
a transposed convolution of the whole coarsest resolution, 1x1 -> h x w. Each of the other
resolutions is entered by a residual block that halves, or that follows nearest-neighbour upsampling.
With features (64, 128, 256, 512), 2 blocks, batch norm, 128 latents and rank 25 the network has the
size of the authors': 31.0 million parameters at 218 x 178 x 3 and 21.5 at 64 x 64.

Differences from theirs: they upsample by transposed convolutions of stride 2, which leave three
quarters of what skips a block empty; each position of the coarsest resolution has a bias; the dense
layer of the posterior starts small; and the end, from the last activation to the heads, is that of
`mirror.Decoder`.

Letters: B batch; H W C image height, width, channels; h w the same at the coarsest resolution; Z
latents; F features.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, and its public code.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.models.networks import convolutions, layers, mirror

Array = jax.Array

POSTERIOR_SCALE = 0.1  # scale of the last layer: the posterior starts near the prior


class Block(nn.Module):
  """Two 3x3 convolutions beside their input, which a 1x1 convolution brings to their size."""

  features: int
  stride: int = 1
  norm: str = 'none'
  axis_name: str | None = None
  dtype: Any = None  # of the products; None: that of input and parameters

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), F]."""
    normalise = layers.norm_layer(self.norm, train, self.axis_name, self.dtype)
    y = convolutions.Conv(self.features, (3, 3), strides=self.stride, padding=1, dtype=self.dtype)(x)
    y = convolutions.Conv(self.features, (3, 3), dtype=self.dtype)(nn.relu(normalise(y)))
    if self.stride > 1 or x.shape[-1] != self.features:
      x = convolutions.Conv(self.features, (1, 1), strides=self.stride, dtype=self.dtype)(x)
    return nn.relu(x + normalise(y))


class Encoder(layers.Encoder):
  """Residual blocks at every resolution, a maximum over the image, and one dense layer."""

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps images [B, H, W, C] to [B, outputs]."""
    normalise = layers.norm_layer(self.norm, train, self.axis_name, self.dtype)
    x = nn.relu(normalise(convolutions.Conv(self.features[0], (3, 3), dtype=self.dtype)(x)))
    for level, width in enumerate(self.features):
      for block in range(self.blocks):
        stride = 2 if level > 0 and block == 0 else 1
        x = Block(width, stride, self.norm, self.axis_name, self.dtype)(x, train)
    x = nn.relu(normalise(convolutions.Conv(self.features[-1], (1, 1), dtype=self.dtype)(x)))
    init = nn.initializers.variance_scaling(POSTERIOR_SCALE**2, 'fan_in', 'normal')
    return nn.Dense(self.outputs, kernel_init=init)(layers.full(jnp.max(x, axis=(1, 2))))


class Decoder(layers.Decoder):
  """Mirror of `Encoder`, ending in one head for every output of a family. Fields as of the other one."""

  @nn.compact
  def __call__(self, z: Array, train: bool, image: Array | None = None) -> dict[str, Array]:
    """Maps latents [B, Z] to one array [B, *shape] for each output; see `mirror.Decoder`."""
    normalise = layers.norm_layer(self.norm, train, self.axis_name, self.dtype)
    sizes = layers.resolutions(self.image, len(self.features))
    # A transposed convolution of an image of one pixel is this dense layer, Z -> [h, w, Z].
    x = nn.DenseGeneral((*sizes[-1], z.shape[-1]), dtype=self.dtype)(z)
    x = nn.relu(normalise(convolutions.Conv(self.features[-1], (1, 1), dtype=self.dtype)(x)))
    for level in reversed(range(len(self.features))):
      if level < len(self.features) - 1:
        x = layers.upsample(x, *sizes[level])
        x = Block(self.features[level], 1, self.norm, self.axis_name, self.dtype)(x, train)
      for _ in range(self.blocks - (level > 0)):
        x = Block(self.features[level], 1, self.norm, self.axis_name, self.dtype)(x, train)
    x = normalise(convolutions.Conv(self.features[0], (1, 1), dtype=self.dtype)(x))
    return mirror.emit(self, x, image)
