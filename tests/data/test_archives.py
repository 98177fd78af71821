# One file of more than 300 lines: one fabricated archive for each published data set.
"""Archives that are damaged, foreign or repacked, and downloads that are not the published files."""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from typing import Any

import numpy as np
import pytest

from structured_obs.data import decode, downloads, prepare, sources
from structured_obs.data.sources import tfds_archives, tfds_builders
from tests.data import helpers, test_tfds

_offline = test_tfds._offline


def _read(folder: Any, name: str) -> int:
  """Returns how many examples an archive has, having read them all."""
  archive = tfds_archives.ARCHIVES[name]
  return sum(len(list(archive.read(str(folder), split))) for split in archive.splits)


def _refused(path: Any, name: str) -> str:
  """Returns the sentence that refuses an archive because of a file; it must name that."""
  with pytest.raises(decode.UnreadableImage) as caught:
    _read(path.parent, name)
  message = str(caught.value)
  assert message.startswith(f'{path} is not an official {tfds_archives.ARCHIVES[name].title} archive')
  assert message.endswith('.')
  assert 'Get it again from http' in message
  return message


def test_damage_anywhere_in_an_archive_is_one_sentence(tmp_path):
  images = helpers.random_images(12, 32, 32, 3)
  random = np.random.default_rng(0)
  test_tfds._cifar10(tmp_path / 'binary', images, True)
  test_tfds._cifar10(tmp_path / 'python', images, False)
  test_tfds._mnist(tmp_path / 'mnist', images[:2, 2:30, 2:30, 0], images[2:4, 2:30, 2:30, 0])
  # Not in files of labels, so short that bits which mean nothing are often hit.
  for file in sorted(file for file in tmp_path.rglob('*.gz') if 'labels' not in file.name):
    whole, name = file.read_bytes(), 'mnist' if file.parent.name == 'mnist' else 'cifar10'
    for trial in range(6):
      content = bytearray(whole)
      content[random.integers(16, len(whole))] ^= 1 << random.integers(8)
      file.write_bytes(content if trial % 2 else whole[: random.integers(len(whole) - 1)])
      assert _refused(file, name)
    file.write_bytes(whole)
  assert [_read(tmp_path / name, 'cifar10') for name in ('binary', 'python')] == [12, 12]
  assert _read(tmp_path / 'mnist', 'mnist') == 4


@pytest.mark.parametrize(
  ('shape', 'content', 'words'),
  [
    ((0x803, 2, 28, 28), bytes(2 * 784 - 1), 'declares 1,568 bytes, but it has 1,567'),
    ((0x803, 2, 28, 28), bytes(2 * 784 + 1), 'declares 1,568 bytes, but it has 1,569'),
    ((0x803, 2**32 - 1, 28, 28), bytes(99), 'declares 3,367,254,359,280 bytes, but it has 99'),
    ((0x803, 2, 32, 32), bytes(2048), 'not an idx file of unsigned bytes, N x 28 x 28'),
    ((0x801, 2, 28, 28), bytes(2 * 784), 'not an idx file'),
    ((0xD03, 2, 28, 28), bytes(8 * 784), 'not an idx file'),
  ],
)
def test_headers_of_mnist_are_checked(tmp_path, shape, content, words):
  test_tfds._mnist(tmp_path, *np.zeros((2, 2, 28, 28), np.uint8))
  file = tmp_path / 'train-images-idx3-ubyte.gz'
  file.write_bytes(gzip.compress(np.array(shape, '>u4').tobytes() + content))
  with pytest.raises(ValueError, match=words):
    _read(tmp_path, 'mnist')


@pytest.mark.parametrize('labels', [[3, 10], [1], [1, 2, 3]])
def test_labels_of_mnist_are_checked(tmp_path, labels):
  test_tfds._mnist(tmp_path, *np.zeros((2, 2, 28, 28), np.uint8))
  file = tmp_path / 'train-labels-idx1-ubyte.gz'
  file.write_bytes(gzip.compress(np.array([0x801, len(labels)], '>u4').tobytes() + bytes(labels)))
  assert 'labels' in _refused(file, 'mnist')


