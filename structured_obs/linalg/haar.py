"""The orthonormal Haar transform of images of any size, over several levels, in place.

One level replaces neighbours a and b by (a + b) / sqrt 2, which stays at the even place, and
(a - b) / sqrt 2, at the odd one; first down the rows, then along the columns. The last of an odd number
has no partner and stays as it is. The next level takes the even places alone. So a coefficient lies
where its part of the image is, and a map of numbers per coefficient has the size of the image.

Letters: H W C image height, width, channels; L levels. Cost: H W C.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Array = jax.Array

BANDS = 3  # of each level: differences across columns, across rows, and across both


def forward(image: Array, levels: int) -> Array:
  """Returns the coefficients of an image [H, W, C]. [H, W, C]."""
  if levels == 0 or max(image.shape[:2]) < 2:
    return image
  low, high = _analyse(image, 0)
  (low, across), (down, both) = _analyse(low, 1), _analyse(high, 1)
  low = forward(low, levels - 1)
  return _interleave(_interleave(low, across, 1), _interleave(down, both, 1), 0)


def inverse(coefficients: Array, levels: int, squared: bool = False) -> Array:
  """Returns the image of these coefficients [H, W, C]; the inverse is the transpose. [H, W, C].

  Args:
    coefficients: [H, W, C].
    levels: L.
    squared: whether to use the squares of the transform's entries, which map the variances of
      independent coefficients to those of the pixels.
  """
  if levels == 0 or max(coefficients.shape[:2]) < 2:
    return coefficients
  rows = coefficients[0::2], coefficients[1::2]
  low, across = rows[0][:, 0::2], rows[0][:, 1::2]
  down, both = rows[1][:, 0::2], rows[1][:, 1::2]
  low = inverse(low, levels - 1, squared)
  low, high = _synthesise(low, across, 1, squared), _synthesise(down, both, 1, squared)
  return _synthesise(low, high, 0, squared)


def bands(height: int, width: int, levels: int) -> NDArray[np.int32]:
  """Returns the band of each coefficient: 3 for every level, the finest first, and 3 L for the rest.

  [H, W].
  """
  found = np.full((height, width), BANDS * levels, np.int32)
  for level in range(levels):
    step = 2**level
    if max(math.ceil(height / step), math.ceil(width / step)) < 2:
      break
    grid = found[::step, ::step]
    grid[0::2, 1::2] = BANDS * level
    grid[1::2, 0::2] = BANDS * level + 1
    grid[1::2, 1::2] = BANDS * level + 2
  return found


def _analyse(image: Array, axis: int) -> tuple[Array, Array]:
  """Returns sums and differences of pairs along an axis; a last one without a partner is a sum."""
  pairs = image.shape[axis] // 2
  even, odd = _every_other(image, axis)
  alone = jax.lax.slice_in_dim(even, pairs, even.shape[axis], axis=axis)
  even = jax.lax.slice_in_dim(even, 0, pairs, axis=axis)
  root = math.sqrt(0.5)
  return jnp.concatenate([(even + odd) * root, alone], axis), (even - odd) * root


def _synthesise(low: Array, high: Array, axis: int, squared: bool) -> Array:
  """Undoes `_analyse`."""
  pairs = high.shape[axis]
  alone = jax.lax.slice_in_dim(low, pairs, low.shape[axis], axis=axis)
  low = jax.lax.slice_in_dim(low, 0, pairs, axis=axis)
  if squared:
    even = odd = (low + high) / 2
  else:
    even, odd = (low + high) * math.sqrt(0.5), (low - high) * math.sqrt(0.5)
  return _interleave(jnp.concatenate([even, alone], axis), odd, axis)


def _every_other(image: Array, axis: int) -> tuple[Array, Array]:
  """Returns the entries at even and at odd places along an axis; there may be no odd one."""
  size = image.shape[axis]
  even = jax.lax.slice_in_dim(image, 0, size, 2, axis)
  return even, jax.lax.slice_in_dim(image, min(1, size), size, 2, axis)


def _interleave(even: Array, odd: Array, axis: int) -> Array:
  """Returns the entries of two arrays in turn along an axis; the first may have one more."""
  pairs = odd.shape[axis]
  both = jnp.stack([jax.lax.slice_in_dim(even, 0, pairs, axis=axis), odd], axis + 1)
  shape = (*even.shape[:axis], 2 * pairs, *even.shape[axis + 1 :])
  rest = jax.lax.slice_in_dim(even, pairs, even.shape[axis], axis=axis)
  return jnp.concatenate([both.reshape(shape), rest], axis)
