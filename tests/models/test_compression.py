"""Compressed images: against NumPy in exact fractions, on the grid, the same inside and outside jit."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from structured_obs.data import pixels
from structured_obs.distributions.base import ImageShape
from structured_obs.models import compression


def levels_of(shape: tuple[int, ...], levels: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, levels, shape).astype(np.uint8)


def half_up(value: Fraction) -> int:
  return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def tent(index: int, pixel: int, factor: int) -> Fraction:
  """Weight of a pixel in an anti-aliased bilinear filter, before it is normalised."""
  centre = Fraction(2 * index + 1, 2) * factor
  return max(Fraction(0), 1 - abs(Fraction(2 * pixel + 1, 2) - centre) / factor)


def oracle(image: np.ndarray, factor: int, method: str) -> np.ndarray:
  """Down-scaled levels, one output pixel after the other, in exact fractions."""
  height, width, channels = image.shape
  found = np.zeros((height // factor, width // factor, channels), int)
  for a, b, c in np.ndindex(found.shape):
    total, norm = Fraction(0), Fraction(0)
    for i, j in np.ndindex(height, width):
      if method == 'area':
        weight = Fraction(i // factor == a and j // factor == b)
      else:
        weight = tent(a, i, factor) * tent(b, j, factor)
      total, norm = total + weight * int(image[i, j, c]), norm + weight
    found[a, b, c] = half_up(total / norm)
  return found


def compressed_levels(options: compression.Compression, image: np.ndarray) -> np.ndarray:
  x = pixels.to_unit(jnp.asarray(image), options.levels)
  y = jax.jit(lambda x: compression.compress(options, x))(x)
  assert y.dtype == x.dtype
  assert y.shape == compression.compressed_shape(options, ImageShape(*image.shape))
  level = pixels.from_unit(y, options.levels)
  np.testing.assert_allclose(pixels.to_unit(level, options.levels), y, atol=1e-7)  # an ulp of 1
  return np.asarray(level, int)


@pytest.mark.parametrize('levels', [2, 17, 256])
@pytest.mark.parametrize('method', ['area', 'bilinear'])
@pytest.mark.parametrize('factor', [2, 4])
@pytest.mark.few(5)
def test_downscaling_is_exact(levels: int, method: str, factor: int):
  image = levels_of((8, 12, 3), levels)
  options = compression.make(levels, factor=factor, method=method)
  np.testing.assert_array_equal(compressed_levels(options, image), oracle(image, factor, method))


def test_bilinear_is_that_of_image_files():
  image = levels_of((32, 32, 3), 256, 1)
  options = compression.make(256, method='bilinear')
  filed = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR), int)
  assert np.abs(compressed_levels(options, image) - filed).max() <= 1  # its two passes round twice


def test_gray_is_the_luminance():
  image = levels_of((3, 5, 3), 256)
  weighted = image.astype(int) @ np.array([299, 587, 114])
  expected = [half_up(Fraction(int(value), 1000)) for value in weighted.reshape(-1)]
  found = compressed_levels(compression.make(256, 'gray'), image)
  np.testing.assert_array_equal(found.reshape(-1), expected)


def test_what_is_between_levels_goes_to_the_nearest():
  options = compression.make(17)
  image = levels_of((4, 4, 1), 17)
  x = pixels.to_unit(jnp.asarray(image), 17)
  moved = x + jnp.asarray(0.4 * 2 / 16, x.dtype)
  np.testing.assert_array_equal(compression.compress(options, moved), compression.compress(options, x))


def test_it_has_no_derivative():
  options = compression.make(256)
  x = pixels.to_unit(jnp.asarray(levels_of((4, 4, 1), 256)))
  gradient = jax.grad(lambda x: jnp.sum(compression.compress(options, x)))(x)
  np.testing.assert_array_equal(gradient, 0)


def test_upscaling_fits_and_keeps_what_is_flat():
  options, image = compression.make(256), ImageShape(8, 4, 3)
  y = pixels.to_unit(jnp.asarray(levels_of((4, 2, 3), 256)))
  nearest = compression.upscale(options, y, image, 'nearest')
  np.testing.assert_allclose(nearest, np.repeat(np.repeat(y, 2, axis=0), 2, axis=1), atol=1e-7)
  np.testing.assert_allclose(compression.compress(options, nearest), y, atol=1e-7)
  flat = jnp.full_like(y, pixels.to_unit(jnp.asarray(77, jnp.uint8)))
  large = compression.upscale(options, flat, image)
  np.testing.assert_allclose(large, jnp.full(image, flat[0, 0, 0]), atol=1e-7)
  gray = compression.upscale(compression.make(256, 'gray'), nearest[..., :1], image)
  np.testing.assert_array_equal(gray, np.repeat(nearest[..., :1], 3, axis=-1))


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'levels': 256, 'kind': 'label'}, 'a class is not an image'),
    ({'levels': 256, 'kind': 'sketch'}, 'compression must be one of downscale, gray'),
    ({'levels': 256, 'method': 'nearest'}, 'method must be one of area, bilinear'),
    ({'levels': 256, 'factor': 1}, 'factor must be at least 2'),
    ({'levels': 0}, 'needs the grid of gray levels'),
  ],
)
def test_what_cannot_be_is_refused(arguments: dict, message: str):
  with pytest.raises(ValueError, match=message):
    compression.make(**arguments)


@pytest.mark.parametrize('shape', [(7, 8, 3), (8, 6, 1)])
def test_indivisible_sizes_and_gray_images_are_refused(shape: tuple[int, int, int]):
  with pytest.raises(ValueError, match='must have a height and a width that divide by it'):
    compression.compressed_shape(compression.make(256, factor=4), ImageShape(*shape))
  if shape[-1] == 1:
    with pytest.raises(ValueError, match="use 'downscale'"):
      compression.compressed_shape(compression.make(256, 'gray'), ImageShape(*shape))
