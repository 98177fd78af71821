"""Official archives and prepared data of tensorflow_datasets, with the network out of reach.

The archives are made here, tiny, in the formats that the data sets are published in.
"""

import gzip
import io
import os
import pathlib
import pickle
import socket
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from structured_obs.data import decode, prepare
from structured_obs.data.sources import tfds_builders
from tests.data import helpers


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise AssertionError(f'the network was asked for {arguments}')

  monkeypatch.setattr(socket.socket, 'connect', refuse)
  monkeypatch.setattr(socket, 'getaddrinfo', refuse)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))


def _config(tmp_path, name, **fields):
  return helpers.config(tmp_path, f'tfds:{name}', manual_dir=str(tmp_path / 'manual'), **fields)


def _mnist(path, train: np.ndarray, test: np.ndarray) -> None:
  """Writes the four gzipped idx files; the label of image i is i mod 10."""
  path.mkdir(exist_ok=True)
  for prefix, images in (('train', train), ('t10k', test)):
    head = struct.pack('>4I', 0x803, *images.shape[:3])
    (path / f'{prefix}-images-idx3-ubyte.gz').write_bytes(gzip.compress(head + images.tobytes()))
    labels = struct.pack('>2I', 0x801, len(images)) + bytes(i % 10 for i in range(len(images)))
    (path / f'{prefix}-labels-idx1-ubyte.gz').write_bytes(gzip.compress(labels))


def test_mnist(tmp_path):
  images = helpers.random_images(14, 28, 28, 1)
  _mnist(tmp_path / 'manual', images[:10], images[10:])
  prepared = prepare.prepare(_config(tmp_path, 'mnist'))
  assert prepared.spec.counts == {'train': 9, 'validation': 1, 'test': 4}
  assert np.array_equal(prepared.images['test'], images[10:])
  assert helpers.labels(prepared, 'test').tolist() == [0, 1, 2, 3]
  for split in ('train', 'validation'):
    assert np.array_equal(prepared.images[split], images[helpers.labels(prepared, split)])
  # The cache outlives what it was made from, but follows the archives.
  assert prepare.prepare(_config(tmp_path, 'mnist')).spec == prepared.spec
  _mnist(tmp_path / 'manual', images[4:], images[:4])
  assert np.array_equal(prepare.prepare(_config(tmp_path, 'mnist')).images['test'], images[:4])


def test_damaged_mnist_is_named(tmp_path):
  images = helpers.random_images(14, 28, 28, 1)
  _mnist(tmp_path / 'manual', images, images)
  file = tmp_path / 'manual' / 'train-images-idx3-ubyte.gz'
  whole = file.read_bytes()
  short = gzip.compress(gzip.decompress(whole)[:-1])
  for content in (whole[:-20], b'x', short, gzip.compress(b'')):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r'train-images-idx3-ubyte\.gz is not'):
      prepare.prepare(_config(tmp_path, 'mnist'))


def _cifar10(path, images: np.ndarray, binary: bool) -> None:
  """Writes five training batches and a test batch of equal sizes; labels as for MNIST."""
  path.mkdir(exist_ok=True)
  labels = np.arange(len(images), dtype=np.uint8) % 10
  rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  name = 'cifar-10-binary.tar.gz' if binary else 'cifar-10-python.tar.gz'
  with tarfile.open(path / name, 'w:gz') as archive:
    batches = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']
    for part, batch in zip(np.split(np.arange(len(images)), 6), batches, strict=True):
      if binary:
        batch += '.bin'
        content = np.concatenate([labels[part, None], rows[part]], 1).tobytes()
      else:
        record = {b'data': rows[part], b'labels': labels[part].tolist(), b'filenames': [b'x']}
        content = pickle.dumps(record, protocol=2)
      member = tarfile.TarInfo(f'cifar-10-batches/{batch}')
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize('binary', [True, False])
def test_cifar10(tmp_path, binary):
  images = helpers.random_images(12, 32, 32, 3)
  _cifar10(tmp_path / 'manual', images, binary)
  prepared = prepare.prepare(_config(tmp_path, 'cifar10', validation_fraction=0.0))
  assert np.array_equal(prepared.images['train'], images[:10])
  assert np.array_equal(prepared.images['test'], images[10:])
  assert helpers.labels(prepared, 'train').tolist() == list(range(10))


