"""Features of images in which they are compared: by a name, with a fingerprint of the weights.

A distance of features means nothing without the network that they are of. Every extractor has a name and
a fingerprint, the beginning of the SHA-256 of its weights, which reports show beside every number.

Letters: N images; B of them at a time; H W C image height, width, channels; F features; h w c height,
width and channels of a layer.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions.base import ImageShape
from structured_obs.objectives import perceptual

Array = jax.Array

WIDTHS = (16, 32, 32)  # features of the random convolutions, each halving the image
SLOPE = 0.2  # of leaky rectifiers, where negative


class Extractor(NamedTuple):
  """A network that images are compared in; build it once, as jit compiles anew for another one."""

  name: str
  fingerprint: str  # of its weights
  apply: Callable[[Any, Array], Array]  # (weights, images [B, H, W, C] in [-1, 1]) -> [B, F]
  # (weights, images) -> [B, h, w, c] of its layers; None: it has none to tell.
  maps: Callable[[Any, Array], tuple[Array, ...]] | None = None
  weights: Any = ()  # pytree of NumPy arrays

  def __repr__(self) -> str:
    """Returns what reports show beside a number, and all that it depends on."""
    return f'{self.name} ({self.fingerprint})'

  @property
  def static(self) -> 'Extractor':
    """It without its weights: hashable, so that it can be static under jit."""
    return self._replace(weights=())


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
  they are. They know no objects and hardly see white noise: its standard deviation must be about 0.2, of
  pixels in [-1, 1], before a kernel distance is a tenth of that of a slight blur of 8x8 digits.
  """
  rng = np.random.default_rng(0)
  sizes = (image.channels, *WIDTHS)
  kernels = tuple(
    (rng.normal(size=(3, 3, before, after)) * np.sqrt(2 / (9 * before))).astype(np.float32)
    for before, after in zip(sizes, WIDTHS, strict=False)
  )
  return Extractor('random_conv', fingerprint(kernels), _random_conv, _random_maps, kernels)


def _random_maps(kernels: tuple[Array, ...], images: Array) -> tuple[Array, ...]:
  y, found = images, []
  for kernel in kernels:
    y = jax.lax.conv_general_dilated(
      y, jnp.asarray(kernel, y.dtype), (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    y = jax.nn.leaky_relu(y, SLOPE)
    found.append(y)
  return tuple(found)


def _random_conv(kernels: tuple[Array, ...], images: Array) -> Array:
  *maps, last = _random_maps(kernels, images)
  return jnp.concatenate([*(y.mean((1, 2)) for y in maps), _quarters(last)], axis=-1)


def _quarters(y: Array) -> Array:
  """Means over the four quarters of [B, h, w, c]; both halves of an odd number have the middle one."""
  (_, height, width, _), parts = y.shape, []
  for rows in (slice(0, -(-height // 2)), slice(height // 2, None)):
    for columns in (slice(0, -(-width // 2)), slice(width // 2, None)):
      parts.append(y[:, rows, columns].mean((1, 2)))
  return jnp.concatenate(parts, axis=-1)


def of_user(
  apply: Callable[[Array], Array],
  name: str,
  weights: Iterable[np.ndarray] = (),
  maps: Callable[[Array], tuple[Array, ...]] | None = None,
) -> Extractor:
  """Returns an extractor of a network of one's own, as `compare.Request.features` takes it.

  Args:
    apply: images [B, H, W, C] in [-1, 1] -> features [B, F]; it is compiled.
    name: shown beside every number.
    weights: arrays that identify it.
    maps: images -> features [B, h, w, c] of its layers, where it has any.
  """
  layers = None if maps is None else functools.partial(_of_images, maps)
  return Extractor(name, fingerprint(weights), functools.partial(_of_images, apply), layers)


def _of_images(function: Callable[[Array], Any], weights: Any, images: Array) -> Any:
  del weights
  return function(images)


def rows(extractor: Extractor, weights: Any, images: Array) -> Array:
  """Features [B, F] of images [B, H, W, C]; for use under jit.

  Raises:
    ValueError: the extractor does not give a row of numbers an image.
  """
  found = extractor.apply(weights, images)
  if found.ndim != 2 or len(found) != len(images):
    raise ValueError(
      f"The extractor '{extractor.name}' must give one row of features an image, [{len(images)}, F]; "
      f'it gave {found.shape}.'
    )
  return found


def perceptual_distance(extractor: Extractor, weights: Any, first: Array, second: Array) -> Array:
  """Distance of images [B, H, W, C] from others in the features of every layer. [B]; under jit.

  The features of a pixel are scaled to unit length; their squared differences are summed over the
  channels and averaged over the pixels and over the layers. All channels weigh the same: the distance
  is uncalibrated, as it has not learnt from people what looks alike.

  Reference: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
  2018, equation 1, with weights of 1.
  """
  assert extractor.maps is not None
  layers, others = (extractor.maps(weights, images) for images in (first, second))
  return jax.vmap(perceptual.distance)(layers, others) / len(layers)


def extract(extractor: Extractor, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
  """Returns the features [N, F] float64 of images [N, H, W, C] in [-1, 1], so many at a time.

  Raises:
    ValueError: the extractor does not give a row of numbers an image.
  """
  images = np.asarray(images, np.float32)
  starts = range(0, len(images), batch_size)
  parts = [_rows(extractor.static, extractor.weights, images[i : i + batch_size]) for i in starts]
  return np.concatenate([np.asarray(part, np.float64) for part in parts])


@functools.partial(jax.jit, static_argnums=0)
def _rows(extractor: Extractor, weights: Any, images: Array) -> Array:
  return rows(extractor, weights, images)
