"""Gaussian blur and white noise of images, at equal squared errors.

Letters: B N images; H W C image height, width, channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

NARROWEST = 0.05  # pixels: such a blur changes nothing


def blurred(images: Array, widths: Array | float) -> Array:
  """Returns images [B, H, W, C] under a Gaussian blur. Beyond the border, an image has no pixels.

  Args:
    images: [B, H, W, C].
    widths: standard deviations in pixels, one for all images or [B].
  """
  widths = jnp.broadcast_to(jnp.asarray(widths, images.dtype), images.shape[:1])
  down, across = (_weights(size, widths) for size in images.shape[1:3])
  return jnp.einsum('bij,bjkc,blk->bilc', down, images, across, precision='highest')


def _weights(size: int, widths: Array) -> Array:
  """Returns the weight of pixel j in pixel i, [B, i, j]; rows sum to 1."""
  positions = jnp.arange(size, dtype=widths.dtype)
  squares = jnp.square(positions[:, None] - positions[None])
  width = jnp.maximum(widths, NARROWEST)[:, None, None]
  return jax.nn.softmax(-squares[None] / (2 * jnp.square(width)), axis=-1)


def width_of_error(images: np.ndarray, error: float) -> float:
  """Returns the width in pixels whose blur of images [N, H, W, C] has this mean squared error.

  At most twice the longer side of the images, for an error that no blur has.
  """
  low, high = NARROWEST, 2.0 * max(images.shape[1:3])
  measure = jax.jit(lambda width: jnp.mean(jnp.square(blurred(x, width) - x)))
  x = jnp.asarray(images, jnp.float32)
  for _ in range(20):
    middle = (low * high) ** 0.5
    low, high = (middle, high) if float(measure(jnp.float32(middle))) < error else (low, middle)
  return (low * high) ** 0.5