def test_pickles_of_python_2_are_read(tmp_path):
  """As the official archive has them: strings without encoding, and old names of NumPy's functions."""
  pixels = helpers.random_images(2, 1, 3072, 1).reshape(2, 3072)
  content = (
    b'\x80\x02}(U\x06labels](K\x03K\x09eU\x04datacnumpy.core.multiarray\n_reconstruct\n('
    b'cnumpy\nndarray\nK\0\x85U\x01btR(K\x01K\x02M\0\x0c\x86'
    b'cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNN'
    + 2 * b'J\xff\xff\xff\xff'
    + b'K\0tb\x89T\0\x18\0\0'
    + pixels.tobytes()
    + b'tbu.'
  )
  _tar(tmp_path, {'test_batch': content})
  examples = list(tfds_archives.ARCHIVES['cifar10'].read(str(tmp_path), 'test'))
  assert [label for _, label in examples] == [3, 9]
  images = pixels.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1)
  assert np.array_equal(np.array([image for image, _ in examples]), images)


class _Harm:
  """Would run any function when it is unpickled."""

  def __init__(self, function: Any, *arguments: Any):
    self.call = function, arguments

  def __reduce__(self) -> Any:
    return self.call


_PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
  'batch',
  [
    [],
    {},
    None,
    {b'data': _PIXELS},
    {b'labels': [1, 2]},
    {b'data': _PIXELS, b'labels': [1]},
    {b'data': _PIXELS, b'labels': [1, 10]},
    {b'data': _PIXELS, b'labels': [1, -1]},
    {b'data': _PIXELS, b'labels': [1, 2.5]},
    {b'data': _PIXELS, b'labels': None},
    {b'data': _PIXELS[:, 1:], b'labels': [1, 2]},
    {b'data': [1, 2], b'labels': [1, 2]},
    {b'data': _PIXELS.astype(int) + 300, b'labels': [1, 2]},
    {b'data': _PIXELS.astype(object), b'labels': [1, 2]},
    {b'fine_labels': [1], b'data': _PIXELS},
    _Harm(os.mkdir, 'harm'),
    _Harm(eval, '1'),
    _Harm(np.ndarray, (10**14,)),
    {b'data': _Harm(np.fromfile, 'x'), b'labels': [1, 2]},
  ],
)
def test_foreign_pickles_are_refused(tmp_path, monkeypatch, batch):
  monkeypatch.chdir(tmp_path)
  _tar(tmp_path, {f'data_batch_{k}': pickle.dumps(batch, 2) for k in range(1, 6)})
  _refused(tmp_path / 'cifar-10-python.tar.gz', 'cifar10')
  assert not os.path.exists('harm')


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'.',
    b'no pickle',
    b'\x80\x02r\xff\xff\xff\x7f.',
    b'\x80\x05\x96' + b'\xff' * 7 + b'\x0f.',
    b'\x80\x02]r\x00\x00\x00\x7f.',
    b'\x80\x04\x8e' + b'\x7f' * 8,
    b'(' * 9999,
  ],
)
def test_pickles_ask_for_no_memory_that_they_do_not_fill(tmp_path, content):
  _tar(tmp_path, {f'data_batch_{k}': content for k in range(1, 6)})
  _refused(tmp_path / 'cifar-10-python.tar.gz', 'cifar10')


def _tar(path: Any, files: dict[str, bytes], name: str = 'cifar-10-python.tar.gz') -> None:
  with tarfile.open(path / name, 'w:gz') as archive:
    for file, content in files.items():
      member = tarfile.TarInfo(f'cifar-10-batches/{file}')
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def test_missing_and_repeated_files_of_a_tar_are_named(tmp_path):
  rows = bytes(3073 * 2)
  batches = {f'data_batch_{k}.bin': rows for k in range(1, 6)}
  name = 'cifar-10-binary.tar.gz'
  for files, words in (
    ({}, 'it lacks data_batch_1.bin'),
    (batches, 'it lacks test_batch.bin'),
    ({'train': rows, 'test': rows}, 'it lacks data_batch_1.bin'),
    ({**batches, 'copy/data_batch_1.bin': rows}, 'it has 2 files data_batch_1.bin'),
    ({**batches, 'data_batch_3.bin': rows[1:]}, 'reshape'),
  ):
    _tar(tmp_path, files, name)
    assert words in _refused(tmp_path / name, 'cifar10')
  _tar(tmp_path, {**batches, 'test_batch.bin': rows}, name)
  assert _read(tmp_path, 'cifar10') == 12


