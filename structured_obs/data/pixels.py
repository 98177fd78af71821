"""Converts images to and from the model's units, and augments them; for use inside jit and vmap.

Pixels are stored as levels k = 0 .. levels - 1. The model sees x = 2 k / (levels - 1) - 1: black is -1,
white is 1, and one level is `bin_width(levels)` = 2 / (levels - 1) wide. Dequantising, uniform noise of
one level's width around x, turns a density of x into one of the pixel values.

Images of real numbers, which only synthetic sources have, have 0 levels: they are unchanged and never
dequantised.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def bin_width(levels: int) -> float:
  """Returns the distance between neighbouring levels in [-1, 1].

  Raises:
    ValueError: unless 2 <= levels <= 256.
  """
  if not 2 <= levels <= 256:
    raise ValueError(f'levels must be from 2 to 256; got {levels}.')
  return 2 / (levels - 1)


def noise_variance(levels: int) -> float:
  """Returns the variance that dequantising adds to a pixel, in squared units of [-1, 1]."""
  return bin_width(levels) ** 2 / 12


def _check_integers(image: Array, name: str) -> None:
  if not jnp.issubdtype(image.dtype, jnp.integer):
    raise TypeError(f'{name} must have integer levels, such as uint8; its dtype is {image.dtype}.')


def _check_real(image: Array, name: str) -> None:
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise TypeError(f'{name} of 0 levels must have real numbers; its dtype is {image.dtype}.')


def to_unit(image: Array | np.ndarray, levels: int = 256) -> Array:
  """Maps levels to [-1, 1], exactly -1 and 1 at the ends; leaves real numbers unchanged.

  Args:
    image: integer levels 0 .. levels - 1, any shape, of jax or NumPy; or real numbers.
    levels: number of gray levels; 0 for real numbers.

  Returns:
    float32 of the same shape.

  Raises:
    TypeError: `image` has integers although `levels` is 0, or real numbers although it is not.
  """
  image = jnp.asarray(image)
  if levels == 0:
    _check_real(image, 'image')
    return image.astype(jnp.float32)
  _check_integers(image, 'image')
  top = round(2 / bin_width(levels))
  level = image.astype(jnp.int32)
  x = (2 * level - top).astype(jnp.float32) / top
  # XLA multiplies by 1 / top instead, which misses 1 by an ulp for some numbers of levels, such as 42.
  return jnp.where(level == 0, -1.0, jnp.where(level == top, 1.0, x))


def from_unit(x: Array, levels: int = 256) -> Array:
  """Maps [-1, 1] to the nearest level; values outside map to the nearest end. Inverse of `to_unit`.

  Args:
    x: floats, any shape; NaN gives an undefined level.
    levels: number of gray levels.

  Returns:
    uint8 of the same shape.
  """
  level = jnp.round((x + 1) / bin_width(levels))
  return jnp.clip(level, 0, levels - 1).astype(jnp.uint8)


def dequantize(key: Array, x: Array, levels: int = 256, channels: int | None = None) -> Array:
  """Adds uniform noise of one level's width, w (u - 1/2).

  The density of the result, integrated over a level's width, is the probability of the level.

  Args:
    key: one jax.random.key.
    x: floats in [-1, 1], the image of `to_unit`.
    levels: number of gray levels.
    channels: of x [H, W, ...]; noise is added to these first ones only. None for all.

  Returns:
    as x, in [-1 - w/2, 1 + w/2], w the bin width.
  """
  if channels is not None and channels < x.shape[-1]:
    noisy = dequantize(key, x[..., :channels], levels)
    return jnp.concatenate([noisy, x[..., channels:]], axis=-1)
  noise = jax.random.uniform(key, x.shape, x.dtype, -0.5, 0.5)
  return x + bin_width(levels) * noise


def augment(key: Array, image: Array, flip: bool = False, shift: int = 0, turn: bool = False) -> Array:
  """Mirrors, turns and moves one image at random, with all its channels.

  Args:
    key: one jax.random.key.
    image: [H, W, C], of any type.
    flip: mirror left and right, with probability 1/2.
    shift: move by -shift .. shift pixels along both axes, uniformly; the edge is repeated.
    turn: turn by 0, 1, 2 or 3 right angles, uniformly; with `flip`, all 8 symmetries of the square.

  Returns:
    as `image`.

  Raises:
    ValueError: `shift` is negative, or an image to be turned is not square.
  """
  if shift < 0:
    raise ValueError(f'--config.data.shift={shift} is out of range; it must not be negative.')
  if turn and image.shape[0] != image.shape[1]:
    raise ValueError(
      f'--config.data.turn needs square images, but these are {image.shape[0]} pixels '
      f'high and {image.shape[1]} wide.'
    )
  flip_key, shift_key = jax.random.split(key)
  if flip:
    image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
  if turn:
    once, twice = jax.random.bernoulli(jax.random.fold_in(key, 2), shape=(2,))
    image = jnp.where(once, jnp.rot90(image), image)
    image = jnp.where(twice, image[::-1, ::-1], image)
  if shift:
    padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode='edge')
    row, column = jax.random.randint(shift_key, (2,), 0, 2 * shift + 1)
    image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
  return image
