"""Reading image files of all kinds, cropping and resizing."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structured_obs.config import DataConfig
from structured_obs.data import decode

_RGB = np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8)


def _decoded(image: Image.Image, form: str = 'PNG', **options: Any) -> np.ndarray:
  content = io.BytesIO()
  image.save(content, form, **options)
  content.seek(0)
  return decode.decode(content, 'it')


@pytest.mark.parametrize('form', ['PNG', 'BMP'])
def test_rgb_and_gray_are_exact(form):
  assert np.array_equal(_decoded(Image.fromarray(_RGB), form), _RGB)
  assert np.array_equal(_decoded(Image.fromarray(_RGB[..., 0]), form), _RGB[..., :1])


def test_webp_without_loss_is_exact():
  assert np.array_equal(_decoded(Image.fromarray(_RGB), 'WEBP', lossless=True), _RGB)


def test_transparency_is_dropped_without_blending():
  alpha = np.zeros((6, 4, 1), np.uint8)
  image = Image.fromarray(np.concatenate([_RGB, alpha], -1))
  assert np.array_equal(_decoded(image), _RGB)
  gray = Image.merge('LA', [Image.fromarray(_RGB[..., 0]), Image.fromarray(alpha[..., 0])])
  assert np.array_equal(_decoded(gray), _RGB[..., :1])


@pytest.mark.parametrize('transparent', [False, True])
def test_palettes_are_looked_up(transparent):
  colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
  indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
  image = Image.fromarray(indices, 'L').convert('P')
  image.putdata(indices.ravel().tolist())
  image.putpalette(colours.ravel().tolist())
  options: dict[str, Any] = {'transparency': bytes([0, 255])} if transparent else {}
  assert np.array_equal(_decoded(image, **options), colours[indices])


def test_16_bits_are_scaled_to_8():
  values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
  expected = np.round(values * (255 / 65535)).astype(np.uint8)
  assert np.array_equal(_decoded(Image.fromarray(values))[..., 0], expected)


def test_one_bit_becomes_black_and_white():
  bits = np.array([[True, False, True]])
  assert _decoded(Image.fromarray(bits))[..., 0].tolist() == [[255, 0, 255]]


def test_exif_orientation_is_honoured():
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees clockwise
  turned = _decoded(Image.fromarray(_RGB), exif=exif)
  assert np.array_equal(turned, np.rot90(_RGB, -1))


def _truncated() -> bytes:
  content = io.BytesIO()
  Image.fromarray(np.repeat(_RGB, 20, 0)).save(content, 'JPEG')
  return content.getvalue()[:-60]


_EMPTY_PNG = b'\x89PNG\r\n\x1a\n' + bytes(40)


@pytest.mark.parametrize('content', [b'', b'not an image', _truncated(), _EMPTY_PNG])
def test_damaged_files_are_named(content):
  with pytest.raises(decode.UnreadableImage, match=r'Image cat\.png cannot be read: .'):
    decode.decode(io.BytesIO(content), 'cat.png')


def test_floating_point_images_are_refused():
  content = io.BytesIO()
  Image.fromarray(np.ones((2, 2), np.float32)).save(content, 'TIFF')
  with pytest.raises(decode.UnreadableImage, match='unknown range'):
    decode.decode(content, 'x')


def _target(**fields) -> decode.Target:
  return decode.target(DataConfig(**fields))


def test_area_averages_whole_blocks():
  image = np.random.default_rng(1).integers(0, 256, (8, 12, 3), np.uint8)
  small = decode.fit(image, _target(height=4, width=6))
  blocks = image.reshape(4, 2, 6, 2, 3).mean((1, 3))
  assert np.abs(small - blocks).max() <= 1  # Pillow rounds once along each axis


def test_the_crop_is_the_largest_centred_window():
  image = np.random.default_rng(2).integers(0, 256, (11, 6, 1), np.uint8)
  # A square target takes rows 2 .. 7 of 11 x 6, and does not resize.
  assert np.array_equal(decode.fit(image, _target(height=6, width=6)), image[2:8])
  wide = decode.fit(image.transpose(1, 0, 2), _target(height=6, width=6))
  assert np.array_equal(wide, image.transpose(1, 0, 2)[:, 2:8])


def test_without_a_crop_the_whole_image_is_stretched():
  image = np.zeros((8, 4, 1), np.uint8)
  image[4:] = 200
  stretched = decode.fit(image, _target(height=4, width=4, crop='none'))
  assert (stretched[:2] == 0).all()
  assert (stretched[2:] == 200).all()


def test_gray_and_rgb_and_enlarging():
  gray = decode.fit(_RGB, _target(channels=1))
  weights = np.array([0.299, 0.587, 0.114])
  assert np.abs(gray[..., 0] - _RGB @ weights).max() < 1
  assert np.array_equal(decode.fit(gray, _target(channels=3)), np.repeat(gray, 3, -1))
  large = decode.fit(gray, _target(height=12, width=8, resample='nearest'))
  assert np.array_equal(large, gray.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(('fields', 'words'), [
    ({'height': -1}, 'data.height must not be negative, but is -1'),
    ({'limit': -5}, 'data.limit'),
    ({'channels': 2}, 'data.channels must be 1'),
    ({'crop': 'centre'}, "did you mean 'center'"),
    ({'resample': 'bicubi'}, "did you mean 'bicubic'")])
def test_impossible_targets_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    _target(**fields)
