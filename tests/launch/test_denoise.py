"""launch.denoise on runs of the demo."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.launch import conftest


def test_denoise_compares_the_methods(demo: conftest.Demo, tmp_path: Path):
  done = conftest.launch(
    'denoise', f'--workdir={demo.workdir / "low_rank"}', f'--compare={demo.workdir / "diagonal"}',
    '--sigma=0.4', '--num_images=3', '--components=5', '--best_components=4', '--refinements=1',
    f'--output={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  tree = json.loads((tmp_path / 'scores.json').read_text())
  assert (tree['sigma'], tree['images']) == (0.4, 3)
  expected = {'noisy', 'reconstruction', 'posterior mean', 'posterior mean, refined 1x', 'diagonal'}
  names = set(tree['methods'])
  assert expected < names
  assert 'projection on 5' in names
  errors = {name: scores['mse']['mean'] for name, scores in tree['methods'].items()}
  assert errors['posterior mean'] < errors['reconstruction']
  with np.load(tmp_path / 'images.npz') as arrays:
    assert arrays['posterior mean'].shape == arrays['standard deviation'].shape == (3, 8, 8, 1)
    error = np.mean(np.square(arrays['noisy'] - arrays['original']), axis=(1, 2, 3), dtype=np.float64)
  np.testing.assert_allclose(tree['methods']['noisy']['mse']['mean'], error.mean(), rtol=1e-5)
  assert (tmp_path / 'denoising.png').stat().st_size > 5000
  assert '1000 MSE - posterior mean' in (tmp_path / 'report.md').read_text()


def test_files_that_are_noisy_already_are_not_scored(demo: conftest.Demo, tmp_path: Path):
  path = tmp_path / 'one.png'
  noise = np.random.default_rng(0).integers(0, 17, (16, 16), dtype=np.uint8)
  Image.fromarray(noise).save(path)
  done = conftest.launch(
    'denoise', f'--workdir={demo.workdir / "low_rank"}', f'--files={path}', '--noisy',
    '--noprojection', f'--output={tmp_path / "out"}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['denoising.png', 'images.npz']


def test_mistakes_are_one_line(demo: conftest.Demo):
  workdir = f'--workdir={demo.workdir / "low_rank"}'
  for flags, message in (
    ((), '--workdir is missing'),
    ((workdir, '--noisy'), 'name them with --files'),
    ((workdir, '--sigma=0'), 'of pixels in [-1, 1], must be positive'),
  ):
    done = conftest.launch('denoise', *flags)
    assert (done.status, len(done.errors)) == (1, 1)
    assert message in done.errors[0]


@pytest.mark.slow
def test_a_denoiser_is_trained_evaluated_and_compared(demo: conftest.Demo, tmp_path: Path):
  workdir, first = tmp_path / 'denoiser', demo.workdir / 'low_rank'
  done = conftest.launch(
    'train', '--config=configs/digits.py:diagonal', f'--workdir={workdir}', '--config.train.steps=2',
    '--config.model.kind=denoiser', '--config.model.options.features=(4,)',
    '--config.model.options.noise=0.4', '--config.train.batch_size=8',
  )  # fmt: skip
  assert done.status == 0, done.errors
  done = conftest.launch('evaluate', f'--workdir={workdir}', '--num_images=6')
  assert done.status == 0, done.errors
  assert '-log p(x given x with noise), nats' in done.output
  assert 'denoiser is a denoiser: its density, q and images are those of p(x|y)' in done.output
  assert 'noise of standard deviation 0.4, one draw' in done.output
  assert 'ELBO, nats' not in done.output
  tree = json.loads((workdir / 'evaluation' / 'evaluation.json').read_text())
  # An untrained network leaves the noise as it is: 10 log10 of 4 / 0.4^2, but for clipping.
  assert 13 < tree['image_quality']['models']['denoiser']['psnr_db']['mean'] < 17
  assert tree['models']['denoiser']['training_calibration']['mean'] > 0
  done = conftest.launch(
    'denoise', f'--workdir={first}', f'--compare={workdir}', '--sigma=0.3', '--num_images=3',
    '--noprojection', f'--output={tmp_path / "out"}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert 'denoiser was trained on noise of 0.4, not on 0.3.' in done.output
  tree = json.loads((tmp_path / 'out' / 'scores.json').read_text())['methods']
  errors = {name: scores['mse']['mean'] for name, scores in tree.items()}
  assert errors['linear filter'] < errors['noisy']
  assert tree['linear filter']['parameters'] == 64 * 67 // 2
  assert tree['denoiser']['parameters'] > 0
  assert 'parameters' not in tree['noisy']
  done = conftest.launch(
    'denoise', f'--workdir={workdir}', '--num_images=2', '--nolinear_filter', f'--output={tmp_path}',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert '1000 MSE - denoiser' in (tmp_path / 'report.md').read_text()
  with np.load(tmp_path / 'images.npz') as arrays:
    assert {*arrays} == {'noisy', 'denoiser', 'standard deviation', 'original'}
  done = conftest.launch('denoise', f'--workdir={workdir}', '--refinements=1')
  assert done.status == 1
  assert 'which encodes nothing; leave it 0' in done.errors[0]