@pytest.mark.parametrize(
  'partition',
  [
    b'',
    b'000001.jpg',
    b'000001.jpg 3',
    b'000001.jpg 01',
    b'000001.jpg 0 0',
    b'\xff\xfe',
    b'000001.jpg 0\n000001.jpg 1',
  ],
)
def test_the_partition_of_celeb_a_is_checked(tmp_path, partition):
  test_tfds._celeb_a(tmp_path, helpers.random_images(1, 218, 178, 3), [0])
  (tmp_path / 'list_eval_partition.txt').write_bytes(partition)
  _refused(tmp_path / 'list_eval_partition.txt', 'celeb_a')


def test_damaged_images_of_celeb_a_are_left_out_one_by_one(tmp_path):
  manual = tmp_path / 'manual'
  kept = test_tfds._celeb_a(manual, helpers.random_images(5, 218, 178, 3), [0, 0, 0, 1, 2])
  file = manual / 'img_align_celeba.zip'
  with zipfile.ZipFile(file) as archive:
    place = archive.getinfo('img_align_celeba/000002.jpg').header_offset
  content = bytearray(file.read_bytes())
  content[place + 300] ^= 0xFF
  file.write_bytes(content)
  with pytest.raises(
    decode.UnreadableImage, match=r'train\[1\] of celeb_a .*data\.options\.skip_corrupt=True'
  ):
    prepare.prepare(test_tfds._config(tmp_path, 'celeb_a'))
  prepared = prepare.prepare(test_tfds._config(tmp_path, 'celeb_a', skip_corrupt=True))
  assert prepared.spec.skipped == 1
  assert np.array_equal(prepared.images['train'], [kept[0], kept[2]])


def test_repacked_archives_are_told(tmp_path, monkeypatch):
  test_tfds._mnist(tmp_path / 'manual', *np.split(helpers.random_images(4, 28, 28, 1), 2))
  archive = tfds_archives.ARCHIVES['mnist']
  published = {file: downloads.sha256(str(tmp_path / 'manual' / file)) for file in archive.files[0]}
  found = published['train-images-idx3-ubyte.gz']
  for sha256, words in (
    ({**published, 'train-images-idx3-ubyte.gz': 64 * 'a'}, [found, 64 * 'a']),
    (published, []),
  ):
    monkeypatch.setitem(tfds_archives.ARCHIVES, 'mnist', archive._replace(sha256=sha256))
    notes = sources.find(test_tfds._config(tmp_path, 'mnist')).open().notes()
    assert len(notes) == (len(words) > 0)
    assert all(word in notes[0] for word in words)


def _published(tmp_path: Any, monkeypatch: Any, **other: str) -> list[str]:
  """Publishes tiny archives of MNIST on this machine, with their digests unless other ones are given."""
  test_tfds._mnist(tmp_path / 'web', *np.split(helpers.random_images(4, 28, 28, 1), 2))
  archive = tfds_archives.ARCHIVES['mnist']
  sha256 = {file: downloads.sha256(str(tmp_path / 'web' / file)) for file in archive.files[0]}
  monkeypatch.setitem(
    tfds_archives.ARCHIVES,
    'mnist',
    archive._replace(url=f'file://{tmp_path}/web/', sha256=sha256 | other),
  )
  return list(archive.files[0])


def test_downloads_are_kept_where_they_are_the_published_files(tmp_path, monkeypatch):
  files = _published(tmp_path, monkeypatch)
  prepared = prepare.prepare(test_tfds._config(tmp_path, 'mnist', download=True))
  assert sum(prepared.spec.counts.values()) == 4
  folder = tmp_path / 'cache' / 'tensorflow_datasets' / 'downloads' / 'mnist'
  assert sorted(os.listdir(folder)) == sorted(files)
  # What is there and whole is not fetched again; what is damaged is.
  (folder / files[0]).write_bytes(b'damaged')
  (tmp_path / 'web' / files[1]).unlink()
  tfds_builders.download('mnist', str(folder))
  assert (folder / files[0]).read_bytes() == (tmp_path / 'web' / files[0]).read_bytes()


