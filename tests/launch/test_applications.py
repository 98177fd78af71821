"""launch.interpolate, launch.components and launch.edit on runs of the demo."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.launch import conftest


def written(directory: Path, name: str, pictures: int = 1) -> dict[str, np.ndarray]:
  """Arrays of the one .npz, beside so many pictures."""
  files = sorted(path.name for path in directory.iterdir())
  assert f'{name}.npz' in files
  assert len(files) == 1 + pictures
  assert all((directory / file).stat().st_size > 3000 for file in files if file.endswith('.png'))
  with np.load(directory / f'{name}.npz') as arrays:
    return dict(arrays)


@pytest.mark.slow
def test_interpolate(demo: conftest.Demo, tmp_path: Path):
  done = conftest.launch(
    'interpolate', f'--workdir={demo.workdir / "low_rank"}', '--subject=test:2', '--steps=4',
    '--path=gaussian', f'--output={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  grid = written(tmp_path, 'test_2')['grid']
  assert grid.shape == (4, 4, 8, 8, 1)
  assert np.abs(np.diff(grid, axis=1)).max(axis=(0, 1)).min() > 0


def test_components(demo: conftest.Demo, tmp_path: Path):
  done = conftest.launch(
    'components', f'--workdir={demo.workdir / "diagonal"}', '--subject=prior:1', '--components=2',
    f'--output={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  arrays = written(tmp_path, 'prior_1', pictures=2)
  assert arrays['samples'].shape == arrays['alone'].shape == (2, 21, 8, 8, 1)
  np.testing.assert_allclose(arrays['samples'][0, 12], arrays['samples'][1, 12], atol=1e-6)
  step = arrays['alone'][1, 12] - arrays['alone'][1, 10]
  np.testing.assert_allclose(np.linalg.norm(step), arrays['deviations'][1], rtol=1e-4)


def test_edit_by_rectangles_and_files(demo: conftest.Demo, tmp_path: Path):
  paths = {name: tmp_path / f'{name}.png' for name in ('value', 'mask', 'subject')}
  mask = np.zeros((8, 8), np.uint8)
  mask[6, 2:4] = 255
  for path, pixels in zip(paths.values(), (np.full((8, 8), 255, np.uint8), mask, mask), strict=True):
    Image.fromarray(pixels).save(path)
  done = conftest.launch(
    'edit', f'--workdir={demo.workdir / "low_rank"}', f'--subject={paths["subject"]}',
    '--rectangle=1,1,2,2,-0.5', '--rectangle=2,2,1,1,0.25', f'--edit_image={paths["value"]}',
    f'--edit_mask={paths["mask"]}', '--deviation=0.1', '--samples=1', f'--output={tmp_path / "out"}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert 'about 1 is usual' in done.output
  arrays = written(tmp_path / 'out', 'subject')
  assert arrays['means'].shape == arrays['deviations'].shape == (4, 8, 8, 1)
  last = arrays['means'][-1][..., 0]
  np.testing.assert_array_equal(last[1:3, 1:3], [[-0.5, -0.5], [-0.5, 0.25]])
  assert (arrays['deviations'][-1][1:3, 1:3] == 0).all()
  assert (arrays['deviations'][-1][6, 2:4] > 0).all()
  assert arrays['samples'].shape == (4, 1, 8, 8, 1)
  assert arrays['masks'].sum(axis=(1, 2, 3)).tolist() == [4, 1, 2]


def test_edit_hides_a_region(demo: conftest.Demo, tmp_path: Path):
  done = conftest.launch(
    'edit', f'--workdir={demo.workdir / "low_rank"}', '--subject=test:3', '--hide=4,0,4,8',
    '--samples=2', f'--output={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert '32 pixels hidden' in done.output
  arrays = written(tmp_path, 'test_3')
  seen = arrays['masks'][0]
  assert seen[:4].all()
  assert not seen[4:].any()
  for image in (arrays['means'][1], *arrays['samples'][1]):
    np.testing.assert_array_equal(image[:4], arrays['touched'][0][:4])
  assert np.ptp(arrays['samples'][1], axis=0)[4:].min() > 0


@pytest.mark.parametrize(
  ('script', 'flags', 'message'),
  [
    ('interpolate', ('--subject=test:x',), 'must be test:INDEX, prior:SEED'),
    ('components', ('--components=65',), 'has 64 components'),
    ('edit', ('--rectangle=7,0,2,1,0',), 'does not lie in the image of 8 x 8'),
    ('edit', ('--edit_image=a.png',), 'needs an --edit_mask'),
    ('edit', (), 'nothing to edit'),
    ('edit', ('--hide=0,0,8,8',), '--hide hides all pixels'),
    ('edit', ('--rectangle=0,0,1,1,0', '--peek'), '--peek is about what --hide hides'),
  ],
)
def test_mistakes_are_one_line(demo: conftest.Demo, script: str, flags: tuple[str, ...], message: str):
  done = conftest.launch(script, f'--workdir={demo.workdir / "low_rank"}', *flags)
  assert (done.status, len(done.errors)) == (1, 1), done.errors
  assert message in done.errors[0]
