"""Array files: every dtype and shape, odd labels and names, damage, and what is no .npz file at all."""

import functools
import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs.data import prepare
from tests.campaigns import outcomes
from tests.campaigns.inputs import folders

LEVELS = np.random.default_rng(11).integers(0, 256, (5, 4, 6, 1))  # [N, H, W, C]
INTEGERS = ('u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', '>i2', '>u4', '<i8')
REALS = ('f2', 'f4', 'f8', '>f4', 'longdouble')

Check = Callable[[prepare.Prepared, str], None]  # given all that was said


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case."""
  rng = np.random.default_rng(seed)
  for label, arrays, check in _healthy():
    yield outcomes.Case('array file', label, functools.partial(_run, npz(**arrays), check), healthy=True)
  names = ('x.npz', 'x_train[0]')
  for label, arrays in _bad_images():
    yield outcomes.Case('array file', label, functools.partial(_run, npz(**arrays), None), names)
  for label, labels, expected in _labels():
    check = functools.partial(_labelled, expected)
    content = npz(image=LEVELS.astype(np.uint8), label=labels)
    run = functools.partial(_run, content, check)
    yield outcomes.Case('array file', f'labels {label}', run, ('x.npz',))
  for label, content in _damaged(rng):
    run = functools.partial(_run, content, _pixels if 'damaged' in label else None)
    yield outcomes.Case('array file', label, run, ('x.npz',))


def npz(**arrays: Any) -> bytes:
  """Returns the bytes of an .npz file."""
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def _run(content: bytes, check: Check | None, folder: Path) -> str:
  (folder / 'x.npz').write_bytes(content)
  said: list[str] = []
  prepared = prepare.prepare(folders.config(folder, f'npz:{folder / "x.npz"}'), said.append)
  if check is None:
    raise outcomes.Wrong(f'accepted as {prepared.spec.counts} of {prepared.spec.stored}')
  check(prepared, '\n'.join(said))
  return outcomes.RIGHT


def _pixels(prepared: prepare.Prepared, said: str) -> None:
  del said
  found = np.asarray(prepared.images['train'])
  outcomes.expect(np.array_equal(found, LEVELS), 'other pixels than the array')


def _split(prepared: prepare.Prepared, said: str) -> None:
  del said
  outcomes.expect(prepared.spec.counts['test'] == len(LEVELS), f'counts {prepared.spec.counts}')
  outcomes.expect(np.array_equal(prepared.images['test'], LEVELS), 'other test images than the array')


def _labelled(expected: np.ndarray | None, prepared: prepare.Prepared, said: str) -> None:
  _pixels(prepared, said)
  found: Any = prepared.labels['train']
  if found is None:
    outcomes.expect('label' in said, 'labels were left out without a word')
    return
  outcomes.expect(expected is not None, f'labels that are none were accepted, as {found}')
  same = np.array_equal(np.asarray(found).astype(object), np.asarray(expected))
  outcomes.expect(same, f'labels became {found}')


def _healthy() -> Iterator[tuple[str, dict[str, Any], Check]]:
  for name in INTEGERS + REALS:
    if not name.endswith('2') or np.dtype(name).kind != 'f':
      yield f'dtype {name}', {'image': LEVELS.astype(name)}, _pixels
  yield 'fortran order', {'image': np.asfortranarray(LEVELS.astype(np.uint8))}, _pixels
  yield 'without a channel axis', {'image': LEVELS[..., 0].astype(np.uint8)}, _pixels
  whole = LEVELS.astype(np.uint8)
  for train, test in (('x_train', 'x_test'), ('X_train', 'X_test'), ('train_images', 'test_images'),
                      ('x_train', 'X_test'), ('train', 'test')):  # fmt: skip
    yield f'{train} and {test}', {train: whole[:3], test: whole}, _split
  yield 'a name of spaces', {' my images ': whole}, _pixels


def _bad_images() -> Iterator[tuple[str, dict[str, Any]]]:
  whole = LEVELS.astype(np.uint8)
  yield 'objects', {'image': LEVELS.astype(object)}
  yield 'words', {'image': LEVELS.astype(str)}
  yield 'complex', {'image': LEVELS.astype(complex)}
  yield 'dates', {'image': LEVELS.astype('M8[s]')}
  yield 'records', {'image': np.zeros((5, 4, 6), [('r', 'u1'), ('g', 'u1')])}
  yield 'truth values', {'image': LEVELS > 100}
  fourth = np.arange(5)[:, None, None, None] == 3
  for value in (-1, 256, 2**40, -(2**40), np.nan, np.inf, -np.inf, 0.5, 1e300):
    yield f'a value of {value}', {'image': np.where(fourth, value, LEVELS)}
  yield 'from 0 to 1', {'image': LEVELS / 255}
  for shape in ((), (5,), (5, 24), (5, 4, 6, 2), (5, 4, 6, 4), (5, 2, 2, 6, 1), (0, 4, 6, 1),
                (5, 0, 6, 1), (5, 3, 4, 6), (1, 5, 4, 6, 3)):  # fmt: skip
    yield f'shape {shape}', {'image': np.zeros(shape, np.uint8)}
  yield 'no arrays', {}
  yield 'two arrays of other names', {'a': whole, 'b': whole}
  yield 'test images alone', {'x_test': whole}
  yield 'splits of two sizes', {'x_train': whole, 'x_test': np.zeros((3, 9, 9), np.uint8)}


def _labels() -> Iterator[tuple[str, Any, np.ndarray | None]]:
  """Yields (label, labels, the integers that they are, or None where they are no labels)."""
  plain = np.arange(5)
  for name in ('i1', 'u1', 'i8', 'u8', '>i4', 'f4'):
    yield f'of dtype {name}', plain.astype(name), plain.astype(object)
  yield 'of one more axis', plain[:, None], plain.astype(object)
  yield 'beyond 32 bits', plain + 2**40, (plain + 2**40).astype(object)
  yield 'beyond 31 bits', (plain + 2**31).astype(np.uint32), (plain + 2**31).astype(object)
  yield 'of 64 unsigned bits', plain.astype(np.uint64) + np.uint64(2**63), None
  yield 'negative', plain - 2, (plain - 2).astype(object)
  yield 'not whole', plain + 0.5, None
  yield 'NaN', np.full(5, np.nan), None
  yield 'objects', np.array([0, 'a', None, 2.0, 3], object), None
  yield 'words', np.array(list('abcde')), None
  yield 'too few', plain[:3], None
  yield 'too many', np.arange(9), None
  yield 'one hot', np.eye(5, dtype=int), None
  yield 'truth values', plain > 2, (plain > 2).astype(object)
  yield 'empty', np.zeros(0, int), None


class _Bomb:
  """Pickles to a call that must never happen."""

  def __reduce__(self) -> tuple[Any, tuple[str]]:
    return exec, ('raise SystemExit("a pickle was run")',)


def _damaged(rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
  whole = npz(image=LEVELS.astype(np.uint8), label=np.arange(5))
  for _ in range(6):
    end = int(rng.integers(1, len(whole)))
    yield f'damaged, {end} of {len(whole)} bytes', whole[:end]
  for _ in range(14):
    bit = int(rng.integers(8 * len(whole)))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    yield f'damaged, bit {bit} flipped', bytes(flipped)
  for label, member in (('a pickle', pickle.dumps(_Bomb())), ('text', b'hello'), ('nothing', b'')):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
      archive.writestr('image.npy', member)
    yield f'an array that is {label}', file.getvalue()
  plain = io.BytesIO()
  np.save(plain, LEVELS.astype(np.uint8))
  yield 'an .npy file', plain.getvalue()
  yield 'a pickle', pickle.dumps(_Bomb())
  yield 'an empty file', b''
  header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (999999999, 9999, 9999), }"
  huge = b'\x93NUMPY\1\0' + len(header).to_bytes(2, 'little') + header
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('image.npy', huge)
  yield 'a head that promises a huge array', file.getvalue()
