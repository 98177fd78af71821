"""launch.sample on a run of the demo."""

from pathlib import Path

import numpy as np
import pytest

from tests.launch import conftest


@pytest.mark.slow
def test_sample_writes_pictures_and_arrays(demo: conftest.Demo, tmp_path: Path):
  done = conftest.launch(
    'sample', f'--workdir={demo.workdir / "low_rank"}', '--num=3', '--samples=2', '--pixel=5,2',
    '--temperature=0.5', '--components=4', f'--output={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert all((tmp_path / name).stat().st_size > 5000 for name in ('prior.png', 'reconstructions.png'))
  arrays = np.load(tmp_path / 'samples.npz')
  for kind in ('prior', 'reconstruction'):
    assert arrays[f'{kind}_mean'].shape == (3, 8, 8, 1)
    assert arrays[f'{kind}_samples'].shape == (2, 3, 8, 8, 1)
    assert arrays[f'{kind}_components'].shape == (4, 3, 8, 8, 1)
    np.testing.assert_allclose(arrays[f'{kind}_correlation'][:, 5, 2], 1, rtol=1e-5)
    assert np.all(arrays[f'{kind}_standard_deviation'] > 0)
  assert arrays['original'].min() == -1


def _error(demo: conftest.Demo, *flags: str) -> str:
  done = conftest.launch('sample', f'--workdir={demo.workdir / "diagonal"}', *flags)
  assert done.status == 1
  assert len(done.errors) == 1, done.errors
  return done.errors[0]


def test_pixel_outside(demo: conftest.Demo):
  assert 'outside the image of shape (8, 8, 1)' in _error(demo, '--pixel=8,0')


def test_temperature_of_zero(demo: conftest.Demo):
  assert 'temperature=0.0 is out of range' in _error(demo, '--temperature=0')


def test_more_components_than_pixels(demo: conftest.Demo):
  assert '--components=65 is out of range; it must be from 0 to 64' in _error(demo, '--components=65')


def test_no_workdir():
  done = conftest.launch('sample')
  assert (done.status, len(done.errors)) == (1, 1)
  assert '--workdir is missing' in done.errors[0]
