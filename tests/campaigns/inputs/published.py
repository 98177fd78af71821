"""The archives that MNIST, CIFAR-10 and CelebA are published as: damaged, foreign, malicious."""

import contextlib
import functools
import gzip
import io
import os
import pickle
import struct
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs.data import prepare
from tests.campaigns import outcomes
from tests.campaigns.inputs import folders, images, zips

FILES = ('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz',
         't10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte.gz')  # fmt: skip
TARS = {'binary': 'cifar-10-binary.tar.gz', 'python': 'cifar-10-python.tar.gz'}
ZIP, PARTITION = 'img_align_celeba.zip', 'list_eval_partition.txt'

Files = Mapping[str, bytes]


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case: `skip_corrupt` has no part in them, as an archive is whole or useless."""
  rng = np.random.default_rng(seed)
  for data, label, files, named in [*_mnist(rng), *_cifar10(rng), *_celeb_a()]:
    run = functools.partial(_run, data, files)
    yield outcomes.Case('published archive', f'{data}: {label}', run, named)


def _run(data: str, files: Files, folder: Path) -> str:
  manual = folder / 'manual'
  manual.mkdir()
  for name, content in files.items():
    (manual / name).write_bytes(content)
  config = folders.config(folder, f'tfds:{data}', manual_dir=str(manual))
  with _own_place(folder / 'tfds'), contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
    prepared = prepare.prepare(config)
  raise outcomes.Wrong(f'accepted as {prepared.spec.counts}')


@contextlib.contextmanager
def _own_place(path: Path) -> Iterator[None]:
  """Points tensorflow_datasets at a folder."""
  before = os.environ.get('TFDS_DATA_DIR')
  os.environ['TFDS_DATA_DIR'] = str(path)
  try:
    yield
  finally:
    os.environ.pop('TFDS_DATA_DIR')
    if before is not None:
      os.environ['TFDS_DATA_DIR'] = before


def _idx(dimensions: int, *shape: int) -> bytes:
  pixels = np.random.default_rng(len(shape)).integers(0, 10, shape, np.uint8)
  return struct.pack(f'>{1 + len(shape)}I', 0x800 + dimensions, *shape) + pixels.tobytes()


def _mnist(rng: np.random.Generator) -> Iterator[tuple[str, str, Files, tuple[str, ...]]]:
  contents = [_idx(3, 6, 28, 28), _idx(1, 6), _idx(3, 4, 28, 28), _idx(1, 4)]
  whole = dict(zip(FILES, map(gzip.compress, contents), strict=True))
  for name in FILES:
    content = whole[name]
    end = int(rng.integers(1, len(content)))
    yield 'mnist', f'{name}, {end} of {len(content)} bytes', {**whole, name: content[:end]}, (name,)
    place = int(rng.integers(10, len(content)))
    flipped = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
    yield 'mnist', f'{name}, byte {place} changed', {**whole, name: flipped}, (name,)
  images_file, labels_file = FILES[:2]
  foreign = {
    'of no image': _idx(3, 0, 28, 28),
    'of another size': _idx(3, 6, 27, 28),
    'of one image more': _idx(3, 7, 28, 28),
    'of labels': _idx(1, 6),
    'of a head alone': struct.pack('>4I', 0x803, 6, 28, 28),
    'of an absurd number': struct.pack('>4I', 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1),
  }
  for label, content in foreign.items():
    named = (images_file, 'train-')
    yield 'mnist', f'images {label}', {**whole, images_file: gzip.compress(content)}, named
  beyond = struct.pack('>2I', 0x801, 6) + bytes([0, 1, 2, 3, 4, 10])
  yield 'mnist', 'a label of 10', {**whole, labels_file: gzip.compress(beyond)}, (labels_file, 'label')


def _tar(*members: tuple[str, bytes]) -> bytes:
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w:gz') as archive:
    for name, content in members:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return file.getvalue()


class _Call:
  """Pickles to a call that must never happen."""

  def __reduce__(self) -> tuple[Any, tuple[str]]:
    return exec, ('raise SystemExit("a pickle was run")',)


def _cifar10(rng: np.random.Generator) -> Iterator[tuple[str, str, Files, tuple[str, ...]]]:
  rows = rng.integers(0, 10, (2, 3073), np.uint8)
  names = [*(f'data_batch_{k}' for k in range(1, 6)), 'test_batch']
  whole = _tar(*((f'cifar-10-batches/{name}.bin', rows.tobytes()) for name in names))
  binary, python = TARS['binary'], TARS['python']
  for _ in range(3):
    end = int(rng.integers(1, len(whole)))
    yield 'cifar10', f'{end} of {len(whole)} bytes', {binary: whole[:end]}, (binary,)
    place = int(rng.integers(10, len(whole)))
    flipped = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
    yield 'cifar10', f'byte {place} changed', {binary: flipped}, (binary,)
  members = {
    'no members': [],
    'other members': [('readme.html', b'x')],
    'a batch cut short': [(f'{name}.bin', rows.tobytes()[:-1]) for name in names],
    'empty batches': [(f'{name}.bin', b'') for name in names],
    'a label of 250': [(f'{name}.bin', bytes([250]) + rows.tobytes()[1:]) for name in names],
    'no test batch': [(f'{name}.bin', rows.tobytes()) for name in names[:5]],
    'half of the batches': [(f'{name}.bin', rows.tobytes()) for name in (names[0], names[5])],
  }
  for label, content in members.items():
    yield 'cifar10', label, {binary: _tar(*content)}, (binary,)
  data, labels = rows[:, 1:], rows[:, 0].tolist()
  records: dict[str, Any] = {
    'a list': [1, 2],
    'a number': 3,
    'no labels': {b'data': data},
    'labels of None': {b'data': data, b'labels': None},
    'labels in words': {b'data': data, b'labels': ['a', 'b']},
    'too few labels': {b'data': data, b'labels': labels[:1]},
    'too few pixels': {b'data': data[:, :100], b'labels': labels},
    'real pixels': {b'data': data / 255, b'labels': labels},
    'pixels beyond 255': {b'data': data.astype(int) + 300, b'labels': labels},
    'a call': _Call(),
  }
  for label, record in records.items():
    content = pickle.dumps(record, protocol=2)
    tar = _tar(*((f'cifar-10-batches-py/{name}', content) for name in names))
    yield 'cifar10', f'pickled: {label}', {python: tar}, (python,)
  whole = pickle.dumps({b'data': data, b'labels': labels}, protocol=2)
  for label, content in (('cut short', whole[:-9]), ('text', b'hello\n'), ('nothing', b'')):
    yield 'cifar10', f'pickled: {label}', {python: _tar(*((name, content) for name in names))}, (python,)


def _celeb_a() -> Iterator[tuple[str, str, Files, tuple[str, ...]]]:
  noise = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
  jpeg, small = images.encoded(noise, 'jpg'), images.encoded(noise[:8, :8], 'jpg')
  lines = b'000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n'
  names = [f'img_align_celeba/{k:06}.jpg' for k in (1, 2, 3)]
  whole = zips.archive(*((name, jpeg) for name in names))
  for label, archive in {
    'damaged': whole[:3000] + b'\xff' * 40 + whole[3040:],
    'cut short': whole[: len(whole) // 2],
    'a member missing': zips.archive(*((name, jpeg) for name in names[:2])),
    'a member no image': zips.archive(*((name, jpeg) for name in names[:2]), (names[2], b'text')),
    'a member of another size': zips.archive(*((name, jpeg) for name in names[:2]), (names[2], small)),
    'empty': b'',
  }.items():
    yield 'celeb_a', label, {ZIP: archive, PARTITION: lines}, (ZIP, 'celeb_a', '000003')
  for label, partition in {
    'binary': bytes(range(256)),
    'empty': b'',
    'three columns': b'000001.jpg 0 1\n',
    'a part of 3': lines.replace(b'2\n', b'3\n'),
    'a part of 01': lines.replace(b' 2\n', b' 01\n'),
    'no validation images': lines.replace(b' 1\n', b' 0\n'),
    'a line twice': lines + b'000001.jpg 2\n',
  }.items():
    yield 'celeb_a', f'partition: {label}', {ZIP: whole, PARTITION: partition}, (PARTITION, 'celeb_a')
