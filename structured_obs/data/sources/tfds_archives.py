"""Readers of the archives in which mnist, cifar10 and celeb_a are published; no TensorFlow.

Each reader yields (image, label) in the archive's own order. The image is a uint8 array [H, W, C], or
for celeb_a the bytes of the JPEG file; the label is an integer, or None. Damaged and foreign archives
raise an UnreadableImage that names the file; headers are checked before memory is allocated.
"""

import contextlib
import gzip
import io
import math
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np

from structured_obs.data import decode, downloads, headers

Example = tuple[np.ndarray | bytes, int | None]
T = TypeVar('T')

_LARGEST = 1 << 26  # bytes: limit on one unpacked file of MNIST, or one file within an archive


class Archive(NamedTuple):
  """How a data set is published."""

  title: str
  files: tuple[tuple[str, ...], ...]  # alternatives, each one a complete set of file names
  sha256: dict[str, str]  # of every file, as published
  splits: tuple[str, ...]  # the official ones
  read: Callable[[str, str], Iterator[Example]]  # (folder, split) -> examples
  shape: tuple[int, int, int]  # H, W, C
  classes: int  # number of labels; 0 if there are none
  url: str  # of the files, or '' if they must be fetched by hand
  homepage: str


def find(archive: Archive, folder: str) -> tuple[str, ...]:
  """Returns the first complete set of files in `folder`, or () if there is none."""
  lacking = absent(archive, folder)
  return next((files for files, lack in zip(archive.files, lacking, strict=True) if not lack), ())


def absent(archive: Archive, folder: str) -> list[list[str]]:
  """Returns which files of each alternative are missing in `folder`."""
  return [
    [file for file in files if not os.path.isfile(os.path.join(folder, file))] for files in archive.files
  ]


def differing(archive: Archive, folder: str) -> list[str]:
  """Returns a sentence for each file in use whose SHA-256 is not the published one."""
  paths = {file: os.path.join(folder, file) for file in find(archive, folder)}
  found = {file: downloads.sha256(path) for file, path in paths.items()}
  return [
    f'{decode.printable(paths[file])} differs from the published file and may have been repacked: '
    f'its SHA-256 is {found[file]}; the published one is {archive.sha256[file]}.'
    for file in paths
    if found[file] != archive.sha256[file]
  ]


def _official(path: str, name: str) -> contextlib.AbstractContextManager[None]:
  """Returns a context that turns any error into one sentence about a file of an archive."""
  archive = ARCHIVES[name]
  place = archive.url + os.path.basename(path) if archive.url else archive.homepage
  return decode.reading(
    f'{path} is not an official {archive.title} archive, or it is damaged. It',
    advice=f'Get it again from {place}.',
  )


def _only(members: Iterable[tuple[str, T]], names: Iterable[str]) -> dict[str, T]:
  """Returns the files with these names, in any folder; each must exist exactly once."""
  found = {name: [] for name in names}
  for path, member in members:
    found.get(path.rsplit('/', 1)[-1], []).append(member)
  for name, those in found.items():
    if len(those) != 1:
      raise ValueError(f'it has {len(those)} files {name}' if those else f'it lacks {name}')
  return {name: those[0] for name, those in found.items()}


def _checked(labels: Any, number: int, name: str) -> list[int]:
  """Returns the labels as integers; raises a ValueError unless each image has one valid label."""
  found, classes = np.asarray(labels), ARCHIVES[name].classes
  if found.shape != (number,) or found.dtype.kind not in 'iu':
    raise ValueError(
      f'{number} images need as many whole numbers as labels, but its labels are {found.dtype} of '
      f'shape {found.shape}'
    )
  if number and not 0 <= found.min() <= found.max() < classes:
    raise ValueError(
      f'its labels range from {found.min()} to {found.max()}, but must be from 0 to {classes - 1}'
    )
  return found.tolist()


def _idx(path: str, shape: tuple[int, ...]) -> np.ndarray:
  """Reads a gzipped idx file of unsigned bytes (LeCun's format for MNIST), [N, *shape]."""
  head = struct.Struct(f'>{len(shape) + 2}I')
  with gzip.open(path) as file:
    magic, number, *found = head.unpack(file.read(head.size).ljust(head.size, b'\0'))
    if (magic, *found) != (0x801 + len(shape), *shape):
      raise ValueError(f'it is not an idx file of unsigned bytes, {" x ".join(map(str, ("N", *shape)))}')
    content = file.read(_LARGEST)
  headers.compare(number * math.prod(shape), len(content))
  return np.frombuffer(content, np.uint8).reshape(number, *shape)


def _mnist(folder: str, split: str) -> Iterator[Example]:
  prefix = os.path.join(folder, {'train': 'train', 'test': 't10k'}[split])
  with _official(f'{prefix}-images-idx3-ubyte.gz', 'mnist'):
    images = _idx(f'{prefix}-images-idx3-ubyte.gz', ARCHIVES['mnist'].shape[:2])
  with _official(f'{prefix}-labels-idx1-ubyte.gz', 'mnist'):
    labels = _checked(_idx(f'{prefix}-labels-idx1-ubyte.gz', ()), len(images), 'mnist')
  yield from zip(images[..., None], labels, strict=True)


