"""Crops of the photographs that scikit-image brings."""

import os

import numpy as np
import pytest
import skimage
from PIL import Image

from structured_obs.data import prepare
from structured_obs.data.sources import photos
from tests.data import helpers


def _photographs(split: int) -> list[np.ndarray]:
  root = os.path.join(os.path.dirname(skimage.__file__), 'data')
  return [np.asarray(Image.open(os.path.join(root, name))) for name in photos.PHOTOGRAPHS[split]]


def _shows(photographs: list[np.ndarray], crop: np.ndarray) -> bool:
  """Tells whether a crop is a window, at once, twice or four times its size, of a photograph."""
  return any(
    _shows_at(photograph, crop, factor)
    for photograph in photographs
    for factor in photos.FACTORS
    if factor * len(crop) <= min(photograph.shape[:2])
  )


def _shows_at(photograph: np.ndarray, crop: np.ndarray, factor: int) -> bool:
  """Compares a few pixels of a crop with all block means of a photograph, then whole windows."""
  side, size = len(crop), factor * len(crop)
  # An integral image gives the mean of the block at every position.
  integral = np.pad(photograph.astype(float).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
  means = (
    integral[factor:, factor:]
    - integral[:-factor, factor:]
    - integral[factor:, :-factor]
    + integral[:-factor, :-factor]
  ) / factor**2
  rows, columns = (length - size + 1 for length in photograph.shape[:2])
  corners = np.argwhere(np.ones((rows, columns), bool))
  for pixel in np.random.default_rng(0).integers(0, side, (20, 2)):
    top, left = (corners + factor * pixel).T
    corners = corners[(np.abs(means[top, left] - crop[tuple(pixel)]) <= 1).all(-1)]
  windows = (photograph[top : top + size, left : left + size] for top, left in corners)
  return any(
    np.abs(window.reshape(side, factor, side, factor, 3).mean((1, 3)) - crop).max() <= 1
    for window in windows
  )


def test_crops_come_from_the_photographs_of_their_split(tmp_path):
  prepared = prepare.prepare(helpers.config(tmp_path, 'photos', limit=10, height=16, width=16))
  assert prepared.spec.counts == {'train': 8, 'validation': 1, 'test': 1}
  for k, split in enumerate(('train', 'validation', 'test')):
    # The liveliest crop: a piece of empty sky would be found anywhere.
    crop = max(prepared.images[split], key=np.std)
    assert [_shows(_photographs(other), crop) for other in range(3)] == [k == j for j in range(3)]


def test_size_and_channels_and_seed(tmp_path):
  config = helpers.config(tmp_path, 'photos', limit=20)
  spec = prepare.prepare(config).spec
  assert (spec.height, spec.width, spec.channels) == (32, 32, 3)
  gray = helpers.config(tmp_path, 'photos', limit=20, channels=1, height=8, width=300)
  assert prepare.prepare(gray).images['train'].shape == (16, 8, 300, 1)
  other = helpers.config(tmp_path, 'photos', limit=20, split_seed=1)
  assert prepare.prepare(other).spec.sha256 != spec.sha256


@pytest.mark.parametrize(
  ('fields', 'words'),
  [({'height': 301}, 'height=300 --config.data.width=451'), ({'limit': 2}, 'leave none to train on')],
)
def test_impossible_crops_are_refused(tmp_path, fields, words):
  with pytest.raises(ValueError, match=words):
    prepare.prepare(helpers.config(tmp_path, 'photos', **fields))
