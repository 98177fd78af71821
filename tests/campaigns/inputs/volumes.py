"""NIfTI volumes: absurd heads, every dtype and scale, damage, and numbers beyond float32."""

import functools
import gzip
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.campaigns import outcomes
from tests.campaigns.inputs import folders

SHAPE = (6, 5, 4)
SOURCES = 3  # healthy volumes beside the one that is tried
DTYPES = ('u1', 'i1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8', '>i2', '>f4', '>f8')
# Fields of the head: offset in bytes, format.
DIM, DATATYPE, BITPIX, PIXDIM, OFFSET, SLOPE, QFORM, MAGIC = 40, 70, 72, 76, 108, 112, 252, 344


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case; each bad volume also where such files are to be skipped."""
  rng = np.random.default_rng(seed)
  voxels = np.random.default_rng(3).integers(50, 120, SHAPE)
  for label, content in _healthy(voxels):
    run = functools.partial(_run, content, 'odd.nii', _gray(voxels), False)
    yield outcomes.Case('volume', label, run, healthy=True)
  for label, content, name in _bad(voxels, rng):
    expected = _gray(voxels) if 'flipped' not in label else None
    run = functools.partial(_run, content, name, expected, False)
    yield outcomes.Case('volume', label, run, (name,))
    run = functools.partial(_run, content, name, None, True)
    yield outcomes.Case('volume', f'{label}, skipped', run, healthy=True)


def nifti(voxels: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> bytearray:
  """Returns the bytes of an uncompressed volume, written without a library."""
  codes = {'u1': 2, 'i2': 4, 'i4': 8, 'f4': 16, 'f8': 64,
           'i1': 256, 'u2': 512, 'u4': 768, 'i8': 1024, 'u8': 1280}  # fmt: skip
  order = '>' if voxels.dtype.byteorder == '>' else '<'
  head = bytearray(352)
  struct.pack_into(f'{order}i', head, 0, 348)
  struct.pack_into(f'{order}8h', head, DIM, voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim))
  struct.pack_into(f'{order}2h', head, DATATYPE, codes[voxels.dtype.str[1:]], 8 * voxels.itemsize)
  struct.pack_into(f'{order}8f', head, PIXDIM, *[1.0] * 8)
  struct.pack_into(f'{order}3f', head, OFFSET, 352.0, slope, intercept)
  struct.pack_into(f'{order}2h', head, QFORM, 0, 1)
  for row in range(3):
    struct.pack_into(f'{order}4f', head, 280 + 16 * row, *np.eye(4)[row])
  head[MAGIC : MAGIC + 4] = b'n+1\0'
  return head + voxels.tobytes('F')


def _run(content: bytes, name: str, expected: np.ndarray | None, skip: bool, folder: Path) -> str:
  place = folder / 'x'
  place.mkdir()
  healthy = [np.random.default_rng(k).integers(50, 120, SHAPE).astype(np.int16) for k in range(SOURCES)]
  for k, voxels in enumerate(healthy):
    (place / f'0{k}.nii').write_bytes(nifti(voxels))
  (place / name).write_bytes(content)
  found, said = folders.ingest(folder, f'nifti:{place}', skip_corrupt=skip)
  whole = np.concatenate([_gray(voxels) for voxels in healthy])
  outcomes.expect(np.array_equal(found[: len(whole)], whole), 'the healthy volumes are not as they were')
  if len(found) == len(whole):
    outcomes.expect(name in said, 'left out without a word')
    return outcomes.RIGHT if skip else outcomes.REFUSED
  if expected is None:
    return outcomes.ACCEPTED
  own = found[len(whole) :]
  same = own.shape == expected.shape and np.max(np.abs(own - expected.astype(int))) <= 1
  outcomes.expect(same, 'other gray levels')
  return outcomes.RIGHT


def _gray(voxels: np.ndarray) -> np.ndarray:
  """Returns the axial slices in gray levels, [S, H, W, 1], from the definition."""
  real = voxels.astype(np.float64)
  levels = np.round(255 * np.clip(real / np.percentile(real[real > 0], 99.5), 0, 1)).astype(np.uint8)
  return levels[:, ::-1].transpose(2, 1, 0)[..., None]


def _healthy(voxels: np.ndarray) -> Iterator[tuple[str, bytes]]:
  for dtype in DTYPES:
    yield f'dtype {dtype}', bytes(nifti(voxels.astype(dtype)))
  for exponent in (39, 41, 200, 300, -39, -41, -200, -300):
    yield f'scale 1e{exponent}', bytes(nifti(voxels * 10.0**exponent))
  for slope in (2.0, 1e-30, 1e30, 1e36):
    yield f'slope {slope:g}', bytes(nifti(voxels.astype(np.int16), slope))
  yield 'slope 0, which is none', bytes(nifti(voxels.astype(np.int16), 0.0))
  yield 'an axis of length 1 more', bytes(nifti(voxels.astype(np.int16)[..., None]))
  small = nifti(voxels.astype(np.int16))
  struct.pack_into('<4f', small, 280, *[1e-30, 0, 0, 0])
  yield 'a voxel of 1e-30 mm', bytes(small)


def _bad(voxels: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, bytes, str]]:
  whole = nifti(voxels.astype(np.int16))

  def changed(offset: int, form: str, *values: float) -> bytes:
    copy = whole.copy()
    struct.pack_into(f'<{form}', copy, offset, *values)
    return bytes(copy)

  heads = {
    'no dimensions': (DIM, 'h', 0),
    '8 dimensions': (DIM, 'h', 8),
    'a negative size': (DIM + 2, 'h', -6),
    'an absurd size': (DIM + 2, '3h', 32767, 32767, 32767),
    'a size of 0': (DIM + 2, 'h', 0),
    'a fifth axis': (DIM, '8h', 5, 6, 5, 2, 1, 2, 1, 1),
    'one slice': (DIM, '4h', 2, 6, 20, 1),
    'an unknown dtype': (DATATYPE, 'h', 9999),
    'dtype 0': (DATATYPE, 'h', 0),
    'colours': (DATATYPE, '2h', 128, 24),
    'complex numbers': (DATATYPE, '2h', 32, 64),
    'quadruple precision': (DATATYPE, '2h', 1536, 128),
    'no offset': (OFFSET, 'f', 0.0),
    'a negative offset': (OFFSET, 'f', -352.0),
    'an absurd offset': (OFFSET, 'f', 1e12),
    'an offset of NaN': (OFFSET, 'f', float('nan')),
    'an intercept of NaN': (SLOPE, '2f', 1.0, float('nan')),
    'a slope of inf': (SLOPE, '2f', float('inf'), 0.0),
    'an intercept of inf': (SLOPE, '2f', 1.0, float('inf')),
    'no directions': (280, '12f', *[0.0] * 12),
    'directions of NaN': (280, '12f', *[float('nan')] * 12),
    'two axes alike': (280, '8f', 1, 0, 0, 0, 1, 0, 0, 0),
    'no magic': (MAGIC, 'i', 0),
    'a head of 0 bytes': (0, 'i', 0),
  }
  for label, (offset, form, *values) in heads.items():
    yield label, changed(offset, form, *values), 'bad.nii'
  zipped = gzip.compress(bytes(whole))
  for _ in range(4):
    end = int(rng.integers(1, len(whole)))
    yield f'{end} of {len(whole)} bytes', bytes(whole[:end]), 'bad.nii'
    end = int(rng.integers(1, len(zipped)))
    yield f'{end} of {len(zipped)} bytes, compressed', zipped[:end], 'bad.nii.gz'
    place = int(rng.integers(10, len(zipped)))
    flipped = zipped[:place] + bytes([zipped[place] ^ 16]) + zipped[place + 1 :]
    yield f'byte {place} of the compressed', flipped, 'bad.nii.gz'
    bit = int(rng.integers(8 * 352))
    copy = whole.copy()
    copy[bit // 8] ^= 1 << bit % 8
    yield f'bit {bit} of the head flipped', bytes(copy), 'bad.nii'
  yield 'an empty file', b'', 'bad.nii'
  yield 'text', b'no volume' * 90, 'bad.nii'
  plain = io.BytesIO()
  np.save(plain, voxels)
  yield 'an array', plain.getvalue(), 'bad.nii'
  yield 'all NaN', bytes(nifti(np.full(SHAPE, np.nan))), 'bad.nii'
  yield 'all negative', bytes(nifti(-voxels.astype(np.int16))), 'bad.nii'
