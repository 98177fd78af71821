"""Edits from rectangles in words and from image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from structured_obs.applications import edit_input
from structured_obs.data import decode
from structured_obs.distributions.base import ImageShape

GRAY, COLOUR = ImageShape(6, 8, 1), ImageShape(6, 8, 3)


def test_a_rectangle_sets_its_pixels():
  rectangle = edit_input.parse_rectangle(' 1, 2,3,4,-0.5/0.25/1e-1,0.2')
  assert rectangle == edit_input.Rectangle(1, 2, 3, 4, (-0.5, 0.25, 0.1), 0.2)
  found = edit_input.of_rectangle(rectangle, COLOUR)
  expected = np.zeros(COLOUR, bool)
  expected[1:4, 2:6] = True
  np.testing.assert_array_equal(found.mask, expected)
  np.testing.assert_array_equal(found.value[3, 5], np.array([-0.5, 0.25, 0.1], np.float32))
  assert found.deviation == 0.2


def test_one_value_is_of_all_channels_and_edits_are_hard_unless_said():
  found = edit_input.of_rectangle(edit_input.parse_rectangle('0,0,6,8,-1'), COLOUR)
  assert found.mask.all()
  assert (found.value == -1).all()
  assert found.deviation == 0
  assert isinstance(found.deviation, float)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('1,2,3,4', 'must be row,column,height,width,value'),
    ('1,2,3,4,5,6,7', 'must be row,column'),
    ('-1,2,3,4,0', 'must be row,column'),
    ('1.5,2,3,4,0', 'must be row,column'),
    ('1,2,3,4,red', "'red' is not a number"),
    ('1,2,3,4,nan', "'nan' is not a number"),
    ('1,2,3,4,0/1', 'one value or red/green/blue'),
    ('1,2,0,4,0', 'at least one pixel'),
    ('1,2,3,4,0,-0.1', '-0.1 of an edit is invalid'),
  ],
)
def test_what_is_no_rectangle(text: str, message: str):
  with pytest.raises(ValueError, match=message):
    edit_input.parse_rectangle(text)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('4,0,3,1,0', 'rows 4 to 6 and columns 0 to 0 does not lie in the image of 6 x 8'),
    ('0,8,1,1,0', 'does not lie'),
    ('0,0,1,1,0/0/0', r'has 3 values, but the image has 1 channel\(s\)'),
  ],
)
def test_what_does_not_fit_the_image(text: str, message: str):
  with pytest.raises(ValueError, match=message):
    edit_input.of_rectangle(edit_input.parse_rectangle(text), GRAY)


def test_regions_hide_their_pixels():
  regions = [edit_input.parse_region(text) for text in ('0,0,2,3', ' 5, 7,1,1')]
  hidden = edit_input.of_regions(regions, GRAY)
  expected = np.zeros(GRAY[:2], bool)
  expected[:2, :3] = expected[5, 7] = True
  np.testing.assert_array_equal(hidden, expected)
  assert not edit_input.of_regions([], GRAY).any()


@pytest.mark.parametrize('text', ['1,2,3', '1,2,3,4,0', '-1,2,3,4', '1,2,x,4', '1,2,0,4', '1,2,3,0'])
def test_what_is_no_region(text: str):
  with pytest.raises(ValueError, match=r'--hide=.* is invalid; it must be'):
    edit_input.parse_region(text)


def test_regions_that_cannot_be_hidden():
  with pytest.raises(ValueError, match='The region of rows 4 to 6 and columns 0 to 0 does not lie'):
    edit_input.of_regions([edit_input.Region(4, 0, 3, 1)], GRAY)
  with pytest.raises(ValueError, match='nothing is left to see'):
    edit_input.of_regions([edit_input.Region(0, 0, 6, 8)], GRAY)


def save(path: Path, pixels: np.ndarray) -> str:
  Image.fromarray(pixels).save(path)
  return str(path)


def test_files_are_fitted_to_the_model(tmp_path: Path):
  """Twice as large; the mask is resized without new, gray values."""
  value = np.zeros((12, 16, 3), np.uint8)
  value[:, 8:] = (255, 128, 0)
  mask = np.zeros((12, 16), np.uint8)
  mask[4:8, 10:] = 255
  paths = save(tmp_path / 'v.png', value), save(tmp_path / 'm.png', mask)
  to = decode.Target(6, 8, 3, 'center', 'area')
  found = edit_input.of_files(edit_input.read_files(*paths), to, 0.1)
  expected = np.zeros(COLOUR, bool)
  expected[2:4, 5:] = True
  np.testing.assert_array_equal(found.mask, expected)
  np.testing.assert_allclose(found.value[2, 6], [1, 1 / 255, -1], atol=1e-6)
  assert found.deviation == 0.1
  gray = edit_input.of_files(edit_input.read_files(*paths), to._replace(channels=1))
  assert gray.value.shape == gray.mask.shape == GRAY


def test_files_that_cannot_be(tmp_path: Path):
  value = save(tmp_path / 'v.png', np.zeros((6, 8), np.uint8))
  small = save(tmp_path / 's.png', np.zeros((6, 4), np.uint8))
  text = tmp_path / 'text.png'
  text.write_text('no image')
  with pytest.raises(ValueError, match='must have the same size'):
    edit_input.read_files(value, small)
  with pytest.raises(FileNotFoundError, match=r'There is no image file .*none\.png'):
    edit_input.read_files(str(tmp_path / 'none.png'), value)
  with pytest.raises(ValueError, match=r'Image .*text\.png cannot be read'):
    edit_input.read_files(value, str(text))
  to = decode.Target(6, 8, 1, 'center', 'area')
  with pytest.raises(ValueError, match='no bright pixel'):
    edit_input.of_files(edit_input.read_files(value, value), to)
