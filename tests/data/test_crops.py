"""Random windows: inside, centred on what is seen, each as likely, and of any source of levels."""

import numpy as np
import pytest

from structured_obs.config import DataConfig
from structured_obs.data import crops, decode, prepare
from tests.data import helpers


def numbered(height: int, width: int) -> np.ndarray:
  """An image whose pixels all differ and are all black but for a few levels: [H, W, 3]."""
  index = np.arange(height * width).reshape(height, width)
  return np.stack([index % 12, index // 12 % 12, index // 144], -1).astype(np.uint8)


def corner(window: np.ndarray, width: int) -> tuple[int, int]:
  """Where a window of a numbered image lies: row and column of its first pixel."""
  low, middle, high = (int(level) for level in window[0, 0])
  return divmod(low + 12 * middle + 144 * high, width)


def test_a_window_lies_around_a_bright_pixel_and_inside():
  image = numbered(20, 30)
  bright = {(2, 1): (0, 0), (10, 15): (7, 12), (19, 29): (13, 24), (4, 17): (1, 14)}
  for place in bright:
    image[(*place, 2)] += 100
  found = [corner(crops.window(image, (7, 6), (3, seed)), 30) for seed in range(200)]
  numbers = [found.count(place) for place in bright.values()]
  assert sum(numbers) == 200
  assert min(numbers) > 25  # of 50: each equally likely, and 4 deviations are 24.5


def test_a_window_of_an_image_without_foreground_is_anywhere():
  corners = {corner(crops.window(numbered(5, 7), (5, 3), (seed,)), 7) for seed in range(60)}
  assert corners == {(0, column) for column in range(5)}
  assert np.array_equal(crops.window(numbered(5, 7), (5, 7), (0,)), numbered(5, 7))


def test_background_is_a_twentieth_of_white():
  image = np.array([[[12, 0], [13, 0], [0, 13], [0, 0]]], np.uint8)
  assert crops.foreground(image).tolist() == [[False, True, True, False]]
  assert crops.foreground(image, 17).tolist() == [[True, True, True, False]]


def test_windows_of_a_labelled_source(tmp_path):
  """Every window keeps its image's label, and no image is in two splits."""
  fields = {'height': 5, 'width': 4, 'crop': 'random', 'crops': 3}
  prepared = prepare.prepare(helpers.config(tmp_path, 'digits', **fields))
  assert prepared.spec.counts == {'train': 3 * 1455, 'validation': 3 * 162, 'test': 3 * 180}
  assert (prepared.spec.crop, prepared.spec.crops) == ('random', 3)
  whole = prepare.prepare(helpers.config(tmp_path, 'digits'))
  for split, step in (('train', 97), ('test', 29)):
    assert np.array_equal(helpers.labels(prepared, split), np.repeat(helpers.labels(whole, split), 3))
    for row in range(0, len(prepared.images[split]), step):
      image = whole.images[split][row // 3]
      views = np.lib.stride_tricks.sliding_window_view(image[..., 0], (5, 4))
      assert np.any(np.all(views == prepared.images[split][row][..., 0], axis=(2, 3)))


def test_the_fingerprint_follows_the_number_of_windows(tmp_path):
  source = helpers.folder(tmp_path / 'x', helpers.random_images(10))
  fields = {'height': 3, 'width': 3, 'crop': 'random'}
  prints = {
    prepare.prepare(helpers.config(tmp_path, source, crops=n, **fields)).spec.fingerprint for n in (1, 2)
  }
  assert len(prints) == 2


def test_a_single_image_is_cut_in_the_middle():
  """Where there is no draw, as of a picture that a user gives, at the windows' own scale."""
  to = decode.target(DataConfig(crop='random', height=4, width=2))
  image = helpers.random_images(1, 9, 6)[0]
  assert np.array_equal(decode.fit(image, to), image[2:6, 2:4])
  assert decode.fit(image[:3], to).shape == (4, 2, 3)  # enlarged


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'crop': 'random', 'height': 3}, r'set --config.data\.height and --config.data\.width'),
    ({'crops': 2}, r"crop_options\.crops=2: there is no such option of --config\.data\.crop='center'"),
    ({'crop': 'random', 'height': 3, 'width': 3, 'crops': 0}, r'crops must be .* at least 1, but is 0'),
    ({'crop': 'random', 'height': 9, 'width': 3}, r'9 x 3 pixels, but .* is only 8 x 8'),
  ],
)
def test_what_cannot_be_cut_is_refused(tmp_path, fields, message):
  with pytest.raises(ValueError, match=message):
    prepare.prepare(helpers.config(tmp_path, 'digits', **fields))


def test_real_numbers_are_not_cut(tmp_path):
  fields = {'height': 1, 'width': 9, 'crop': 'random', 'limit': 10}
  with pytest.raises(ValueError, match='but these are real numbers'):
    prepare.prepare(helpers.config(tmp_path, 'splines', **fields))