def test_a_malicious_pickle_is_refused(tmp_path):
  (tmp_path / 'manual').mkdir()
  content = b'cos\nsystem\n(S"touch %s"\ntR.' % str(tmp_path / 'harm').encode()
  with tarfile.open(tmp_path / 'manual' / 'cifar-10-python.tar.gz', 'w:gz') as archive:
    member = tarfile.TarInfo('data_batch_1')
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
  with pytest.raises(ValueError, match=r'not an official CIFAR-10 archive.*os\.system'):
    prepare.prepare(_config(tmp_path, 'cifar10'))
  assert not (tmp_path / 'harm').exists()


def _celeb_a(path, images: np.ndarray, parts: list[int]) -> list[np.ndarray]:
  """Writes JPEG files in a zip and their partition; returns the images as JPEG keeps them."""
  path.mkdir(exist_ok=True)
  kept = []
  with zipfile.ZipFile(path / 'img_align_celeba.zip', 'w') as archive:
    for i, image in enumerate(images):
      content = io.BytesIO()
      Image.fromarray(image).save(content, 'JPEG')
      archive.writestr(f'img_align_celeba/{i + 1:06}.jpg', content.getvalue())
      kept.append(np.asarray(Image.open(content)))
  lines = [f'{i + 1:06}.jpg {part}\n' for i, part in enumerate(parts)]
  (path / 'list_eval_partition.txt').write_text(''.join(lines))
  return kept


def test_celeb_a_keeps_the_official_partition(tmp_path):
  kept = _celeb_a(tmp_path / 'manual', helpers.random_images(6, 218, 178, 3), [0, 2, 1, 0, 0, 1])
  prepared = prepare.prepare(_config(tmp_path, 'celeb_a'))
  for split, rows in (('train', [0, 3, 4]), ('validation', [2, 5]), ('test', [1])):
    assert np.array_equal(prepared.images[split], [kept[row] for row in rows])
    assert prepared.labels[split] is None


def test_celeb_a_names_a_missing_image(tmp_path):
  _celeb_a(tmp_path / 'manual', helpers.random_images(2, 218, 178, 3), [0, 0, 1])
  with pytest.raises(ValueError, match=r'img_align_celeba\.zip.*lacks 000003\.jpg'):
    prepare.prepare(_config(tmp_path, 'celeb_a'))


def test_prepared_data_is_found_in_the_library_s_own_place(tmp_path):
  images = helpers.random_images(14, 28, 28, 1)
  _mnist(tmp_path / 'elsewhere', images[:10], images[10:])
  tfds_builders.build('mnist', str(tmp_path / 'elsewhere'), str(tmp_path / 'tfds'))
  for name in ('mnist', 'mnist:3.0.1'):
    prepared = prepare.prepare(_config(tmp_path, name))
    assert np.array_equal(prepared.images['test'], images[10:])
  with pytest.raises(FileNotFoundError, match=r'mnist:2\.0\.0 is not on this machine'):
    prepare.prepare(_config(tmp_path, 'mnist:2.0.0'))


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    (
      'mnist',
      'manual lacks train-images-idx3-ubyte.gz and '
      '.*http.*--config.data.options.manual_dir.*--config.data.options.download',
    ),
    ('cifar10', 'lacks cifar-10-binary.tar.gz or cifar-10-python.tar.gz'),
    ('celeb_a', 'lacks img_align_celeba.zip and list_eval_partition.txt'),
    ('svhn_cropped', "file_format='array_record'.*TFDS_DATA_DIR"),
  ],
)
def test_absent_data_says_what_to_put_where(tmp_path, name, words):
  with pytest.raises(FileNotFoundError, match=words):
    prepare.prepare(_config(tmp_path, name))


def test_a_download_happens_only_when_asked_for(tmp_path, monkeypatch):
  images = helpers.random_images(14, 28, 28, 1)
  fetched = []

  def download(name, folder):
    fetched.append(name)
    _mnist(pathlib.Path(folder), images[:10], images[10:])

  monkeypatch.setattr(tfds_builders, 'download', download)
  with pytest.raises(FileNotFoundError):
    prepare.prepare(_config(tmp_path, 'mnist'))
  assert not fetched
  for _ in range(2):
    prepared = prepare.prepare(_config(tmp_path, 'mnist', download=True))
    assert np.array_equal(prepared.images['test'], images[10:])
  assert fetched == ['mnist']


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setattr(decode, 'pillow', lambda: (_ for _ in ()).throw(decode.missing('pillow')))
  _mnist(tmp_path / 'manual', *np.split(helpers.random_images(4, 28, 28, 1), 2))
  with pytest.raises(ImportError, match=r"structured_obs\[data\]"):
    prepare.prepare(_config(tmp_path, 'mnist'))
  assert os.listdir(tmp_path / 'cache') == []
