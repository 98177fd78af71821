"""Image files: cut, flipped, foreign, enormous, no files at all, oddly tagged, of every mode."""

import functools
import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.campaigns import outcomes
from tests.campaigns.inputs import folders

FORMATS = {'png': {}, 'jpg': {'quality': 95}, 'bmp': {}, 'webp': {'lossless': True}}
LOSSLESS = ('png', 'bmp', 'webp')
HAS_CHECKSUMS = ('png',)
FOREIGN = {
  'empty': b'',
  'text': b'this is no image at all\n' * 9,
  'zip': b'PK\5\6' + bytes(18),
  'gzip': b'\x1f\x8b\x08\0' + bytes(40),
  'pdf': b'%PDF-1.4\n1 0 obj\n<<>>\nendobj\n',
  'postscript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) run\nshowpage\n',
  'html': b'<!doctype html><title>404 Not Found</title>',
  'executable': b'\x7fELF' + bytes(60),
  'git lfs': b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
  'head alone': b'\x89PNG\r\n\x1a\n',
}


def encoded(image: Any, extension: str, **options: Any) -> bytes:
  """Returns the bytes of an image file, of an array or a picture."""
  file = io.BytesIO()
  picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
  picture.save(file, {'jpg': 'JPEG'}.get(extension, extension.upper()), **options)
  return file.getvalue()


