"""Readers of the archives that mnist, cifar10 and celeb_a are published as; no TensorFlow.

Each reader yields (image, label) in the archive's own order: the image a uint8 array [H, W, C], or
for celeb_a the bytes of the JPEG file; the label an integer, or None.
"""

import codecs
import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

Example = tuple[np.ndarray | bytes, int | None]


class Archive(NamedTuple):
  """How a data set is published."""
  files: tuple[tuple[str, ...], ...]  # alternatives, each one a complete set of file names
  splits: tuple[str, ...]  # the official ones
  read: Callable[[str, str], Iterator[Example]]  # (folder, split) -> examples
  shape: tuple[int, int, int]  # H, W, C
  classes: int  # number of labels; 0 where there are none
  url: str  # where `files[0]` can be downloaded from, or '' where only by hand
  homepage: str


def find(archive: Archive, folder: str) -> tuple[str, ...]:
  """Returns the first complete set of files that `folder` holds, or () where there is none."""
  lacking = absent(archive, folder)
  return next((files for files, lack in zip(archive.files, lacking, strict=True) if not lack), ())


def absent(archive: Archive, folder: str) -> list[list[str]]:
  """Returns which files of each alternative `folder` does not hold."""
  return [[file for file in files if not os.path.isfile(os.path.join(folder, file))]
          for files in archive.files]


def _idx(path: str, dimensions: int) -> np.ndarray:
  """Reads a gzipped idx file of unsigned bytes (LeCun's format for MNIST)."""
  try:
    with gzip.open(path) as file:
      content = file.read()
  except (OSError, EOFError) as error:
    raise ValueError(f'{path} is not a whole gzip file: {error}') from error
  head = 4 + 4 * dimensions
  magic, *shape = struct.unpack(f'>{dimensions + 1}I', content[:head].ljust(head, b'\0'))
  if magic != 0x800 + dimensions or len(content) != head + int(np.prod(shape)):
    raise ValueError(f'{path} is not an idx file of {dimensions}-dimensional unsigned bytes, or it '
                     'is damaged; get it again.')
  return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _mnist(folder: str, split: str) -> Iterator[Example]:
  prefix = os.path.join(folder, {'train': 'train', 'test': 't10k'}[split])
  images = _idx(f'{prefix}-images-idx3-ubyte.gz', 3)
  labels = _idx(f'{prefix}-labels-idx1-ubyte.gz', 1)
  if len(images) != len(labels):
    raise ValueError(f'{prefix}-*.gz hold {len(images)} images, but {len(labels)} labels.')
  yield from zip(images[..., None], map(int, labels), strict=True)


class _ArrayUnpickler(pickle.Unpickler):
  """Unpickles NumPy arrays and plain containers only: a pickle may otherwise run any code."""

  def find_class(self, module_name: str, global_name: str) -> Any:
    reconstruct: Any = np.zeros(0).__reduce__()[0]  # numpy's own, wherever this version keeps it
    allowed = {'_reconstruct': reconstruct, 'ndarray': np.ndarray, 'dtype': np.dtype,
               'encode': codecs.encode}
    if global_name not in allowed or module_name.split('.')[0] not in ('numpy', '_codecs'):
      raise ValueError(f'it asks for {module_name}.{global_name}, which CIFAR-10 does not need')
    return allowed[global_name]


def _cifar_batch(name: str, content: bytes) -> tuple[np.ndarray, list[int]]:
  """Reads one batch file of CIFAR-10: [N, 3072] channel-major pixels, and N labels."""
  if name.endswith('.bin'):
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return rows[:, 1:], [int(label) for label in rows[:, 0]]
  batch = _ArrayUnpickler(io.BytesIO(content), encoding='bytes').load()
  return np.asarray(batch[b'data'], np.uint8), [int(label) for label in batch[b'labels']]


def _cifar10(folder: str, split: str) -> Iterator[Example]:
  path = os.path.join(folder, find(ARCHIVES['cifar10'], folder)[0])
  wanted = 'data_batch' if split == 'train' else 'test_batch'
  try:
    with tarfile.open(path) as archive:
      members = {os.path.basename(member.name): member for member in archive if member.isfile()}
      for name in sorted(name for name in members if name.startswith(wanted)):
        file = archive.extractfile(members[name])
        pixels, labels = _cifar_batch(name, file.read() if file else b'')
        yield from zip(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels, strict=True)
  except (tarfile.TarError, OSError, EOFError, ValueError, KeyError,
          pickle.UnpicklingError) as error:
    raise ValueError(f'{path} is not an official CIFAR-10 archive, or it is damaged: '
                     f'{error}') from error


def _celeb_a(folder: str, split: str) -> Iterator[Example]:
  images, partition = (os.path.join(folder, name) for name in ARCHIVES['celeb_a'].files[0])
  wanted = str(('train', 'validation', 'test').index(split))
  with open(partition, encoding='utf-8') as file:
    rows = [line.split() for line in file if line.strip()]
  if any(len(row) != 2 or row[1] not in '012' for row in rows):
    raise ValueError(f"Every line of {partition} must be an image's name and 0, 1 or 2.")
  try:
    with zipfile.ZipFile(images) as archive:
      members = {name.rsplit('/', 1)[-1]: name for name in archive.namelist()}
      for name, part in sorted(rows):
        if part == wanted:
          yield archive.read(members[name]), None
  except (zipfile.BadZipFile, KeyError, EOFError) as error:
    raise ValueError(f'{images} is damaged, or lacks an image of {partition}: {error}') from error


ARCHIVES = {
    'mnist': Archive(
        files=(('train-images-idx3-ubyte.gz', 'train-labels-idx1-ubyte.gz',
                't10k-images-idx3-ubyte.gz', 't10k-labels-idx1-ubyte.gz'),),
        splits=('train', 'test'), read=_mnist, shape=(28, 28, 1), classes=10,
        url='https://storage.googleapis.com/cvdf-datasets/mnist/',
        homepage='http://yann.lecun.com/exdb/mnist/'),
    'cifar10': Archive(
        files=(('cifar-10-binary.tar.gz',), ('cifar-10-python.tar.gz',)),
        splits=('train', 'test'), read=_cifar10, shape=(32, 32, 3), classes=10,
        url='https://www.cs.toronto.edu/~kriz/',
        homepage='https://www.cs.toronto.edu/~kriz/cifar.html'),
    'celeb_a': Archive(
        files=(('img_align_celeba.zip', 'list_eval_partition.txt'),),
        splits=('train', 'validation', 'test'), read=_celeb_a, shape=(218, 178, 3), classes=0,
        url='', homepage='https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html'),
}
