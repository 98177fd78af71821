"""Files, pictures and sentences of the studio."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import files, panel, session, strokes, views
from structured_obs.data import decode, encode
from tests.applications.studio_problem import DOT, SHAPE, problem


def declared(width: int, height: int) -> bytes:
  """A PNG that declares a size, and holds no such pixels."""

  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')


def test_uploads_are_read_as_the_data_of_the_run(tmp_path: Path):
  to, deep, clear = (
    decode.Target(2, 3, 1, 'none', 'nearest'),
    tmp_path / 'deep.png',
    tmp_path / 'clear.png',
  )
  Image.fromarray(np.full((2, 3), 257 * 100, np.uint16)).save(deep)
  Image.fromarray(np.zeros((4, 6, 4), np.uint8)).save(clear)
  read = [files.from_text(files.read_upload(str(path), to)[1]) for path in (deep, clear)]
  np.testing.assert_array_equal(read[0], np.full((2, 3, 1), 100))
  np.testing.assert_array_equal(read[1], np.full((2, 3, 1), 255))  # transparent pixels are white


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('notes.txt', b'hello', 'Image notes.txt cannot be read: it is damaged, or not one of PNG'),
    ('bomb.png', declared(10_000, 10_000), '10000 x 10000 pixels, more than the limit of 25,000,000'),
    ('huge.png', declared(60_000, 60_000), 'Image huge.png cannot be read: .*[Pp]ixel|exceeds limit'),
    ('large.png', b'\x89PNG' + bytes(files.MAX_BYTES), 'more than the limit of 20 MiB'),
    ('cut.png', declared(10, 10), 'Image cut.png cannot be read'),
  ],
)
def test_uploads_that_are_refused(name: str, content: bytes, message: str, tmp_path: Path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(decode.UnreadableImage, match=message):
    files.read_upload(str(tmp_path / name), decode.Target(2, 2, 1, 'none', 'area'))


def test_kept_uploads_may_be_damaged():
  for text in ('no base64!', 'AAAA'):
    with pytest.raises(decode.UnreadableImage):
      files.from_text(text)
  page = session.Session(('upload:gone',))
  with pytest.raises(ValueError, match='upload it again'):
    desks.find(problem(), page)


def test_exports_come_back():
  frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
  with Image.open(io.BytesIO(files.animation([*frames], 'webp'))) as opened:
    assert getattr(opened, 'n_frames', 1) == 4  # there and back
    opened.seek(2)
    shown = np.asarray(opened.convert('RGB'))
  np.testing.assert_array_equal(shown[::64, ::64][:4], frames[2][:, : shown.shape[1] // 64 + 1][:, :5])
  with np.load(io.BytesIO(files.arrays({'x': frames})), allow_pickle=False) as arrays:
    np.testing.assert_array_equal(arrays['x'], frames)
  with pytest.raises(TypeError, match='not an array of numbers'):
    files.arrays({'x': np.array([object()])})
  with pytest.raises(ValueError, match='webp, gif'):
    encode.animation([frames[0]], 'exe')


# The page's data


def test_a_panel_escapes_names_and_shares_scales():
  image = np.ones((2, 2, 1), np.float32)
  shown = {
    name: views.View((views.Picture('spread', factor * image, 'size'),), image[None], note='a < b')
    for name, factor in (('<script>', 1), ('b', 2))
  }
  found = panel.panel(shown)
  assert '<script>' not in found
  assert found.count('&lt;script&gt;') == 1
  assert found.count('spread (0 to 2)') == 4
  half, whole = (panel.levels(view.pictures[0], 2) for view in shown.values())
  assert (half != whole).any()
  names = {*panel.arrays(shown)}
  assert names == {'<script>/spread', '<script>/frames', 'b/spread', 'b/frames'}
  with Image.open(io.BytesIO(panel.sheet(shown))) as opened:
    assert opened.format == 'PNG'


def test_a_canvas_shows_cells_and_sentences_say_what_is_implausible():
  painting = strokes.paint([DOT], SHAPE)
  found = panel.canvas(np.zeros(SHAPE), painting, 3, (0, 1))
  assert found['cells'] == '00000001000000000000'
  assert (found['height'], found['width'], found['number'], found['mark']) == (4, 5, 3, [0, 1])
  assert 'plausible: 1.0 standard' in panel.about(painting, 1.0)
  assert 'so-warning' in panel.about(painting, 100.0)
  assert '10.0 standard deviations' in panel.about(painting, 100.0)
  assert 'not finite' in panel.about(painting, float('nan'))