def test_downloads_that_differ_are_not_kept(tmp_path, monkeypatch):
  files = _published(tmp_path, monkeypatch)
  whole = (tmp_path / 'web' / files[1]).read_bytes()
  expected = hashlib.sha256(whole).hexdigest()
  (tmp_path / 'web' / files[1]).write_bytes(whole[:-1])
  found = hashlib.sha256(whole[:-1]).hexdigest()
  with pytest.raises(
    ValueError, match=rf'web/{files[1]} is not .*{found}.*{expected}.*data.options.manual_dir'
  ):
    prepare.prepare(test_tfds._config(tmp_path, 'mnist', download=True))
  folder = tmp_path / 'cache' / 'tensorflow_datasets' / 'downloads' / 'mnist'
  assert os.listdir(folder) == [files[0]]


def test_failed_downloads_leave_nothing(tmp_path, monkeypatch):
  files = _published(tmp_path, monkeypatch)
  (tmp_path / 'web' / files[0]).unlink()
  with pytest.raises(
    ConnectionError, match=rf'download of file://.*{files[0]}.*failed.*data.options.manual_dir'
  ):
    tfds_builders.download('mnist', str(tmp_path))
  assert os.listdir(tmp_path) == ['web']


def test_published_digests_are_complete():
  for archive in tfds_archives.ARCHIVES.values():
    assert archive.sha256.keys() == {file for files in archive.files for file in files}
    assert all(len(digest) == 64 and int(digest, 16) for digest in archive.sha256.values())


def test_celeb_a_says_that_it_has_to_be_fetched_by_hand(tmp_path):
  with pytest.raises(FileNotFoundError) as caught:
    prepare.prepare(test_tfds._config(tmp_path, 'celeb_a', download=True))
  for words in (
    '--config.data.options.download=True has no effect',
    'Google Drive',
    'by hand',
    'mmlab.ie.cuhk',
    'img_align_celeba.zip and list_eval_partition.txt',
    '--config.data.options.manual_dir=PATH',
  ):
    assert words in str(caught.value)


@pytest.mark.parametrize('name', ['/', '/etc', '..', '../x', 'a/../..', '~', '~/x', './mnist', 'a//b'])
def test_names_of_data_sets_are_no_folders(tmp_path, monkeypatch, name):
  monkeypatch.setattr(os, 'walk', lambda *_: pytest.fail('a folder is searched'))
  with pytest.raises(ValueError, match=r'must name a data set.*TFDS_DATA_DIR'):
    prepare.prepare(test_tfds._config(tmp_path, name))


@pytest.mark.parametrize(
  'file', ['dataset_info.json', 'features.json', 'mnist-test.array_record-00000-of-00001']
)
def test_damaged_prepared_data_is_named(tmp_path, file):
  test_tfds._mnist(tmp_path / 'elsewhere', *np.split(helpers.random_images(4, 28, 28, 1), 2))
  place = tfds_builders.build('mnist', str(tmp_path / 'elsewhere'), str(tmp_path / 'tfds'))
  for content in (b'', b'[1]', b'\xff' * 99):
    with open(os.path.join(place, file), 'wb') as damaged:
      damaged.write(content)
    with pytest.raises(decode.UnreadableImage, match=place):
      prepare.prepare(test_tfds._config(tmp_path, 'mnist'))


def _edit(path: str, old: str, new: str) -> None:
  """Replaces a text that a file has once."""
  with open(path, encoding='utf-8') as file:
    content = file.read()
  assert content.count(old) == 1
  with open(path, 'w', encoding='utf-8') as file:
    file.write(content.replace(old, new))


def test_splits_and_types_that_are_not_used_are_told(tmp_path):
  images = helpers.random_images(4, 28, 28, 1)
  test_tfds._mnist(tmp_path / 'elsewhere', images[:3], images[3:])
  place = tfds_builders.build('mnist', str(tmp_path / 'elsewhere'), str(tmp_path / 'tfds'))
  _edit(os.path.join(place, 'dataset_info.json'), '"name": "test"', '"name": "extra"')
  records = sources.find(test_tfds._config(tmp_path, 'mnist')).open()
  assert records.size == 3
  assert records.notes() == [f'{place} has splits that are not used: extra.']
  _edit(os.path.join(place, 'features.json'), '"dtype": "uint8"', '"dtype": "float32"')
  with pytest.raises(ValueError, match='has images of float32, but must have images of uint8 or uint16'):
    sources.find(test_tfds._config(tmp_path, 'mnist')).open()
