"""Zip archives: members twice, encrypted, damaged, in other methods, with names that lead elsewhere."""

import functools
import io
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.campaigns import outcomes
from tests.campaigns.inputs import folders, images

LOCAL, CENTRAL = b'PK\3\4', b'PK\1\2'


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case; `skip_corrupt` must help where a member alone is bad."""
  rng = np.random.default_rng(seed)
  for label, content, check in _healthy():
    run = functools.partial(_run, content, check, False)
    yield outcomes.Case('zip archive', label, run, healthy=True)
  for label, content in _with_bad_member(rng):
    run = functools.partial(_run, content, None, False)
    yield outcomes.Case('zip archive', label, run, ('bad.png', 'x.zip'))
    run = functools.partial(_run, content, _others, True)
    yield outcomes.Case('zip archive', f'{label}, skipped', run, healthy=True)
  for label, content in _bad(rng):
    yield outcomes.Case('zip archive', label, functools.partial(_run, content, None, False), ('x.zip',))


def _run(content: bytes, check: Callable[[np.ndarray], None] | None, skip: bool, folder: Path) -> str:
  (folder / 'x.zip').write_bytes(content)
  found, _ = folders.ingest(folder, f'folder:{folder / "x.zip"}', channels=3, skip_corrupt=skip)
  if check is None:
    return outcomes.ACCEPTED
  check(found)
  return outcomes.RIGHT


def _expect(*expected: int) -> Callable[[np.ndarray], None]:
  """Returns a check that the images are those of these seeds, in any order."""

  def check(found: np.ndarray) -> None:
    wanted = sorted(folders.noise(seed).tobytes() for seed in expected)
    same = sorted(image.tobytes() for image in found) == wanted
    outcomes.expect(same, 'other images than the members')

  return check


_others = _expect(0, 1)


def _png(seed: int) -> bytes:
  return images.encoded(folders.noise(seed), 'png')


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
  """Returns the bytes of a zip archive of (name, content)."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', method) as opened, warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of two members of one name
    for name, content in members:
      opened.writestr(name, content)
  return file.getvalue()


def _changed(content: bytes, place: int) -> bytes:
  return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def _healthy() -> Iterator[tuple[str, bytes, Callable[[np.ndarray], None]]]:
  pair = (('00.png', _png(0)), ('01.png', _png(1)))
  for label, method in (('deflate', 8), ('bzip2', 12), ('lzma', 14)):
    yield label, archive(*pair, method=method), _others
  yield 'two members of one name', archive(*pair, ('01.png', _png(2))), _expect(0, 1, 2)
  yield 'absolute names', archive(('/etc/a.png', _png(0)), ('/b.png', _png(1))), _others
  yield 'names that begin with ./', archive(('./a.png', _png(0)), ('./x/b.png', _png(1))), _others
  yield 'names that begin with ../', archive(('../a.png', _png(0)), ('../../b.png', _png(1))), _others
  yield 'a folder named x.png/', archive(*pair, ('x.png/', b'')), _others
  yield 'junk in front', b'#!/bin/sh\nexit\n' + archive(*pair), _others
  yield 'names of macOS', archive(*pair, ('__MACOSX/._00.png', b'x')), _others
  yield 'backslashes', archive(('a\\00.png', _png(0)), ('a\\01.png', _png(1))), _others


def _with_bad_member(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
  """Yields archives of the images of seeds 0 and 1 and a member bad.png that has a defect."""
  pair = (('00.png', _png(0)), ('01.png', _png(1)))
  for label, method in (('stored', 0), ('deflated', 8), ('bzip2', 12), ('lzma', 14)):
    whole = archive(*pair, ('bad.png', _png(3)), method=method)
    start = whole.rindex(LOCAL) + 30 + len('bad.png')
    end = whole.index(CENTRAL)
    for _ in range(3):
      place = int(rng.integers(start, end))
      yield f'{label}, byte {place} changed', _changed(whole, place)
  whole = bytearray(archive(*pair, ('bad.png', _png(3))))
  local, central = whole.rindex(LOCAL), whole.rindex(CENTRAL)
  encrypted = whole.copy()
  encrypted[local + 6] |= 1
  encrypted[central + 8] |= 1
  yield 'encrypted', bytes(encrypted)
  for method in (9, 97, 99):
    unknown = whole.copy()
    unknown[local + 8] = unknown[central + 10] = method
    yield f'method {method}', bytes(unknown)
  shifted = whole.copy()
  shifted[central + 42 : central + 46] = (len(whole) * 2).to_bytes(4, 'little')
  yield 'member out of bounds', bytes(shifted)
  yield 'an archive within', archive(*pair, ('bad.png', archive(*pair)))


def _bad(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
  whole = archive(('00.png', _png(0)), ('01.png', _png(1)))
  yield 'empty file', b''
  yield 'no members', archive()
  yield 'no images', archive(('readme.txt', b'x'))
  yield 'a folder alone', archive(('x.png/', b''))
  yield 'text', b'no archive'
  for _ in range(4):
    end = int(rng.integers(1, len(whole)))
    yield f'{end} of {len(whole)} bytes', whole[:end]
  for _ in range(6):
    place = int(rng.integers(whole.index(CENTRAL), len(whole)))
    yield f'byte {place} of the directory', _changed(whole, place)
