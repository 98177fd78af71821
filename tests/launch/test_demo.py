"""The demo: its trainings, one table, one picture; a second time without training."""

import json

import numpy as np
import pytest

from configs import demo as recipe
from structured_obs.runs import configuration
from tests.launch import conftest


def test_demo_prints_one_table_a_verdict_and_what_comes_next(demo: conftest.Demo):
  text = demo.done.output
  assert text.count('| code length (negative ELBO), bits per pixel ') == 1
  for expected in (
    'mean over 12 test images', 'low_rank - diagonal', '- PSNR of the mean: ', '- Calibration: ',
    'figures/overview.png', 'make studio', f'--workdir={demo.workdir / "low_rank"}', 'launch.evaluate',
  ):  # fmt: skip
    assert expected in text


def test_demo_writes_its_numbers_and_its_picture(demo: conftest.Demo):
  tree = json.loads((demo.workdir / 'overview.json').read_text())
  assert list(tree) == ['diagonal', 'low_rank']
  report = (demo.workdir / 'report.md').read_text()
  for scores in tree.values():
    bits = scores['scores']['bits_per_dim']
    assert bits['num_images'] == 12
    assert np.isfinite(bits['mean'])
    assert f'{bits["mean"]:.3f} ± {bits["standard_error"]:.3f}' in report
  assert '--recipe=digits --steps=3 --num_images=12' in report
  assert (demo.workdir / 'figures' / 'overview.png').stat().st_size > 5000


def test_both_variants_have_one_network(demo: conftest.Demo):
  """The comparison is of distributions: all else is the same."""
  configs = [
    json.loads((demo.workdir / name / 'run.json').read_text())['config']
    for name in ('diagonal', 'low_rank')
  ]
  assert configs[0].pop('likelihood') != configs[1].pop('likelihood')
  assert configs[0] == configs[1]


def test_the_variants_on_mnist_differ_in_the_distribution_alone():
  configs = [configuration.flatten(recipe.get_config(variant)) for variant in recipe.VARIANTS]
  for config in configs:
    assert config['data.source'] == 'mnist_sample'
    different = {name for name in config if config[name] != configs[0].get(name)}
    assert all(name.startswith('likelihood.') for name in different)
  floors = [config.get('likelihood.options.min_scale') for config in configs]
  assert floors == [0.05, None, 0.05]
  assert configs[1]['likelihood.options.min_variance'] == pytest.approx(0.05**2)


def _told(output: str) -> str:
  return output[output.index('| mean over') : output.index('picture ')]


@pytest.mark.slow
def test_a_second_time_nothing_is_trained(demo: conftest.Demo):
  metrics = demo.workdir / 'low_rank' / 'metrics.jsonl'
  before = metrics.read_text()
  done = conftest.launch('demo', *demo.flags)
  assert done.status == 0, done.errors
  assert metrics.read_text() == before
  assert _told(done.output) == _told(demo.done.output)


@pytest.mark.slow
def test_the_demo_on_mnist_has_three_models(tmp_path):
  flags = (f'--workdir={tmp_path}', '--steps=1', '--num_images=4')
  done = conftest.launch('demo', *flags)
  assert done.status == 0, done.errors
  assert list(json.loads((tmp_path / 'overview.json').read_text())) == list(recipe.VARIANTS)
