"""Reading image files of all kinds, cropping and resizing."""

import io
import os
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structured_obs.config import DataConfig
from structured_obs.data import decode, sources

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


def test_transparent_pixels_are_blended_with_white():
  alpha = np.random.default_rng(3).integers(0, 256, (6, 4, 1), np.uint8)
  alpha[0], alpha[1] = 0, 255
  expected = np.round(255 + alpha / 255 * (_RGB.astype(float) - 255))
  image = Image.fromarray(np.concatenate([_RGB, alpha], -1))
  assert np.array_equal(_decoded(image), expected)
  gray = Image.merge('LA', [Image.fromarray(_RGB[..., 0]), Image.fromarray(alpha[..., 0])])
  assert np.array_equal(_decoded(gray), expected[..., :1])
  opaque = Image.fromarray(np.concatenate([_RGB, np.full_like(alpha, 255)], -1))
  assert np.array_equal(_decoded(opaque), _RGB)


@pytest.mark.parametrize(
  ('pixels', 'clear'),
  [
    (_RGB, tuple(_RGB[2, 1].tolist())),
    (_RGB[..., 0], int(_RGB[2, 1, 0])),
    (_RGB[..., 0].astype(np.uint16) * 257, int(_RGB[2, 1, 0]) * 257),
  ],
)
def test_a_transparent_colour_becomes_white(pixels, clear):
  decoded = _decoded(Image.fromarray(pixels), transparency=clear)
  hidden = np.all(pixels.reshape(6, 4, -1) == clear, axis=-1)
  channels = decoded.shape[-1]
  assert hidden[2, 1]
  assert np.array_equal(decoded, np.where(hidden[..., None], 255, _RGB[..., :channels]))


@pytest.mark.parametrize('transparent', [False, True])
def test_palettes_are_looked_up(transparent):
  colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
  indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
  image = Image.fromarray(indices, 'L').convert('P')
  image.putdata(indices.ravel().tolist())
  image.putpalette(colours.ravel().tolist())
  options: dict[str, Any] = {'transparency': bytes([0, 255])} if transparent else {}
  shown = np.array([[255, 255, 255], colours[1]]) if transparent else colours
  assert np.array_equal(_decoded(image, **options), shown[indices])


def test_16_bits_are_scaled_to_8():
  values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
  expected = np.round(values * (255 / 65535)).astype(np.uint8)
  assert np.array_equal(_decoded(Image.fromarray(values))[..., 0], expected)


def test_one_bit_becomes_black_and_white():
  bits = np.array([[True, False, True]])
  assert _decoded(Image.fromarray(bits))[..., 0].tolist() == [[255, 0, 255]]


_UPRIGHT = [
  _RGB,
  _RGB[:, ::-1],
  np.rot90(_RGB, 2),
  _RGB[::-1],
  _RGB.transpose(1, 0, 2),
  np.rot90(_RGB, -1),
  np.rot90(_RGB, 2).transpose(1, 0, 2),
  np.rot90(_RGB),
]


