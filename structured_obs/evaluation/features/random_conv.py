"""Convolutions with random weights: textures at three scales, and where in the image they are.

Three layers of 3x3 with strides of 2 and leaky rectifiers. The features are means of the first two
layers over the image, and of the last over its quarters. They recognise no objects and hardly see white
noise; `bands` adds features that do.

Letters: B images; H W C image height, width, channels; F features; h w height and width of a layer.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.features import extractor
from structured_obs.evaluation.features.extractor import Extractor

Array = jax.Array

NAME = 'random_conv'
WIDTHS = (16, 32, 32)  # features of the layers, each halving the image
SLOPE = 0.2  # of leaky rectifiers below 0


@functools.lru_cache
def random_conv(image: ImageShape) -> Extractor:
  """Returns the extractor 'random_conv', which is the same on every machine."""
  kernels = kernels_of(image)
  return Extractor(NAME, fingerprint_of(kernels), features, maps, kernels)


def kernels_of(image: ImageShape) -> tuple[np.ndarray, ...]:
  """Returns the kernels [3, 3, inputs, outputs] of the layers."""
  rng = np.random.default_rng(0)
  sizes = (image.channels, *WIDTHS)
  return tuple(
    (rng.normal(size=(3, 3, before, after)) * np.sqrt(2 / (9 * before))).astype(np.float32)
    for before, after in zip(sizes, WIDTHS, strict=False)
  )


def fingerprint_of(kernels: Sequence[np.ndarray], constants: Sequence[float] = ()) -> str:
  """Returns the fingerprint of kernels and constants."""
  return extractor.fingerprint([*kernels, *([np.array(constants)] if constants else [])])


def maps(kernels: tuple[Array, ...], images: Array) -> tuple[Array, ...]:
  """Returns the layers [B, h, w, F] of images [B, H, W, C]."""
  y, found = images, []
  for kernel in kernels:
    y = jax.lax.conv_general_dilated(
      y, jnp.asarray(kernel, y.dtype), (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    y = jax.nn.leaky_relu(y, SLOPE)
    found.append(y)
  return tuple(found)


def features(kernels: tuple[Array, ...], images: Array) -> Array:
  """Returns the features [B, F] of images [B, H, W, C]."""
  *first, last = maps(kernels, images)
  return jnp.concatenate([*(y.mean((1, 2)) for y in first), _quarters(last)], axis=-1)


def _quarters(y: Array) -> Array:
  """Returns means over the quarters of [B, h, w, c]; for an odd size, both halves include the middle."""
  (_, height, width, _), parts = y.shape, []
  for rows in (slice(0, -(-height // 2)), slice(height // 2, None)):
    for columns in (slice(0, -(-width // 2)), slice(width // 2, None)):
      parts.append(y[:, rows, columns].mean((1, 2)))
  return jnp.concatenate(parts, axis=-1)
