"""Images that are already arrays."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from structured_obs.data import prepare, sources
from tests.data import helpers

_IMAGES = helpers.random_images(20, 4, 3, 1)


def _prepare(tmp_path, **arrays):
  np.savez(tmp_path / 'x.npz', **arrays)
  return prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "x.npz"}'))


@pytest.mark.parametrize(
  'images', [_IMAGES, _IMAGES[..., 0], _IMAGES.astype(np.float64), _IMAGES.astype(np.int64)]
)
@pytest.mark.parametrize('name', ['image', 'x', 'anything'])
def test_one_array_of_images(tmp_path, images, name):
  prepared = _prepare(tmp_path, **{name: images})
  assert prepared.spec.counts == {'train': 16, 'validation': 2, 'test': 2}
  whole = np.concatenate(list(prepared.images.values()))
  assert np.array_equal(np.sort(whole, 0), np.sort(_IMAGES, 0))


def test_splits_and_labels_of_the_file_are_kept(tmp_path):
  labels = np.arange(20)
  prepared = _prepare(
    tmp_path,
    x_train=_IMAGES[:12],
    y_train=labels[:12],
    x_test=_IMAGES[12:17],
    y_test=labels[12:17],
    x_val=_IMAGES[17:],
    y_val=labels[17:],
  )
  for split, rows in (('train', slice(12)), ('test', slice(12, 17)), ('validation', slice(17, 20))):
    assert np.array_equal(prepared.images[split], _IMAGES[rows])
    assert np.array_equal(helpers.labels(prepared, split), labels[rows])


def test_a_missing_split_is_drawn_from_the_training_images(tmp_path):
  prepared = _prepare(tmp_path, train=_IMAGES[:15], test=_IMAGES[15:])
  assert prepared.spec.counts == {'train': 13, 'validation': 2, 'test': 5}
  assert np.array_equal(prepared.images['test'], _IMAGES[15:])
  assert 'test as the source has them' in prepared.spec.split_rule


def test_labels_of_undivided_images_follow_them(tmp_path):
  prepared = _prepare(tmp_path, image=_IMAGES, label=np.arange(20))
  for split, images in prepared.images.items():
    assert np.array_equal(images, _IMAGES[helpers.labels(prepared, split)])


@pytest.mark.parametrize(
  ('array', 'words'),
  [
    (_IMAGES / 255, r'lies in \[.*must be uint8, 0 to 255: multiply by 255'),
    (_IMAGES + 0.5, 'not all whole numbers'),
    (_IMAGES.astype(np.int16) - 1, 'not all whole numbers from 0 to 255'),
    (
      np.where(np.arange(20)[:, None, None] == 3, np.nan, _IMAGES[..., 0]),
      'NaN or infinity, first in image 3',
    ),
    (_IMAGES[:, :, :, 0] > 100, 'must have numbers'),
    (_IMAGES[0, 0], r'must have the shape \[N, H, W\]'),
    (_IMAGES.transpose(0, 3, 1, 2).repeat(3, 1).repeat(2, 3), 'channels last'),
    (_IMAGES[:0], 'at least one pixel'),
    (np.array([None, 3]), 'cannot be read'),
  ],
)
def test_unsuitable_arrays_are_refused(tmp_path, array, words):
  with pytest.raises(ValueError, match=words) as caught:
    _prepare(tmp_path, image=array)
  assert "'image'" in str(caught.value)


def test_files_without_images_are_refused(tmp_path):
  with pytest.raises(ValueError, match='has the arrays a, b; it must have'):
    _prepare(tmp_path, a=_IMAGES, b=_IMAGES)
  with pytest.raises(FileNotFoundError, match='does not exist'):
    prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "none.npz"}'))
  (tmp_path / 'y.npz').write_text('x')
  with pytest.raises(ValueError, match=r'not an \.npz file or is damaged'):
    prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "y.npz"}'))


@pytest.mark.parametrize(
  ('train', 'validation', 'test'),
  [
    ('x_train', 'x_val', 'X_test'),
    ('X-Train', 'xValid', 'XTEST'),
    ('TRAIN', 'dev', 'Testing'),
    ('train images', 'validation_images', 'test.images'),
    ('train_x', 'x_validation', 'img_test'),
  ],
)
def test_splits_are_found_whatever_the_case_and_the_signs(tmp_path, train, validation, test):
  prepared = _prepare(tmp_path, **{train: _IMAGES[:12], validation: _IMAGES[17:], test: _IMAGES[12:17]})
  for split, rows in (('train', slice(12)), ('test', slice(12, 17)), ('validation', slice(17, 20))):
    assert np.array_equal(prepared.images[split], _IMAGES[rows])


@pytest.mark.parametrize(
  ('keys', 'same'),
  [
    (('x_train', 'X_train'), 'x_train, X_train'),
    (('x_train', 'x_val', 'validation'), 'x_val, validation'),
    (('train', 'x_train', 'test'), 'train, x_train'),
    (('image', 'x'), 'image, x'),
    (('image', 'y', 'labels'), 'y, labels'),
  ],
)
def test_two_arrays_for_the_same_images_are_refused(tmp_path, keys, same):
  with pytest.raises(ValueError, match=rf'x\.npz has the arrays {same}, whose names mean'):
    _prepare(tmp_path, **dict.fromkeys(keys, _IMAGES))


def _notes(tmp_path, **arrays) -> list[str]:
  np.savez(tmp_path / 'x.npz', **arrays)
  return sources.find(helpers.config(tmp_path, f'npz:{tmp_path / "x.npz"}')).open().notes()


def test_what_is_left_aside_is_told(tmp_path):
  assert _notes(tmp_path, image=_IMAGES, label=np.arange(20)) == []
  assert _notes(tmp_path, anything=_IMAGES, Y=np.arange(20)) == []
  notes = _notes(tmp_path, x_train=_IMAGES, x_tst=_IMAGES, x=_IMAGES)
  assert notes == [f'{tmp_path / "x.npz"} has arrays that are not used: x_tst, x.']
  notes = _notes(tmp_path, x_train=_IMAGES, y_train=np.arange(20), x_test=_IMAGES)
  assert notes == [f'{tmp_path / "x.npz"} has labels, but none for x_test; so none are kept.']


@pytest.mark.parametrize(
  'labels',
  [
    np.arange(20) - 2**31,
    2.0**31 - 20 + np.arange(20),
    np.arange(20, dtype='>u8')[:, None],
    np.asfortranarray(np.arange(20, dtype='>i2')),
    np.arange(20) > 5,
    np.arange(20, dtype=np.float16),
  ],
)
def test_labels_that_fit_keep_their_values(tmp_path, labels):
  prepared = _prepare(tmp_path, image=_IMAGES, label=labels)
  found = np.concatenate([helpers.labels(prepared, split) for split in prepared.images])
  assert found.dtype == np.int32
  assert sorted(found.tolist()) == sorted(np.asarray(labels, object).ravel().tolist())


@pytest.mark.parametrize(
  ('labels', 'words'),
  [
    (np.arange(20) + 2**31 - 19, f'label 19 is {2**31}.*Number the classes 0, 1'),
    (np.arange(20) - 2**31 - 1, f'label 0 is {-(2**31) - 1}'),
    (np.full(20, 2**64 - 1, np.uint64), f'label 0 is {2**64 - 1}'),
    (np.arange(20) / 2, 'label 1 is 0.5'),
    (np.full(20, 1e300), r'label 0 is 1e\+300'),
    (np.full(20, 2**31, np.float32), f'label 0 is {2**31}'),
    (np.where(np.arange(20) == 3, np.nan, 1), 'label 3 is nan'),
    (np.arange(20) * 1j, 'whole numbers'),
    (np.arange(19), 'one label for each of 20 images'),
    (np.eye(20), r'numpy\.argmax.*one-hot'),
    (np.array(['cat', 'dog'] * 10), r'numpy\.unique.*makes them from names'),
    (np.array([None, {}] * 10), 'cannot be read: it has Python objects'),
    (np.zeros(20, [('a', int)]), 'whole numbers'),
  ],
)
def test_other_labels_are_refused(tmp_path, labels, words):
  with pytest.raises(ValueError, match=words) as caught:
    _prepare(tmp_path, image=_IMAGES, label=labels)
  assert str(caught.value).startswith(f"Array 'label' of {tmp_path / 'x.npz'}")


def _raw(path: Any, content: bytes, key: str) -> None:
  """Writes a file with one array that is whole, and another as given."""
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    with archive.open('x_train.npy', 'w') as file:
      np.save(file, _IMAGES)
    archive.writestr(f'{key}.npy', content)


def _npy(shape: str, content: bytes = bytes(60), dtype: str = '|u1', version: bytes = b'\1\0') -> bytes:
  """Returns an array in NumPy's format with any header."""
  header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + '\n'
  return b'\x93NUMPY' + version + len(header).to_bytes(2, 'little') + header.encode() + content


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'\x93NUMPY',
    b'not an array' * 9,
    _npy('(5, 4, 3)')[:-1],
    _npy('(5, 4, 3)') + b'x',
    _npy('(-5, 4, -3)'),
    _npy('(9' + 15 * '0' + ', 4, 3)'),
    _npy('(9' + 40 * '0' + ', 4, 3)'),
    _npy('(5, 4, 3)', version=b'\x09\0'),
    _npy('(5, 4, 3'),
    _npy('(5, 4, 3)', dtype='nothing'),
    _npy('(5, 4, 3)', dtype='|O'),
    _npy('"abc"'),
    _npy('(5, 4, 3)').replace(b'shape', b'sharp'),
  ],
)
def test_damaged_arrays_are_named(tmp_path, content):
  for key in ('x_test', 'y_train'):
    _raw(tmp_path / 'x.npz', content, key)
    with pytest.raises(ValueError, match=rf"Array '{key}' of .*x\.npz cannot be read: .*Write the file"):
      prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "x.npz"}'))


