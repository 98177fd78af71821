"""Images that are already arrays."""

import numpy as np
import pytest

from structured_obs.data import prepare
from tests.data import helpers

_IMAGES = helpers.random_images(20, 4, 3, 1)


def _prepare(tmp_path, **arrays):
  np.savez(tmp_path / 'x.npz', **arrays)
  return prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "x.npz"}'))


@pytest.mark.parametrize('images', [_IMAGES, _IMAGES[..., 0], _IMAGES.astype(np.float64),
                                    _IMAGES.astype(np.int64)])
@pytest.mark.parametrize('name', ['image', 'x', 'anything'])
def test_one_array_of_images(tmp_path, images, name):
  prepared = _prepare(tmp_path, **{name: images})
  assert prepared.spec.counts == {'train': 16, 'validation': 2, 'test': 2}
  whole = np.concatenate(list(prepared.images.values()))
  assert np.array_equal(np.sort(whole, 0), np.sort(_IMAGES, 0))


def test_splits_and_labels_of_the_file_are_kept(tmp_path):
  labels = np.arange(20)
  prepared = _prepare(tmp_path, x_train=_IMAGES[:12], y_train=labels[:12], x_test=_IMAGES[12:17],
                      y_test=labels[12:17], x_val=_IMAGES[17:], y_val=labels[17:])
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


@pytest.mark.parametrize(('array', 'words'), [
    (_IMAGES / 255, r'lies in \[.*must be uint8, 0 to 255: multiply by 255'),
    (_IMAGES + 0.5, 'not all whole numbers'),
    (_IMAGES.astype(np.int16) - 1, 'not all whole numbers from 0 to 255'),
    (np.where(np.arange(20)[:, None, None] == 3, np.nan, _IMAGES[..., 0]),
     'NaN or infinity, first in image 3'),
    (_IMAGES[:, :, :, 0] > 100, 'must hold numbers'),
    (_IMAGES[0, 0], r'must have the shape \[N, H, W\]'),
    (_IMAGES.transpose(0, 3, 1, 2).repeat(3, 1).repeat(2, 3), 'channels last'),
    (_IMAGES[:0], 'at least one pixel'),
    (np.array([None, 3]), 'cannot be read')])
def test_unsuitable_arrays_are_refused(tmp_path, array, words):
  with pytest.raises(ValueError, match=words) as caught:
    _prepare(tmp_path, image=array)
  assert "'image'" in str(caught.value)


def test_files_without_images_are_refused(tmp_path):
  with pytest.raises(ValueError, match='holds the arrays a, b; it must hold'):
    _prepare(tmp_path, a=_IMAGES, b=_IMAGES)
  with pytest.raises(FileNotFoundError, match='does not exist'):
    prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "none.npz"}'))
  (tmp_path / 'y.npz').write_text('x')
  with pytest.raises(ValueError, match=r'not an \.npz file or is damaged'):
    prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "y.npz"}'))
