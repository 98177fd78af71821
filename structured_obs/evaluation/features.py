"""Features of images in which sets of them are compared: by a name, with a fingerprint of the weights.

A distance of features means nothing without the network that they are of. Every extractor has a name and
a fingerprint, the beginning of the SHA-256 of its weights, to be told beside every number.

Letters: N images; B of them at a time; H W C image height, width, channels; F features.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions.base import ImageShape

Array = jax.Array

BATCH = 64  # images at a time
WIDTHS = (16, 32, 32)  # features of the random convolutions, each halving the image
SLOPE = 0.2  # of leaky rectifiers, where negative


class Extractor(NamedTuple):
  """A network that images are compared in; build it once, as jit compiles anew for another one."""

  name: str
  fingerprint: str  # of its weights
  apply: Callable[[Array], Array]  # images [B, H, W, C] in [-1, 1] -> [B, F]


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
  """First 12 hexadecimal digits of the SHA-256 of arrays, as float32."""
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(np.ascontiguousarray(array, np.float32).tobytes())
  return digest.hexdigest()[:12]


@functools.lru_cache
def random_conv(image: ImageShape) -> Extractor:
  """Convolutions of random weights, which need no file and are the same on every machine.

  Three layers of 3x3 with strides of 2 and leaky rectifiers; the features are the means over the image
  of the first two layers, and those over its quarters of the last: textures at three scales, and where
  they are. They tell blurred images from sharp ones and noise from detail, but know no objects.
  """
  rng = np.random.default_rng(0)
  sizes = (image.channels, *WIDTHS)
  kernels = tuple(
    (rng.normal(size=(3, 3, before, after)) * np.sqrt(2 / (9 * before))).astype(np.float32)
    for before, after in zip(sizes, WIDTHS, strict=False)
  )
  return Extractor('random_conv', fingerprint(kernels), functools.partial(_random_conv, kernels))


def _random_conv(kernels: tuple[np.ndarray, ...], images: Array) -> Array:
  y, found = images, []
  for kernel in kernels:
    y = jax.lax.conv_general_dilated(
      y, jnp.asarray(kernel, y.dtype), (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    y = jax.nn.leaky_relu(y, SLOPE)
    found.append(y.mean((1, 2)))
  return jnp.concatenate([*found[:-1], _quarters(y)], axis=-1)


def _quarters(y: Array) -> Array:
  """Means over the four quarters of [B, h, w, c]; both halves of an odd number have the middle one."""
  (_, height, width, _), parts = y.shape, []
  for rows in (slice(0, -(-height // 2)), slice(height // 2, None)):
    for columns in (slice(0, -(-width // 2)), slice(width // 2, None)):
      parts.append(y[:, rows, columns].mean((1, 2)))
  return jnp.concatenate(parts, axis=-1)


def of_user(apply: Callable[[Array], Array], name: str, weights: Iterable[np.ndarray] = ()) -> Extractor:
  """An extractor of one's own.

  Args:
    apply: images [B, H, W, C] in [-1, 1] -> features [B, F]; it is compiled.
    name: told beside every number.
    weights: arrays that identify it.
  """
  return Extractor(name, fingerprint(weights), apply)


def extract(extractor: Extractor, images: np.ndarray | Iterator[np.ndarray]) -> np.ndarray:
  """Features [N, F] float64 of images [N, H, W, C] in [-1, 1], or of batches of them.

  Raises:
    ValueError: the extractor does not give a row of numbers an image.
  """
  found = []
  for batch in batches(images) if isinstance(images, np.ndarray) else images:
    # Filled up to one size, for which alone the network is compiled.
    padded = np.pad(batch, ((0, max(BATCH - len(batch), 0)), *((0, 0),) * 3), mode='edge')
    features = np.asarray(_apply(extractor, jnp.asarray(padded, jnp.float32)), np.float64)
    if features.ndim != 2 or len(features) != len(padded):
      raise ValueError(
        f"The extractor '{extractor.name}' must give one row of features an image, [{len(padded)}, F]; "
        f'it gave {features.shape}.'
      )
    found.append(features[: len(batch)])
  return np.concatenate(found)


def batches(images: np.ndarray) -> Iterator[np.ndarray]:
  """Cut images [N, ...] into batches of at most BATCH."""
  for first in range(0, len(images), BATCH):
    yield np.asarray(images[first : first + BATCH])


@functools.partial(jax.jit, static_argnums=0)
def _apply(extractor: Extractor, images: Array) -> Array:
  return extractor.apply(images)