@pytest.mark.parametrize('orientation', range(10))
def test_exif_orientation_is_honoured(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  expected = _UPRIGHT[orientation - 1] if 1 <= orientation <= 8 else _RGB
  assert np.array_equal(_decoded(Image.fromarray(_RGB), exif=exif), expected)


def _odd_exif(kind: int, value: tuple[int, int]) -> bytes:
  """Metadata that say 'turn clockwise', and a resolution of any type and value."""
  entries = struct.pack('<HHIHH', 0x112, 3, 1, 6, 0) + struct.pack('<HHII', 0x11A, kind, 1, 38)
  return b'Exif\0\0II*\0' + struct.pack('<IH', 8, 2) + entries + bytes(4) + struct.pack('<ii', *value)


@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize(
  ('exif', 'turned'),
  [
    (_odd_exif(10, (-1, 3)), True),
    (_odd_exif(5, (0, 0)), True),
    (_odd_exif(2, (72, 0)), True),
    (_odd_exif(12, (-1, -1)), True),
    (_odd_exif(99, (1, 1)), True),
    (_odd_exif(10, (1, 1))[:30], True),
    (_odd_exif(10, (1, 1))[:18], False),
    (b'Exif\0\0MM', False),
  ],
)
def test_odd_metadata_do_not_matter(form, exif, turned):
  content = io.BytesIO()
  Image.new('RGB', (6, 4), (200, 10, 10)).save(content, form, exif=exif)
  content.seek(0)
  assert decode.decode(content, 'it').shape == ((6, 4, 3) if turned else (4, 6, 3))


@pytest.mark.parametrize('form', ['GIF', 'PNG', 'TIFF'])
def test_the_first_frame_is_read_and_the_others_are_noticed(form):
  content = io.BytesIO()
  frames = [Image.new('RGB', (3, 2), colour) for colour in ('red', 'blue', 'lime')]
  frames[0].save(content, form, save_all=True, append_images=frames[1:])
  pixels, facts, _ = decode.read(io.BytesIO(content.getvalue()), 'it')
  assert facts == ('frames',)
  assert np.array_equal(pixels, np.broadcast_to([255, 0, 0], (2, 3, 3)))


def _truncated() -> bytes:
  content = io.BytesIO()
  Image.fromarray(np.repeat(_RGB, 20, 0)).save(content, 'JPEG')
  return content.getvalue()[:-60]


_EMPTY_PNG = b'\x89PNG\r\n\x1a\n' + bytes(40)


@pytest.mark.parametrize('content', [b'', b'not an image', _truncated(), _EMPTY_PNG])
def test_damaged_files_are_named(content):
  with pytest.raises(decode.UnreadableImage, match=r'Image cat\.png cannot be read: .'):
    decode.decode(io.BytesIO(content), 'cat.png')


def _bomb() -> bytes:
  content = io.BytesIO()
  Image.new('1', (10_000, 9_000)).save(content, 'PNG')
  return content.getvalue()


_EPS = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n'


@pytest.mark.parametrize(
  ('content', 'words'),
  [(_bomb(), '10000 x 9000 pixels, more than the limit of 89,478,485'), (_EPS, 'not one of PNG, JPEG')],
)
def test_too_many_pixels_and_other_formats_are_refused(content, words):
  with pytest.raises(decode.UnreadableImage, match=words):
    decode.decode(io.BytesIO(content), 'x')


def test_a_named_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / 'x.png')
  with pytest.raises(decode.UnreadableImage, match='not a regular file'):
    decode.decode(str(tmp_path / 'x.png'), 'x.png')


@pytest.mark.parametrize(
  'error',
  [
    KeyError(7),
    struct.error(),
    RecursionError('deep'),
    OSError(5, 'Input/output error'),
    AssertionError(),
    UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad'),
    Exception('a\nb'),
  ],
)
def test_any_error_of_a_decoder_names_the_file_and_the_step(error):
  reading = decode.reading('Volume a\nb', 'opened')
  words = r'^Volume a\\nb cannot be opened: .+$'
  with pytest.raises(decode.UnreadableImage, match=words) as caught, reading:
    raise error
  assert caught.value.__cause__ is error


@pytest.mark.parametrize(
  'error',
  [KeyboardInterrupt(), MemoryError(), ImportError('x'), decode.UnreadableImage('named already')],
)
def test_what_says_nothing_of_the_file_passes(error):
  with pytest.raises(type(error)) as caught, decode.reading('x'):
    raise error
  assert caught.value is error


def test_printable_names_survive_any_stream():
  name = 'caf\u00e9 \u202f\udcff\n\x1b\u2028.png'
  assert decode.printable(name) == 'caf\u00e9 \u202f\\udcff\\n\\x1b\\u2028.png'
  decode.printable(name).encode()


def test_floating_point_images_are_refused():
  content = io.BytesIO()
  Image.fromarray(np.ones((2, 2), np.float32)).save(content, 'TIFF')
  with pytest.raises(decode.UnreadableImage, match='unknown range'):
    decode.decode(content, 'x')


def _target(**fields) -> decode.Target:
  return decode.target(sources.resolve(DataConfig(**fields)))


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


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'height': -1}, 'data.height must be a whole number of at least 0, but is -1'),
    ({'limit': -5}, 'data.limit'),
    ({'channels': 2}, 'data.channels must be one of 0, 1, 3'),
    ({'crop': 'centre'}, "Did you mean 'center'"),
    ({'resample': 'bicubi'}, "Did you mean 'bicubic'"),
  ],
)
def test_impossible_targets_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    _target(**fields)
