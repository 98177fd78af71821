"""Figures: files of the right size from gray and colour images of any size."""

import math
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from structured_obs import plotting

SHAPES = [(8, 8, 1), (5, 9, 3), (1, 17, 1), (13, 1, 3), (1, 1, 1), (70, 40, 3)]


def _images(shape: tuple[int, ...], count: int = 3) -> np.ndarray:
  return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def _read(path: Path | None) -> np.ndarray:
  """Pixels of a PNG file, checked not to be one flat colour."""
  assert path is not None
  found = matplotlib.image.imread(path)
  assert found.std() > 0.01
  return found


@pytest.mark.parametrize('shape', SHAPES)
def test_image_rows_of_every_kind(tmp_path: Path, shape: tuple[int, int, int]):
  images = _images(shape)
  rows = [
    plotting.Row('original', images),
    plotting.Row('standard deviation', np.abs(images), 'size'),
    plotting.Row('correlation', images[..., :1], 'signed', mark=(shape[0] // 2, 0), limit=1.0),
    plotting.Row('component 1', images, 'signed'),
  ]
  path = plotting.image_rows(tmp_path / 'new' / 'x.png', rows, ['a', 'b', 'c'], 'A title')
  found = _read(path)
  assert min(found.shape[:2]) > 100
  assert max(found.shape[:2]) < 2000


def test_more_images_make_a_wider_picture_and_more_rows_a_taller_one(tmp_path: Path):
  def size(rows: int, count: int) -> tuple[int, int]:
    path = plotting.image_rows(
      tmp_path / 'x.png', [plotting.Row('row', _images((8, 8, 1), count))] * rows
    )
    return _read(path).shape[:2]

  height, width = size(2, 3)
  assert size(2, 6)[0] == height
  assert size(2, 6)[1] > 1.5 * width
  assert size(4, 3)[0] > 1.5 * height


def test_pixels_are_clipped_and_shown_in_gray(tmp_path: Path):
  image = np.stack([np.full((4, 4, 1), value) for value in (-3.0, 0.0, 3.0)])
  found = _read(plotting.image_rows(tmp_path / 'x.png', [plotting.Row('', image)]))
  middle = found[found.shape[0] // 2, :, :3]
  assert (middle == 0).all(axis=1).sum() > 50  # black
  assert (np.abs(middle - 0.5) < 0.01).all(axis=1).sum() > 50  # gray


@pytest.mark.parametrize('channels', [1, 3])
def test_values_that_are_not_finite_or_all_zero_can_be_shown(tmp_path: Path, channels: int):
  bad = np.full((2, 4, 4, channels), math.nan)
  rows = [plotting.Row(kind, bad, kind) for kind in ('pixels', 'signed', 'size')]
  rows += [plotting.Row(kind, np.zeros_like(bad), kind) for kind in ('signed', 'size')]
  _read(plotting.image_rows(tmp_path / 'x.png', rows))


@pytest.mark.parametrize('shape', [(2, 4, 4), (2, 4, 4, 2), (0, 4, 4, 1)])
def test_what_is_not_a_row_of_images_is_named(tmp_path: Path, shape: tuple[int, ...]):
  with pytest.raises(ValueError, match="row 'mine' must have images"):
    plotting.image_rows(tmp_path / 'x.png', [plotting.Row('mine', np.zeros(shape))])
  with pytest.raises(ValueError, match='at least one row'):
    plotting.image_rows(tmp_path / 'x.png', [])
  with pytest.raises(ValueError, match='kind must be'):
    plotting.image_rows(tmp_path / 'x.png', [plotting.Row('', np.zeros((1, 2, 2, 1)), 'sizes')])


def test_places_left_empty_and_outlines(tmp_path: Path):
  black = np.full((2, 8, 8, 1), -1.0)
  outline = np.zeros((2, 8, 8), bool)
  outline[1, 3:5, 3:6] = True
  row = plotting.Row('', black, outline=outline)
  both = _read(plotting.image_rows(tmp_path / 'x.png', [row]))[..., :3]
  one = _read(plotting.image_rows(tmp_path / 'y.png', [row._replace(empty=(0,))]))[..., :3]
  assert both.shape == one.shape
  blackness = lambda found: (found == 0).all(axis=-1).sum()  # noqa: E731
  assert 0.4 < blackness(one) / blackness(both) < 0.6
  red = (both[..., 0] > 0.9) & (both[..., 1] < 0.5)
  rows, columns = np.nonzero(red)
  assert rows.size > 50
  assert np.ptp(columns) > 1.2 * np.ptp(rows)  # as the outlined pixels
  with pytest.raises(ValueError, match='outline of the row'):
    plotting.image_rows(tmp_path / 'x.png', [row._replace(outline=outline[0])])


def test_captions_make_room_under_their_row_alone(tmp_path: Path):
  images = np.zeros((2, 8, 8, 1), np.float32)
  sizes = []
  for captions in ((), ('1 dB',), ('1 dB', 'two\nlines')):
    row = plotting.Row('x', images, captions=captions)
    path = plotting.image_rows(tmp_path / 'x.png', [row, plotting.Row('y', images)])
    sizes.append(_read(path).shape)
  assert sizes[0][0] < sizes[1][0] < sizes[2][0]
  assert sizes[0][1] == sizes[2][1]


def test_blocks_stand_side_by_side_with_one_scale_in_each_row(tmp_path: Path):
  small, large = (np.full((2, 4, 4, 1), value, np.float32) for value in (0.5, 1.0))
  outline = np.zeros((2, 4, 4), bool)
  outline[:, :2] = True
  blocks = {
    name: [plotting.Row('x', np.zeros_like(images), outline=outline), plotting.Row('s', images, 'size')]
    for name, images in (('a', small), ('b', large))
  }
  found = _read(plotting.image_blocks(tmp_path / 'two.png', blocks, 'A title'))
  one = _read(plotting.image_blocks(tmp_path / 'one.png', {'a': blocks['a']}, 'A title'))
  assert found.shape[0] == one.shape[0]
  assert found.shape[1] > 1.8 * one.shape[1]
  bright = np.array([0.988, 0.998, 0.645])  # the strongest colour: of the larger block alone
  places = np.argwhere((np.abs(found[..., :3] - bright) < 0.01).all(axis=-1))
  assert len(places)
  assert places[:, 1].min() > found.shape[1] / 2
  assert ((np.abs(one[..., :3] - bright) < 0.01).all(axis=-1)).any()
  red = np.argwhere((found[..., 0] > 0.9) & (found[..., 1:3] < 0.1).all(axis=-1))
  assert red[:, 1].min() < found.shape[1] / 2 < red[:, 1].max()


def test_blocks_that_differ_are_refused(tmp_path: Path):
  rows = [plotting.Row('x', _images((4, 4, 1)))]
  for other in ([plotting.Row('y', _images((4, 4, 1)))], [plotting.Row('x', _images((4, 4, 1), 2))]):
    with pytest.raises(ValueError, match='blocks of the same rows'):
      plotting.image_blocks(tmp_path / 'x.png', {'a': rows, 'b': other})
  with pytest.raises(ValueError, match='blocks of the same rows'):
    plotting.image_blocks(tmp_path / 'x.png', {})


def test_a_mosaic_has_the_dots_of_a_grid():
  images = np.stack([np.full((1, 2, 2, 1), value, np.float32) for value in (-1.0, 1.0)])
  dots = plotting.mosaic(images)
  assert dots.dtype == np.uint8
  assert (dots[: len(dots) // 2 - 2] == 0).all()
  assert (dots[len(dots) // 2 + 2 :] == 255).all()


def test_a_grid_shows_every_pixel_in_its_place(tmp_path: Path):
  images = np.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5, 1)
  path = plotting.image_grid(tmp_path / 'new' / 'x.png', images)
  found = _read(path)[..., :3]
  scale, gap = 32, 2
  height, width = 2 * 4 * scale + gap, 3 * 5 * scale + 2 * gap
  bottom, left = round(0.08 * 150), round(0.1 * 150)
  grid = found[found.shape[0] - bottom - height : found.shape[0] - bottom, left : left + width]
  for row, column, r, c in ((0, 0, 0, 0), (1, 2, 3, 4), (1, 0, 2, 3)):
    y = row * (4 * scale + gap) + r * scale + scale // 2
    x = column * (5 * scale + gap) + c * scale + scale // 2
    expected = (images[row, column, r, c, 0] + 1) / 2
    np.testing.assert_allclose(grid[y, x], expected, atol=0.01)


def test_a_grid_with_labels_is_larger(tmp_path: Path):
  images = _images((6, 4, 3), 6).reshape(3, 2, 6, 4, 3)
  plain = _read(plotting.image_grid(tmp_path / 'x.png', images)).shape
  named = plotting.image_grid(tmp_path / 'y.png', images, ['a', 'b', 'c'], ['0', '1'], 'A title')
  assert all(a > b for a, b in zip(_read(named).shape[:2], plain[:2], strict=True))
  with pytest.raises(ValueError, match='rows, columns, height, width'):
    plotting.image_grid(tmp_path / 'x.png', images[0])


def test_training_curves(tmp_path: Path):
  records = [
    {'step': step, 'kind': kind, 'elbo': None if step == 3 else -1e4 / step, 'stats/kl_z': 0.1 * step}
    for step in range(1, 20)
    for kind in ('train', 'validation')
  ]
  found = _read(plotting.training_curves(tmp_path / 'x.png', records))
  assert found.shape[1] > 2 * found.shape[0]
  _read(plotting.training_curves(tmp_path / 'x.png', records[:1]))


def test_no_curves_without_records(tmp_path: Path):
  assert plotting.training_curves(tmp_path / 'x.png', []) is None
  assert plotting.training_curves(tmp_path / 'x.png', [{'step': 1, 'kind': 'train'}]) is None
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('found', [np.linspace(0.9, 1.1, 20), np.ones(1), np.full(3, math.nan)])
def test_quantile_plots(tmp_path: Path, found: np.ndarray):
  curves = {'one': (np.linspace(0.8, 1.2, len(found)), found), 'two': (found, 100 * found)}
  _read(plotting.quantile_quantile(tmp_path / 'x.png', curves))


def test_figures_leave_no_global_state(tmp_path: Path):
  """No pyplot figure is opened, so none has to be closed."""
  import matplotlib.pyplot

  plotting.image_rows(tmp_path / 'x.png', [plotting.Row('', _images((4, 4, 1)))])
  assert not matplotlib.pyplot.get_fignums()


def test_uniformity_of_one_and_many_models(tmp_path: Path):
  even = np.full(20, 0.05)
  one = _read(plotting.uniformity(tmp_path / 'one.png', {'even': even}))
  many = {name: np.roll(np.arange(20) / 190, i) for i, name in enumerate('abcdefgh')}
  assert _read(plotting.uniformity(tmp_path / 'many.png', many)).shape[0] > one.shape[0]
