"""Scaling, dequantising and augmenting one image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.data import pixels


@pytest.mark.parametrize('levels', [2, 3, 17, 42, 83, 256])
@pytest.mark.parametrize('compile_it', [False, True])
@pytest.mark.few(5)
def test_levels_map_to_unit_and_back(levels, compile_it):
  wrap = jax.jit if compile_it else (lambda function: function)
  k = np.arange(levels, dtype=np.uint8)
  x = np.asarray(wrap(lambda k: pixels.to_unit(k, levels))(k))
  assert x.dtype == np.float32
  assert x[0] == -1
  assert x[-1] == 1
  np.testing.assert_allclose(x, np.linspace(-1, 1, levels), rtol=0, atol=2e-7)
  np.testing.assert_allclose(np.diff(x), pixels.bin_width(levels), rtol=0, atol=3e-7)
  back = np.asarray(wrap(lambda x: pixels.from_unit(x, levels))(x))
  assert back.dtype == np.uint8
  assert np.array_equal(back, k)


def test_from_unit_takes_the_nearest_level_and_the_nearest_end():
  x = np.array([-7, -0.95, -0.90, 0.03, 9], np.float32)
  assert pixels.from_unit(jnp.asarray(x), 17).tolist() == [0, 0, 1, 8, 16]


def test_dequantizing_spreads_each_level_evenly_over_its_own_bin():
  levels = 17
  k = jnp.repeat(jnp.arange(levels, dtype=jnp.uint8), 2000).reshape(levels, 2000, 1)
  x = pixels.to_unit(k, levels)
  y = jax.jit(lambda key, x: pixels.dequantize(key, x, levels))(jax.random.key(0), x)
  assert y.dtype == np.float32
  assert np.array_equal(pixels.from_unit(y, levels), k)
  u = (np.asarray(y, np.float64) - np.asarray(x)) / pixels.bin_width(levels) + 0.5
  # Kolmogorov's distance of 34,000 uniform draws exceeds 1.95 / sqrt(n) once in a thousand times.
  gap = np.abs(np.sort(u.ravel()) - (np.arange(u.size) + 0.5) / u.size).max()
  assert gap < 1.95 / u.size**0.5


def _candidates(image: np.ndarray, flip: bool, shift: int) -> list[np.ndarray]:
  """Everything `augment` may make of an image, by clipped indices."""
  height, width = image.shape[:2]
  offsets = range(-shift, shift + 1)
  return [
    source[np.clip(np.arange(height) + dy, 0, height - 1)][
      :, np.clip(np.arange(width) + dx, 0, width - 1)
    ]
    for source in ([image, image[:, ::-1]] if flip else [image])
    for dy in offsets
    for dx in offsets
  ]


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('shift', [0, 1, 2])
def test_augment_reaches_all_moves_and_only_those(flip, shift):
  image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
  keys = jax.random.split(jax.random.key(1), 600)
  many = jax.jit(jax.vmap(lambda key: pixels.augment(key, jnp.asarray(image), flip, shift)))(keys)
  assert many.dtype == np.uint8
  expected = {one.tobytes() for one in _candidates(image, flip, shift)}
  assert {one.tobytes() for one in np.asarray(many)} == expected


@pytest.mark.parametrize('flip', [False, True])
def test_augment_reaches_all_turns_with_all_channels_together(flip):
  image = np.random.default_rng(0).normal(size=(4, 4, 2)).astype(np.float32)
  keys = jax.random.split(jax.random.key(1), 100)
  turn = jax.jit(jax.vmap(lambda key: pixels.augment(key, jnp.asarray(image), flip, turn=True)))
  sources = [image, image[:, ::-1]] if flip else [image]
  expected = {np.rot90(source, k).tobytes() for source in sources for k in range(4)}
  assert {one.tobytes() for one in np.asarray(turn(keys))} == expected


def test_augment_depends_on_its_key_alone():
  image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (6, 6, 1), np.uint8))
  key = jax.random.key(3)
  alone = pixels.augment(key, image, True, 2)
  batch = jax.vmap(lambda k: pixels.augment(k, image, True, 2))(
    jnp.stack([jax.random.key(9), key, jax.random.key(4)])
  )
  assert np.array_equal(batch[1], alone)


def test_wrong_types_and_numbers_are_refused():
  with pytest.raises(TypeError, match='integer levels'):
    pixels.to_unit(jnp.zeros((2, 2)))
  with pytest.raises(TypeError, match='must have real numbers; its dtype is uint8'):
    pixels.to_unit(jnp.zeros((2, 2), jnp.uint8), 0)
  with pytest.raises(ValueError, match='from 2 to 256; got 1'):
    pixels.to_unit(jnp.zeros((2, 2), jnp.uint8), 1)
  with pytest.raises(ValueError, match='shift'):
    pixels.augment(jax.random.key(0), jnp.zeros((2, 2, 1), jnp.uint8), shift=-1)
  with pytest.raises(ValueError, match='needs square images, but these are 2 pixels high'):
    pixels.augment(jax.random.key(0), jnp.zeros((2, 3, 1), jnp.uint8), turn=True)


def test_real_numbers_are_seen_as_they_are():
  x = jnp.asarray([[-3.5, 0.25], [7.0, 1e-3]], jnp.float32)
  np.testing.assert_array_equal(pixels.to_unit(x, 0), x)
