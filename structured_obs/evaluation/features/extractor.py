"""Feature networks that compare images, each with a name and a fingerprint of its weights.

A distance between features is meaningless without their network. Every extractor therefore has a name
and a fingerprint, the beginning of the SHA-256 of its weights, and reports show both beside every
number.

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
SLOPE = 0.2  # of leaky rectifiers below 0


class Extractor(NamedTuple):
  """A network whose features compare images; build it once, because jit recompiles for a new one."""

  name: str
  fingerprint: str  # of its weights
  apply: Callable[[Any, Array], Array]  # (weights, images [B, H, W, C] in [-1, 1]) -> [B, F]
  # (weights, images) -> [B, h, w, c] of its layers; None if it does not return layers.
  maps: Callable[[Any, Array], tuple[Array, ...]] | None = None
  weights: Any = ()  # pytree of NumPy arrays

  def __repr__(self) -> str:
    """Returns what reports show beside a number, and all that the number depends on."""
    return f'{self.name} ({self.fingerprint})'

  @property
  def static(self) -> 'Extractor':
    """The extractor without its weights: hashable, so that it can be static under jit."""
    return self._replace(weights=())


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
  """Returns the first 12 hexadecimal digits of the SHA-256 of arrays, as float32."""
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(np.ascontiguousarray(array, np.float32).tobytes())
  return digest.hexdigest()[:12]


@functools.lru_cache
def random_conv(image: ImageShape) -> Extractor:
  """Returns convolutions with random weights, which need no file and are the same on every machine.

  Three layers of 3x3 with strides of 2 and leaky rectifiers. The features are means of the first two
  layers over the image, and of the last over its quarters: textures at three scales, and where they
  are. They do not recognise objects and hardly see white noise: its standard deviation must be about
  0.2, of pixels in [-1, 1], before a kernel distance is a tenth of that of a slight blur of 8x8 digits.
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
  """Returns means over the quarters of [B, h, w, c]; for an odd size, both halves include the middle."""
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
  """Returns an extractor with a user's network, for `compare.Request.features`.

  Args:
    apply: images [B, H, W, C] in [-1, 1] -> features [B, F]; it is compiled.
    name: shown beside every number.
    weights: arrays that identify it.
    maps: images -> features [B, h, w, c] of its layers, if available.
  """
  layers = None if maps is None else functools.partial(_of_images, maps)
  return Extractor(name, fingerprint(weights), functools.partial(_of_images, apply), layers)


def _of_images(function: Callable[[Array], Any], weights: Any, images: Array) -> Any:
  del weights
  return function(images)


def rows(extractor: Extractor, weights: Any, images: Array) -> Array:
  """Returns features [B, F] of images [B, H, W, C]; for use under jit.

  Args:
    extractor: of the features.
    weights: of the extractor.
    images: in [-1, 1].

  Raises:
    ValueError: the extractor does not return one row of numbers per image.
  """
  found = extractor.apply(weights, images)
  if found.ndim != 2 or len(found) != len(images):
    raise ValueError(
      f"The extractor '{extractor.name}' must return one row of features per image, [{len(images)}, F]; "
      f'it returned {found.shape}.'
    )
  return found


def perceptual_distance(extractor: Extractor, weights: Any, first: Array, second: Array) -> Array:
  """Returns distances between images [B, H, W, C] in the features of every layer. [B]; under jit.

  The features of a pixel are scaled to unit length. Their squared differences are summed over channels
  and averaged over pixels and layers. All channels have equal weight: the distance is uncalibrated,
  because it has not learnt people's judgements.

  Args:
    extractor: with maps.
    weights: of the extractor.
    first: [B, H, W, C] in [-1, 1].
    second: the same shape.

  Reference: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
  2018, equation 1, with weights of 1.
  """
  assert extractor.maps is not None
  layers, others = (extractor.maps(weights, images) for images in (first, second))
  return jax.vmap(perceptual.distance)(layers, others) / len(layers)


def extract(extractor: Extractor, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
  """Returns the features [N, F] float64 of images [N, H, W, C] in [-1, 1].

  Args:
    extractor: of the features.
    images: [N, H, W, C].
    batch_size: images at a time.

  Raises:
    ValueError: the extractor does not return one row of numbers per image.
  """
  images = np.asarray(images, np.float32)
  starts = range(0, len(images), batch_size)
  parts = [_rows(extractor.static, extractor.weights, images[i : i + batch_size]) for i in starts]
  return np.concatenate([np.asarray(part, np.float64) for part in parts])


@functools.partial(jax.jit, static_argnums=0)
def _rows(extractor: Extractor, weights: Any, images: Array) -> Array:
  return rows(extractor, weights, images)
