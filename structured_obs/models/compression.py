"""Compressed images y = d(x): deterministic, and on the grid of gray levels that x is on.

With a deterministic and discrete y, q(y|x) is a point mass, E log q(y|x) = 0, and -log p(y|u) is a code
length. So a down-scaled image is rounded to the levels of x, in integers: a level is the same on every
device, with every precision, and compressing costs no exactness. Halves are rounded up.

'downscale' averages windows ('area'), or wider overlapping ones with triangular weights ('bilinear',
which is anti-aliased). 'gray' keeps the size and takes the luminance 0.299 R + 0.587 G + 0.114 B.

Letters: H W C image height, width, channels; h w c those of y; n levels of gray.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, sections 3.1 and 3.2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base

Array = jax.Array

LUMINANCE = (299, 587, 114)  # thousandths of red, green and blue


class Compression(NamedTuple):
  """Definition of y; hashable. Use `make`, which checks it."""

  levels: int  # n, of x and of y
  kind: str = 'downscale'  # or 'gray'
  factor: int = 2  # of 'downscale'
  method: str = 'area'  # of 'downscale': or 'bilinear'


def make(levels: int, kind: str = 'downscale', factor: int = 2, method: str = 'area') -> Compression:
  """Returns the compression of images with this number of gray levels.

  Args:
    levels: gray levels, from 2 to 256.
    kind: 'downscale' or 'gray'.
    factor: by which an image is downscaled.
    method: one of `METHODS`, for downscaling.

  Raises:
    ValueError: an argument is invalid, which is named.
  """
  if kind == 'label':
    raise ValueError(
      "compression 'label' is not offered, since a class is not an image that a family could "
      "describe; --config.model.kind=vae with --config.data.labels=True is a model of p(x|y) with the "
      "class as y."
    )
  base.check_choice('compression', kind, ('downscale', 'gray'))
  base.check_choice('method', method, tuple(_WEIGHTS))
  if kind == 'downscale' and factor < 2:
    raise ValueError(f'factor must be at least 2, so that an image becomes smaller; got {factor}.')
  if not 2 <= levels <= 256:
    raise ValueError(
      'A compressed image needs the grid of gray levels of its images, from 2 to 256 levels; '
      f'got {levels}.'
    )
  return Compression(levels, kind, factor, method)


def compressed_shape(compression: Compression, image: base.ImageShape) -> base.ImageShape:
  """Returns the shape of y for images of this shape.

  Raises:
    ValueError: the size does not divide by the factor, or a gray image would be made gray.
  """
  if compression.kind == 'gray':
    if image.channels != 3:
      raise ValueError(
        f"compression 'gray' needs images with 3 channels, but these have {image.channels}; use "
        "'downscale'."
      )
    return image._replace(channels=1)
  factor = compression.factor
  if image.height % factor or image.width % factor:
    raise ValueError(
      f'Images that are down-scaled by {factor} must have a height and a width that divide by it; got '
      f'{image.height} x {image.width}.'
    )
  return base.ImageShape(image.height // factor, image.width // factor, image.channels)


def compress(compression: Compression, x: Array) -> Array:
  """Returns d(x): [h, w, c] of one image [H, W, C], both on the grid of levels in [-1, 1].

  Values of x between two levels are taken to the nearest one first. The result has no derivative.
  """
  shape = compressed_shape(compression, base.ImageShape(*x.shape))
  top = compression.levels - 1
  level = jnp.round((jax.lax.stop_gradient(x) + 1) * (top / 2))
  level = jnp.clip(level, 0, top).astype(jnp.int32)
  if compression.kind == 'gray':
    weighted = level * jnp.asarray(LUMINANCE, jnp.int32)[None, None]
    total = jnp.sum(weighted, axis=-1, keepdims=True, dtype=jnp.int32)
    level = _rounded_ratio(total, jnp.full_like(total, sum(LUMINANCE)))
  else:
    weights = _WEIGHTS[compression.method]
    rows, columns = (weights(size, compression.factor) for size in x.shape[:2])
    # Small integers, in as many additions as there are nonzero weights: no rounding anywhere.
    total = jnp.einsum('ai,bj,ijc->abc', jnp.asarray(rows), jnp.asarray(columns), level)
    norm = np.multiply.outer(rows.sum(axis=1), columns.sum(axis=1))[..., None]
    level = _rounded_ratio(total, jnp.asarray(norm, jnp.int32))
  assert level.shape == shape
  return _on_grid(level, top, x.dtype)


def upscale(
  compression: Compression, y: Array, image: base.ImageShape, method: str = 'bilinear'
) -> Array:
  """Returns one y [h, w, c] in the shape of x, [H, W, C], by no model: what others are compared with.

  Interpolated and taken to the nearest level, as an image file would hold it. A gray image has its
  value in every channel.

  Args:
    compression: of y.
    y: in [-1, 1].
    image: of x.
    method: 'nearest', 'bilinear' or 'cubic'.
  """
  large = jax.image.resize(y, (image.height, image.width, y.shape[-1]), method)
  return jnp.broadcast_to(base.round_to_levels(large, compression.levels), tuple(image))


def _on_grid(level: Array, top: int, dtype: jnp.dtype) -> Array:
  """Returns integer levels in [-1, 1], exactly -1 and 1 at the ends."""
  x = (2 * level - top).astype(dtype) / top
  # XLA multiplies by 1 / top instead, which may miss 1 by an ulp.
  return jnp.where(level == 0, -1.0, jnp.where(level == top, 1.0, x)).astype(dtype)


def _rounded_ratio(total: Array, norm: Array) -> Array:
  """Returns total / norm of integers >= 0, rounded, halves up."""
  return (2 * total + norm) // (2 * norm)


def _area(size: int, factor: int) -> np.ndarray:
  """Returns which pixels each window has. [size / factor, size] int32."""
  return np.repeat(np.eye(size // factor, dtype=np.int32), factor, axis=1)


def _triangle(size: int, factor: int) -> np.ndarray:
  """Returns twice the distance of each pixel's centre from the triangle's foot.

  [size / factor, size] int32.
  """
  centres = (2 * np.arange(size // factor) + 1) * factor  # in half pixels
  distance = np.abs(centres[:, None] - (2 * np.arange(size) + 1)[None])
  return np.maximum(2 * factor - distance, 0).astype(np.int32)


_WEIGHTS: dict[str, Callable[[int, int], np.ndarray]] = {'area': _area, 'bilinear': _triangle}
METHODS = tuple(_WEIGHTS)  # of 'downscale'