def test_damage_anywhere_in_a_file_is_one_sentence(tmp_path):
  """Bytes flipped at random, and files cut off."""
  buffer, random = io.BytesIO(), np.random.default_rng(0)
  np.savez(buffer, x_train=_IMAGES, y_train=np.arange(20), X_test=_IMAGES, y_test=np.arange(20))
  whole, refusals = buffer.getvalue(), []
  path = tmp_path / 'x.npz'
  for trial in range(60):
    content = bytearray(whole)
    content[random.integers(len(whole))] ^= 1 << random.integers(8)
    path.write_bytes(content if trial % 3 else whole[: random.integers(len(whole))])
    try:
      records = sources.find(helpers.config(tmp_path, f'npz:{path}')).open()
    except ValueError as error:
      refusals.append(str(error))
    else:  # of bytes that mean nothing, such as a time
      assert all(np.array_equal(records.load(k)[0], _IMAGES[k % 20]) for k in range(records.size))
  assert len(refusals) > 40
  assert all(str(path) in refusal for refusal in refusals)


@pytest.mark.parametrize(
  ('array', 'words'),
  [
    (_IMAGES > 100, 'multiply by 255, if True is white'),
    (_IMAGES.astype(np.uint16) * 257, 'divide by 257 and round, if 65535 is white'),
    (_IMAGES / 127.5 - 1, r'lies in \[-1, 1\].*add 1, multiply by 127.5 and round'),
  ],
)
def test_the_way_to_uint8_is_told(tmp_path, array, words):
  with pytest.raises(ValueError, match=words):
    _prepare(tmp_path, image=array)


@pytest.mark.parametrize('dtype', ['>i2', '>u8', '<f2', '>f8', np.longdouble])
def test_whole_numbers_of_any_type_keep_their_values(tmp_path, dtype):
  images = np.asfortranarray(_IMAGES.astype(dtype))
  prepared = _prepare(tmp_path, train=images, test=images[:3])
  assert np.array_equal(prepared.images['test'], _IMAGES[:3])