class _ArrayUnpickler(pickle.Unpickler):
  """Unpickles NumPy arrays and plain containers only: other pickles may run any code."""

  def find_class(self, module_name: str, global_name: str) -> Any:
    # Arrays are created empty; the state that follows has their type, shape and bytes.
    allowed = {
      '_reconstruct': lambda *_: np.empty(0, np.uint8),
      'ndarray': object,
      'dtype': np.dtype,
      'encode': lambda text, _: text.encode('latin1'),
    }
    if global_name not in allowed or module_name.split('.')[0] not in ('numpy', '_codecs'):
      raise ValueError(f'it asks for {module_name}.{global_name}, which CIFAR-10 does not need')
    return allowed[global_name]


def _cifar_batch(name: str, content: bytes) -> tuple[np.ndarray, Any]:
  """Reads one batch file of CIFAR-10: [N, 3072] channel-major pixels, and N labels."""
  if name.endswith('.bin'):
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return rows[:, 1:], rows[:, 0]
  # genops compares all lengths with the content before the unpickler allocates memory for them.
  if any(
    'PUT' in code.name and int(index or 0) > len(content)
    for code, index, _ in pickletools.genops(content)
  ):
    raise ValueError(f'{name} numbers more objects than it has')
  batch = _ArrayUnpickler(io.BytesIO(content), encoding='bytes').load()
  if not isinstance(batch, dict) or not {b'data', b'labels'} <= batch.keys():
    raise ValueError(f"{name} has no 'data' and 'labels'")
  pixels = batch[b'data']
  if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
    raise ValueError(f'the pixels of {name} are not a uint8 array of shape [N, 3072]')
  return pixels, batch[b'labels']


def _cifar10(folder: str, split: str) -> Iterator[Example]:
  file = find(ARCHIVES['cifar10'], folder)[0]
  path, suffix = os.path.join(folder, file), '.bin' if 'binary' in file else ''
  batches = ['test_batch'] if split == 'test' else [f'data_batch_{k}' for k in range(1, 6)]
  with _official(path, 'cifar10'):
    headers.unpacked(path)
  with _official(path, 'cifar10'), tarfile.open(path) as archive:
    files = [(member.name, member) for member in archive if member.isfile()]
    for name in (batch + suffix for batch in batches):
      member = _only(files, [name])[name]
      if member.size > _LARGEST:
        raise ValueError(f'{name} has {member.size:,} bytes')
      content: Any = archive.extractfile(member)
      pixels, labels = _cifar_batch(name, content.read())
      images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
      yield from zip(images, _checked(labels, len(images), 'cifar10'), strict=True)


def _partition(path: str) -> list[list[str]]:
  """Reads the names of CelebA's images and their parts, '0', '1' or '2'."""
  with open(path, encoding='utf-8') as file:
    rows = [line.split() for line in file if line.strip()]
  if not rows or any(len(row) != 2 or row[1] not in ('0', '1', '2') for row in rows):
    raise ValueError("every line must be an image's name and 0, 1 or 2")
  _only(((name, None) for name, _ in rows), (name for name, _ in rows))
  return sorted(rows)


def _celeb_a(folder: str, split: str) -> Iterator[Example]:
  images, partition = (os.path.join(folder, name) for name in ARCHIVES['celeb_a'].files[0])
  wanted = str(('train', 'validation', 'test').index(split))
  with _official(partition, 'celeb_a'):
    rows = _partition(partition)
  with _official(images, 'celeb_a'), zipfile.ZipFile(images) as archive:
    files = ((member.filename, member) for member in archive.infolist())
    members = _only(files, (name for name, _ in rows))
    for name, part in rows:
      if part == wanted:
        yield _jpeg(archive, members[name]), None


def _jpeg(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
  """Returns the content of a JPEG file, or b'' if it is damaged.

  Decoding b'' fails later, so a damaged image is reported or skipped like one in a folder.
  """
  with contextlib.suppress(decode.UnreadableImage), decode.reading(member.filename):
    return archive.read(member) if member.file_size <= _LARGEST else b''
  return b''


ARCHIVES = {
  'mnist': Archive(
    title='MNIST',
    files=(
      (
        'train-images-idx3-ubyte.gz',
        'train-labels-idx1-ubyte.gz',
        't10k-images-idx3-ubyte.gz',
        't10k-labels-idx1-ubyte.gz',
      ),
    ),
    sha256={
      'train-images-idx3-ubyte.gz': '440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609',
      'train-labels-idx1-ubyte.gz': '3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c',
      't10k-images-idx3-ubyte.gz': '8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6',
      't10k-labels-idx1-ubyte.gz': 'f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6',
    },
    splits=('train', 'test'),
    read=_mnist,
    shape=(28, 28, 1),
    classes=10,
    url='https://storage.googleapis.com/cvdf-datasets/mnist/',
    homepage='http://yann.lecun.com/exdb/mnist/',
  ),
  'cifar10': Archive(
    title='CIFAR-10',
    files=(('cifar-10-binary.tar.gz',), ('cifar-10-python.tar.gz',)),
    sha256={
      'cifar-10-binary.tar.gz': 'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
      'cifar-10-python.tar.gz': '6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce',
    },
    splits=('train', 'test'),
    read=_cifar10,
    shape=(32, 32, 3),
    classes=10,
    url='https://www.cs.toronto.edu/~kriz/',
    homepage='https://www.cs.toronto.edu/~kriz/cifar.html',
  ),
  'celeb_a': Archive(
    title='CelebA',
    files=(('img_align_celeba.zip', 'list_eval_partition.txt'),),
    sha256={
      'img_align_celeba.zip': '46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74',
      'list_eval_partition.txt': 'fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7',
    },
    splits=('train', 'validation', 'test'),
    read=_celeb_a,
    shape=(218, 178, 3),
    classes=0,
    url='',
    homepage='https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html',
  ),
}
