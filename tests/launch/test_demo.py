"""The demo: two trainings, one table, one picture; a second time without training."""

import json

import numpy as np
import pytest

from tests.launch import conftest


def test_demo_prints_one_table(demo: conftest.Demo):
  text = demo.done.output
  assert text.count('negative ELBO, nats ') == 1
  for expected in (
    'mean over ', 'low_rank - diagonal', 'negative IWAE-4, bits/dim',
    'squared Mahalanobis distance', 'spread', '17 gray levels is 0.125 wide', 'figures/samples.png',
  ):  # fmt: skip
    assert expected in text


def test_demo_writes_its_numbers_and_pictures(demo: conftest.Demo):
  tree = json.loads((demo.workdir / 'evaluation.json').read_text())
  arrays = np.load(demo.workdir / 'per_image.npz')
  difference = arrays['low_rank/elbo'] - arrays['diagonal/elbo']
  told = tree['differences']['low_rank - diagonal']['negative_elbo_nats']
  assert difference.shape == (tree['images'],)
  np.testing.assert_allclose(told['mean'], -difference.mean())
  np.testing.assert_allclose(told['standard_error'], difference.std(ddof=1) / tree['images'] ** 0.5)
  assert (demo.workdir / 'figures' / 'samples.png').stat().st_size > 5000


def test_both_variants_have_one_network(demo: conftest.Demo):
  """The comparison is of distributions: all else is the same."""
  configs = [
    json.loads((demo.workdir / name / 'run.json').read_text())['config']
    for name in ('diagonal', 'low_rank')
  ]
  assert configs[0].pop('likelihood') != configs[1].pop('likelihood')
  assert configs[0] == configs[1]


@pytest.mark.slow
def test_a_second_time_nothing_is_trained(demo: conftest.Demo):
  metrics = demo.workdir / 'low_rank' / 'metrics.jsonl'
  before = metrics.read_text()
  done = conftest.launch('demo', *demo.flags)
  assert done.status == 0, done.errors
  assert metrics.read_text() == before
  tables = [output[output.index('| mean over') :] for output in (done.output, demo.done.output)]
  assert tables[0] == tables[1]