def same(expected: np.ndarray, tolerance: int = 0) -> Callable[[np.ndarray], None]:
  """Returns a check of pixels against the expected ones."""

  def check(found: np.ndarray) -> None:
    outcomes.expect(found.shape == expected.shape, f'shape {found.shape} instead of {expected.shape}')
    error = int(np.max(np.abs(found.astype(int) - expected.astype(int))))
    outcomes.expect(error <= tolerance, f'pixels differ by up to {error}')

  return check


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case; each bad file also where such files are to be skipped."""
  rng = np.random.default_rng(seed)
  for label, name, write, check, healthy in _files(rng):
    names = (name, name.encode(errors='backslashreplace').decode())
    run = folders.beside_healthy(write, name, check)
    yield outcomes.Case('image file', label, run, names, healthy)
    if not healthy:
      yield outcomes.Case('image file', f'{label}, skipped', folders.skipped(write, name), healthy=True)


def _files(rng: np.random.Generator) -> Iterator[tuple[str, str, folders.Writer, Any, bool]]:
  """Yields (label, name, writer, check of the pixels or None, whether it must be read)."""
  yield from _damaged(rng)
  for label, content in FOREIGN.items():
    yield f'{label} named .png', 'bad.png', functools.partial(_write, content), None, False
  for extension in ('png', 'bmp', 'webp'):
    image = folders.noise(5)
    write = functools.partial(_write, encoded(image, extension, **FORMATS[extension]))
    yield f'{extension} named .jpg', 'odd.jpg', write, same(image), True
  for megapixels in (100, 170, 3000, 10**9):
    write = functools.partial(_bomb, megapixels)
    yield f'bomb of {megapixels} megapixels', 'bad.png', write, _refuse, False
  yield from _no_files()
  yield from _tagged()
  yield from _modes()
  for name in ('ä ö 画像.png', ' lead.png', '-dash.png', 'new\nline.png', 'x' * 251 + '.png', 'U.PNG',
               'a%20b.png', os.fsdecode(b'latin\xe9.png'), 'two.dots.png', "quote'\".png"):  # fmt: skip
    name = f'1{name}' if not name.startswith('x') else name
    image = folders.noise(6)
    write = functools.partial(_write, encoded(image, 'png'))
    yield f'name {name[:20]!r}', name, write, same(image), True


def _damaged(rng: np.random.Generator) -> Iterator[tuple[str, str, folders.Writer, Any, bool]]:
  for extension, options in FORMATS.items():
    image = folders.noise(4)
    whole = encoded(image, extension, **options)
    for _ in range(4):
      end = int(rng.integers(1, len(whole)))
      check = same(image) if extension in LOSSLESS else None
      write = functools.partial(_write, whole[:end])
      yield f'{extension} of {end} of {len(whole)} bytes', f'bad.{extension}', write, check, False
    for _ in range(4):
      bit = int(rng.integers(8 * len(whole)))
      flipped = bytearray(whole)
      flipped[bit // 8] ^= 1 << bit % 8
      check = same(image) if extension in HAS_CHECKSUMS else None
      write = functools.partial(_write, bytes(flipped))
      yield f'{extension} with bit {bit} flipped', f'bad.{extension}', write, check, False


def _write(content: bytes, path: Path) -> None:
  path.write_bytes(content)


def _refuse(found: np.ndarray) -> None:
  raise outcomes.Wrong(f'decoded, to {found.shape}')


def _bomb(megapixels: int, path: Path) -> None:
  """Writes a PNG whose head promises a huge image; up to 200 megapixels it keeps the promise."""
  side = int((megapixels * 1e6) ** 0.5)
  row = b'\0' + bytes(-(-side // 8))
  body = zlib.compressobj(1)
  data = b''.join([body.compress(row) for _ in range(side if megapixels < 200 else 1)])
  head = struct.pack('>2I5B', side, side, 1, 0, 0, 0, 0)
  chunks = {b'IHDR': head, b'IDAT': data + body.flush(), b'IEND': b''}
  content = b'\x89PNG\r\n\x1a\n'
  for name, chunk in chunks.items():
    content += struct.pack('>I', len(chunk)) + name + chunk + struct.pack('>I', zlib.crc32(name + chunk))
  path.write_bytes(content)


def _no_files() -> Iterator[tuple[str, str, folders.Writer, Any, bool]]:
  image = folders.noise(7)
  elsewhere = encoded(image, 'png')

  def link(path: Path) -> None:
    target = path.parent.parent / 'elsewhere.png'
    target.write_bytes(elsewhere)
    path.symlink_to(target)

  def linked_folder(path: Path) -> None:
    target = path.parent.parent / 'elsewhere'
    target.mkdir()
    (target / 'one.png').write_bytes(elsewhere)
    path.symlink_to(target)

  def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
      server.bind(path.name)
    os.chdir(here)

  yield 'a pipe', 'bad.png', os.mkfifo, _refuse, False
  yield 'a socket', 'bad.png', listening, _refuse, False
  yield 'a link to nowhere', 'bad.png', lambda path: path.symlink_to('/nowhere.png'), _refuse, False
  yield 'a link to itself', 'bad.png', lambda path: path.symlink_to(path), _refuse, False
  yield 'a link to a device', 'bad.png', lambda path: path.symlink_to('/dev/zero'), _refuse, False
  yield 'a link to an image', 'odd.png', link, same(image), True
  yield 'a link to a folder', 'odd', linked_folder, same(image), True
  yield 'a loop of folders', 'bad', lambda path: path.symlink_to(path.parent), None, False


def _exif(entries: list[tuple[int, int, int, bytes]]) -> bytes:
  """Returns an EXIF block of (tag, type, count, value); values over 4 bytes lie behind the table."""
  table, behind, start = b'', b'', 8 + 2 + 12 * len(entries) + 4
  for tag, kind, count, value in entries:
    if len(value) > 4:
      place, behind = struct.pack('<I', start + len(behind)), behind + value
    else:
      place = value.ljust(4, b'\0')
    table += struct.pack('<HHI', tag, kind, count) + place
  return b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(entries)) + table + bytes(4) + behind


def _tagged() -> Iterator[tuple[str, str, folders.Writer, Any, bool]]:
  """Yields photographs with odd EXIF, which are as good as without."""
  image = folders.noise(8)
  plain = np.asarray(Image.open(io.BytesIO(encoded(image, 'jpg', quality=95))))
  turned = [plain, plain[:, ::-1], plain[::-1, ::-1], plain[::-1], plain.transpose(1, 0, 2),
            np.rot90(plain, -1), plain[::-1, ::-1].transpose(1, 0, 2), np.rot90(plain)]  # fmt: skip
  ways = [(0x112, 3, 1, struct.pack('<H', k)) for k in range(10)]
  sideways = ways[6]
  tags = {f'orientation {k}': ([ways[k]], turned[k - 1]) for k in range(1, 9)}
  odd = {
    'resolution -1/3': (0x11A, 10, 1, struct.pack('<2i', -1, 3)),
    'resolution 1/0': (0x11A, 5, 1, struct.pack('<2I', 1, 0)),
    'resolution 0/0': (0x11A, 5, 1, struct.pack('<2I', 0, 0)),
    'resolution in words': (0x11A, 2, 7, b'72 dpi\0'),
    'resolution a NaN': (0x11A, 12, 1, struct.pack('<d', np.nan)),
    'a date of bytes': (0x132, 7, 9, b'\xff\xfe\0nodate!'),
    'an unknown type': (0x9999, 77, 1, b'\1\2\3\4'),
    'a table out of bounds': (0x8769, 4, 1, struct.pack('<I', 0x7FFFFFFF)),
    'a copyright of 20 kB': (0x8298, 2, 20000, b'c' * 20000),
  }
  tags |= {f'turned, with {label}': ([sideways, entry], turned[5]) for label, entry in odd.items()}
  tags |= {
    'orientation 0': ([ways[0]], plain),
    'orientation 9': ([ways[9]], plain),
    'orientation in words': ([(0x112, 2, 4, b'top\0')], plain),
    'no entries': ([], plain),
  }
  for label, (entries, expected) in tags.items():
    write = functools.partial(_write, encoded(image, 'jpg', quality=95, exif=_exif(entries)))
    yield f'EXIF: {label}', 'odd.jpg', write, same(expected), True
  for label, block in (('garbage', b'Exif\0\0' + bytes(range(256))), ('cut', _exif([sideways])[:15])):
    write = functools.partial(_write, encoded(image, 'jpg', quality=95, exif=block))
    yield f'EXIF: {label}', 'odd.jpg', write, same(plain), True


def _modes() -> Iterator[tuple[str, str, folders.Writer, Any, bool]]:
  """Yields an image of every mode, whose gray value is known or whose hidden colour must stay hidden."""

  def flat(*values: int) -> Callable[[np.ndarray], None]:
    return same(np.broadcast_to(np.array(values or (0, 0, 0), np.uint8), (folders.SIZE,) * 2 + (3,)), 2)

  def hides(found: np.ndarray) -> None:
    outcomes.expect(not np.all(found == (255, 0, 0)), 'a transparent pixel shows its hidden colour')

  size = (folders.SIZE, folders.SIZE)
  gray16 = np.full(size, 100 * 257)
  palette = Image.new('P', size, 1)
  palette.putpalette([0, 0, 0, 10, 20, 30])
  pictures = {
    '1': (Image.new('1', size, 1), 'png', flat(255, 255, 255)),
    'L': (Image.new('L', size, 77), 'png', flat(77, 77, 77)),
    'LA': (Image.new('LA', size, (77, 255)), 'png', flat(77, 77, 77)),
    'P': (palette, 'png', flat(10, 20, 30)),
    'RGBA': (Image.new('RGBA', size, (10, 20, 30, 255)), 'png', flat(10, 20, 30)),
    'RGBA, transparent': (Image.new('RGBA', size, (255, 0, 0, 0)), 'png', hides),
    'I;16': (Image.fromarray(gray16.astype(np.uint16)), 'png', flat(100, 100, 100)),
    'CMYK': (Image.new('CMYK', size, (0, 0, 0, 155)), 'jpg', flat(100, 100, 100)),
    'YCbCr': (Image.new('YCbCr', size, (100, 128, 128)), 'jpg', flat(100, 100, 100)),
    'L in webp': (Image.new('L', size, 77), 'webp', flat(77, 77, 77)),
    'L in bmp': (Image.new('L', size, 77), 'bmp', flat(77, 77, 77)),
  }
  for label, (picture, extension, check) in pictures.items():
    write = functools.partial(_write, encoded(picture, extension))
    yield f'mode {label}', f'odd.{extension}', write, check, True
  real = encoded(Image.new('F', size, 0.5), 'tiff')
  yield 'mode F', 'bad.png', functools.partial(_write, real), None, False
