"""The two convolutional networks of Blur-VAE, for images of any size.

Both halve the image by 3x3 convolutions of stride 2, each followed by a normalisation and a leaky ReLU.

  'strided'     two dense layers to the posterior and two from z; every decoding block doubles the image
                by a transposed convolution of 4x4 taps and stride 2.
  'upsampling'  one dense layer on either side; every decoding block doubles the image by bilinear
                interpolation and a 3x3 convolution.

The decoder has the encoder's features in reverse and ends in a 3x3 convolution for every pixel's
outputs. Odd sizes are cropped. The last activation and the heads are those of
`mirror.emit`: features are brought to unit variance first. The mean passes a tanh that is a little
wider than [-1, 1], because the noise that dequantises a black or white image goes beyond it, where the
paper's own tanh would have to be infinite to follow.

At the paper's sizes, 64 x 64 x 3, 256 latents and batch norm, with the family 'diagonal', 'strided' of
features (64, 128, 256, 512) has 26.08 million parameters and 'upsampling' of (32, 64, 128, 256, 512)
has 7.08 million. The paper does not say how many units lie between two dense layers; here they are
twice the coarsest features, 1024.

Letters: B batch; H W C image height, width, channels; h w the same at a coarser resolution; Z latents;
F G features.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
appendix A.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.models.networks import convolutions, layers, mirror

Array = jax.Array

MEAN = 'mean'  # the output that is bounded
BOUND = 1 + 2 / 255  # bound of the mean: 1 and one gray level, so that every mean can be reached
HIDDEN = 2  # units between two dense layers, for each of the coarsest features


class Encoder(layers.Encoder):
  """Convolutions of stride 2, and one or two dense layers. `blocks` has no meaning here."""

  hidden: bool = True  # whether there are two dense layers

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps images [B, H, W, C] to [B, outputs]."""
    normalise = layers.norm_layer(self.norm, train, self.axis_name, self.dtype)
    for width in self.features:
      x = convolutions.Conv(width, (3, 3), strides=2, padding=1, dtype=self.dtype)(x)
      x = nn.leaky_relu(normalise(x))
    x = x.reshape(x.shape[0], -1)
    if self.hidden:
      x = nn.leaky_relu(nn.Dense(HIDDEN * self.features[-1], dtype=self.dtype)(x))
    return nn.Dense(self.outputs)(layers.full(x))


class Decoder(layers.Decoder):
  """Dense layers, and blocks that double; ends in one head for every output of a family."""

  hidden: bool = True  # whether there are two dense layers
  bilinear: bool = False  # whether the image is interpolated, instead of by transposed convolutions

  @nn.compact
  def __call__(self, z: Array, train: bool, image: Array | None = None) -> dict[str, Array]:
    """Maps latents [B, Z] to one array [B, *shape] for each output; see `mirror.Decoder`."""
    normalise = layers.norm_layer(self.norm, train, self.axis_name, self.dtype)
    *sizes, (height, width) = layers.resolutions(self.image, len(self.features) + 1)
    coarsest = self.features[-1]
    x = nn.leaky_relu(nn.Dense(HIDDEN * coarsest, dtype=self.dtype)(z)) if self.hidden else z
    x = nn.Dense(height * width * coarsest, dtype=self.dtype)(x)
    x = x.reshape(-1, height, width, coarsest)
    for level in reversed(range(len(self.features))):
      x = self._doubled(x, self.features[level])[:, : sizes[level][0], : sizes[level][1]]
      x = normalise(x)
      x = nn.leaky_relu(x) if level > 0 else x  # the last activation is that of `emit`
    outputs = mirror.emit(self, x, image, window=3)
    if MEAN in outputs:
      outputs[MEAN] = BOUND * jnp.tanh(outputs[MEAN] / BOUND)
    return outputs

  def _doubled(self, x: Array, features: int) -> Array:
    """Maps [B, h, w, F] to [B, 2 h, 2 w, G]."""
    if not self.bilinear:
      return TransposedConv(features, self.dtype)(x)
    batch, height, width, channels = x.shape
    x = jax.image.resize(x, (batch, 2 * height, 2 * width, channels), 'bilinear')
    return convolutions.Conv(features, (3, 3), dtype=self.dtype)(x)


class TransposedConv(nn.Module):
  """Transposed convolution of 4x4 taps and stride 2, as one product of 2x2 patches and a matrix.

  The same function of the same parameters as flax's ConvTranspose, whose derivatives XLA leaves to a
  slow loop on CPUs. A pixel of the result sees 2x2 pixels, and each of 4 such patches yields the pixels
  of one phase: rows and columns even or odd.
  """

  features: int
  dtype: Any = None  # of the product; None: that of input and parameters

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, h, w, F] to [B, 2 h, 2 w, G]."""
    (_, height, width, channels), out = x.shape, self.features
    kernel = self.param('kernel', nn.initializers.lecun_normal(), (4, 4, channels, out), jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, (out,), jnp.float32)
    if self.dtype is not None:
      x, kernel, bias = (array.astype(self.dtype) for array in (x, kernel, bias))
    # Taps 2 p + a meet the p-th pixel of the patch, and make the phase a; in both directions.
    taps = kernel.reshape(2, 2, 2, 2, channels, out).transpose(0, 2, 4, 1, 3, 5)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [x[:, p : p + height + 1, q : q + width + 1] for p in range(2) for q in range(2)]
    y = jnp.concatenate(corners, axis=-1) @ taps.reshape(4 * channels, 4 * out)
    y = y.reshape(-1, height + 1, width + 1, 2, 2, out)
    rows = jnp.stack([y[:, a : a + height, :, a] for a in range(2)], axis=2)
    both = jnp.stack([rows[:, :, :, b : b + width, b] for b in range(2)], axis=4)
    return both.reshape(-1, 2 * height, 2 * width, out) + bias[None, None, None]
