"""Where the locations of srVAE begin: small images up-scaled, by interpolation and by regression.

Letters: B batch; H W C image height, width, channels; h w c those of the small image; F features.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models import compression
from structured_obs.models.compression import Compression
from structured_obs.models.networks import convolutions

Array = jax.Array

WINDOW = 5  # small pixels across, which the linear regression sees
RIDGE = 1e-3  # its penalty, of the mean square of a feature
RATE = 2.5  # how much faster than other parameters those of the network learn
LEAST_ERROR = 1e-5  # of a mean square: about that of rounding to 256 gray levels


class LinearRegression(nn.Module):
  """A linear regression of the pixels of each block on the small pixels around it.

  It is fitted to the first batch, where parameters are made, and has no gradient: steps of the size that
  suits networks would move it far, since the small pixels around a block are nearly the same.
  """

  image: base.ImageShape

  @nn.compact
  def __call__(self, y: Array, truth: Array | None = None) -> Array:
    """Maps [B, h, w, c] to [B, H, W, C]; beyond its edges y is continued by its last pixels.

    Args:
      y: small images.
      truth: [B, H, W, C], what it is fitted to where parameters are made; None makes them 0.
    """
    around = WINDOW // 2
    padded = jnp.pad(y, ((0, 0), (around, around), (around, around), (0, 0)), 'edge')
    seen = jax.lax.conv_general_dilated_patches(
      jnp.moveaxis(padded, -1, 1), (WINDOW, WINDOW), (1, 1), 'VALID', precision=jax.lax.Precision.HIGHEST
    )
    seen = jnp.moveaxis(seen, 1, -1)
    seen = jnp.concatenate([seen, jnp.ones_like(seen[..., :1])], axis=-1)

    def fit(_: Array) -> Array:
      if truth is None:
        return jnp.zeros((seen.shape[-1], _of_a_block(y, self.image)), seen.dtype)
      blocks = _to_blocks(truth, y)
      return _ridge_regression(seen.reshape(-1, seen.shape[-1]), blocks.reshape(-1, blocks.shape[-1]))

    weights = jax.lax.stop_gradient(self.param('weights', fit))
    return _of_blocks(jnp.matmul(seen, weights, precision='highest'), self.image)


class Regression(nn.Module):
  """A linear regression, and a residual network for what it leaves; the network begins at nothing."""

  image: base.ImageShape
  features: int = 32
  blocks: int = 2
  dtype: Any = jnp.float32  # of the network's products, but the last one

  @nn.compact
  def __call__(self, y: Array, truth: Array | None = None) -> Array:
    """Maps [B, h, w, c] to [B, H, W, C].

    Args:
      y: small images.
      truth: [B, H, W, C], what the regression is fitted to where parameters are made.
    """
    layer = nn.initializers.variance_scaling(1 / RATE**2, 'fan_in', 'truncated_normal')

    def convolve(x: Array, features: int, name: str, last: bool = False) -> Array:
      kernel = nn.initializers.zeros if last else layer
      dtype = jnp.float32 if last else self.dtype
      return RATE * convolutions.Conv(features, (3, 3), kernel_init=kernel, dtype=dtype, name=name)(x)

    x = convolve(y, self.features, 'first')
    for block in range(self.blocks):
      inner = convolve(convolutions.elu(x), self.features, f'inner_{block}')
      x = x + convolve(convolutions.elu(inner), self.features, f'outer_{block}') / 2
    found = convolve(convolutions.elu(x), _of_a_block(y, self.image), 'last', last=True)
    return LinearRegression(self.image, name='linear')(y, truth) + _of_blocks(found, self.image)


class Start(nn.Module):
  """Small images up-scaled by bicubic interpolation and, if learnt, a regression of what that leaves."""

  compression: Compression
  image: base.ImageShape
  learnt: bool
  features: int = 32
  blocks: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, y: Array, truth: Array | None = None) -> Array:
    """Maps [B, h, w, c] to [B, H, W, C].

    Args:
      y: small images.
      truth: [B, H, W, C], what the regression is fitted to where parameters are made.
    """
    upscale = lambda one: compression.upscale(self.compression, one, self.image, 'cubic')  # noqa: E731
    large = jax.vmap(upscale)(y)
    if not self.learnt:
      return large
    learnt = Regression(self.image, self.features, self.blocks, self.dtype, name='regression')
    return large + learnt(y, None if truth is None else truth - large)


def learning(x: Array, begun: Array | None) -> Array:
  """Returns 0 for each image, with the derivative that a start learns from. [B].

  It is that of the log density of independent pixels, each image's of its best variance, which is
  proportional to the peak signal-to-noise ratio.

  Args:
    x: [B, H, W, C].
    begun: of the same shape, or None where there is no start.
  """
  if begun is None:
    return jnp.zeros(len(x), x.dtype)
  error = jnp.mean(jnp.square(x - begun), axis=(1, 2, 3))
  score = -0.5 * x[0].size * jnp.log(error + LEAST_ERROR)
  return score - jax.lax.stop_gradient(score)


def _of_a_block(y: Array, image: base.ImageShape) -> int:
  """Returns how many numbers of the image a small pixel stands for."""
  return image.size // (y.shape[1] * y.shape[2])


def _to_blocks(x: Array, y: Array) -> Array:
  """Cuts images [B, H, W, C] into [B, h, w, numbers of a block]."""
  batch, height, width, channels = x.shape
  h, w = y.shape[1:3]
  return jnp.swapaxes(x.reshape(batch, h, height // h, w, width // w, channels), 2, 3).reshape(
    batch, h, w, -1
  )


def _of_blocks(blocks: Array, image: base.ImageShape) -> Array:
  """Puts images [B, H, W, C] together from [B, h, w, numbers of a block]."""
  batch, h, w, _ = blocks.shape
  cut = blocks.reshape(batch, h, w, image.height // h, image.width // w, image.channels)
  return jnp.swapaxes(cut, 2, 3).reshape(batch, *image)


def _ridge_regression(seen: Array, wanted: Array) -> Array:
  """Returns the weights [F, K] from features [N, F] to values [N, K]."""
  gram = jnp.matmul(seen.T, seen, precision='highest')
  moments = jnp.matmul(seen.T, wanted, precision='highest')
  penalty = RIDGE * jnp.trace(gram) / len(gram)
  factor = jax.scipy.linalg.cho_factor(gram + penalty * jnp.eye(len(gram), dtype=gram.dtype))
  return jax.scipy.linalg.cho_solve(factor, moments)
