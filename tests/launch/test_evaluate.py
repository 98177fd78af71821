"""launch.evaluate on runs of the demo."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from structured_obs.evaluation import compare
from tests.launch import conftest


@pytest.mark.slow
def test_evaluate_compares_two_runs(demo: conftest.Demo):
  first, second = demo.workdir / 'low_rank', demo.workdir / 'diagonal'
  done = conftest.launch(
    'evaluate', f'--workdir={first}', f'--compare={second}', '--samples=2', '--num_images=7',
    '--checkpoint=latest', '--split=validation',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert 'diagonal - low_rank' in done.output
  folder = first / 'evaluation_validation'
  tree = json.loads((folder / 'evaluation.json').read_text())
  assert (tree['split'], tree['images'], tree['checkpoint']) == ('validation', 7, 'latest')
  assert tree['models']['low_rank']['step'] == 3
  assert tree['devices'] == '1 x cpu'
  effective = np.load(folder / 'per_image.npz')['diagonal/effective_samples']
  assert np.all((effective >= 1) & (effective < 2.0001))
  assert effective.shape == (7,)
  assert not (folder / compare.UNFINISHED).exists()
  assert tree['image_quality']['differences']['diagonal - low_rank']['psnr_db']['num_images'] == 7
  for figure in ('calibration', 'grid', 'spectra'):
    assert (folder / 'figures' / f'{figure}.png').is_file()
  assert 'mean over 7 images' in (folder / 'report.md').read_text()


def _error(*flags: str) -> str:
  done = conftest.launch('evaluate', *flags)
  assert done.status == 1
  assert len(done.errors) == 1, done.errors
  return done.errors[0]


def test_evaluate_needs_a_run(tmp_path: Path):
  assert 'There is no run in' in _error(f'--workdir={tmp_path / "missing"}')


def test_evaluate_names_the_checkpoints_there_are(demo: conftest.Demo):
  error = _error(f'--workdir={demo.workdir / "diagonal"}', '--checkpoint=77')
  assert "no checkpoint '77'" in error
  assert '[3]' in error


def test_unknown_features_are_refused(demo: conftest.Demo):
  error = _error(f'--workdir={demo.workdir / "diagonal"}', '--features=lpips')
  assert (
    "--features='lpips' is unknown; it must be one of bands, self, random_conv, classifier:WORKDIR"
    in error
  )


def test_a_run_is_not_compared_with_itself(demo: conftest.Demo):
  workdir = demo.workdir / 'diagonal'
  assert 'twice' in _error(f'--workdir={workdir}', f'--compare={workdir}')


@pytest.mark.parametrize('flag', ['--split=tset', '--num_images=-1', '--samples=x', '--workdri=x'])
def test_a_wrong_flag_is_one_line(flag: str):
  done = conftest.launch('evaluate', flag)
  assert done.status == 2
  assert len(done.errors) == 1, done.errors


def test_a_workdir_that_moved_can_be_evaluated(demo: conftest.Demo, tmp_path: Path):
  moved = tmp_path / 'elsewhere'
  shutil.copytree(demo.workdir / 'diagonal', moved)
  done = conftest.launch('evaluate', f'--workdir={moved}', '--samples=1', '--num_images=2')
  assert done.status == 0, done.errors
  assert (moved / 'evaluation' / 'report.md').is_file()
