"""Tables, JSON and reports of models that were made up."""

import json
import math
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import config, distributions, strict_json
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions import base
from structured_obs.evaluation import explanation, report, results
from structured_obs.evaluation.likelihood import Scores, Settings
from structured_obs.models import vae
from structured_obs.models.base import Traits
from structured_obs.objectives.terms import Terms
from structured_obs.runs import trained as opened

SPEC = DataSpec(
  height=4, width=3, channels=3, levels=17, counts={'train': 5, 'validation': 4, 'test': 9},
  source='npz:x', version='1', fingerprint='f' * 64, sha256='0' * 64, split_rule='by hand',
  crop='none', resample='area', has_labels=False, skipped=0, skipped_names=[], libraries={},
)  # fmt: skip
IMAGE = base.ImageShape(4, 3, 3)


def _trained(workdir: Path, family: str = 'diagonal') -> opened.Trained:
  chosen = config.Config(
    likelihood=config.LikelihoodConfig(family, distributions.options(family)),
    eval=config.EvalConfig(importance_samples=3, chunk=2, batch_size=4),
  )
  model = vae.VAE(distributions.family(family), IMAGE, latents=2, features=(4,), blocks=0)
  x = jnp.zeros((1, *IMAGE), jnp.float32)
  variables = jax.jit(model.init)(jax.random.key(0), jax.random.key(0)[None], x)
  return opened.Trained(family, str(workdir), chosen, SPEC, model, dict(variables), 40)


def _images() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    split: rng.integers(0, 17, (count, *IMAGE)).astype(np.uint8) for split, count in SPEC.counts.items()
  }


class _Model(nn.Module):
  """A model of which no method is called."""

  image: base.ImageShape = IMAGE
  traits: Traits = Traits(has_prior=True, has_latents=True)
  family: base.Family = distributions.family('diagonal')
  label_classes = None
  masked = False

  def __call__(self, keys: jax.Array, x: jax.Array, train: bool = False) -> Terms:
    raise NotImplementedError


def _result(name: str, elbo: list[float], samples: int = 500) -> results.Result:
  trained = opened.Trained(
    name, name, config.Config(), SPEC, _Model(), {'params': {'w': np.zeros(7)}}, 1
  )
  values = np.array(elbo)
  distance = np.linspace(0.5, 1.5, len(values))
  ones = np.ones_like(values)
  scores = Scores(
    elbo=values,
    kl=ones,
    log_prob=values + 1,
    iwae=values + 0.5,
    mahalanobis=distance,
    inverse_dof=0 * ones,
    iwae_error=0.25 * ones,
    effective_samples=3 * ones,
  )
  return results.Result(trained, Settings(17, samples), scores)


FIRST = _result('diagonal', [-20.0, -30.0, -40.0])
SECOND = _result('low_rank', [-14.0, -26.0, -32.0])


def test_an_autoencoder_has_no_bounds_and_a_density_of_its_own():
  trained = SECOND.trained._replace(model=_Model(traits=Traits(has_latents=True)))
  encoder = SECOND._replace(trained=trained)
  rows = {
    _cells(line)[0]: _cells(line)[1:] for line in results.comparison_table([FIRST, encoder]).splitlines()
  }
  assert rows['negative ELBO, nats'] == ['30.00 ± 5.77', '', '']
  assert rows['-log p(x given mean of z), nats'][2] == '-6.00 ± 1.15'
  tree = results.as_json([FIRST, encoder])
  assert set(tree['models']['low_rank']['scores']) == {'reconstruction_nats', 'mahalanobis_per_dim'}
  assert set(tree['differences']['low_rank - diagonal']) == set(tree['models']['low_rank']['scores'])
  assert '| -log p(x given z), nats ' in results.comparison_table([encoder])
  assert 'bound' not in results.comparison_table([encoder])


def _cells(line: str) -> list[str]:
  return [cell.strip() for cell in line.strip('|').split('|')]


def test_table():
  lines = results.comparison_table([FIRST, SECOND]).splitlines()
  assert len({len(line) for line in lines}) == 1
  rows = {_cells(line)[0]: _cells(line)[1:] for line in lines}
  assert rows['mean over 3 images'] == ['diagonal', 'low_rank', 'low_rank - diagonal']
  assert rows['negative ELBO, nats'] == ['30.00 ± 5.77', '24.00 ± 5.29', '-6.00 ± 1.15']
  bits = [(value / 36 + math.log(0.125**-1)) / math.log(2) for value in (29.5, 23.5)]
  found = [float(cell.split()[0]) for cell in rows['negative IWAE-500, bits/dim']]
  np.testing.assert_allclose(found, [*bits, bits[1] - bits[0]], atol=6e-5)
  assert rows['effective samples of 500'] == ['3.0 ± 0.0', '3.0 ± 0.0', '0.0 ± 0.0']
  assert rows['standard error of an IWAE-500'][0] == '0.250 ± 0.000'
  assert 'samples, (sum w)^2 / sum w^2' in explanation.text([FIRST])
  assert rows['squared Mahalanobis distance q / D'][:2] == ['1.000 ± 0.289'] * 2
  assert rows['its spread, sd(q) / sqrt(2 D)'] == ['2.121', '2.121', '']  # 0.5 sqrt(36 / 2)


def _discrete() -> opened.Trained:
  family = distributions.family('discretized_logistic_mixture', levels=17)
  plain = config.Config(objective=config.ObjectiveConfig(dequantize=False))
  return SECOND.trained._replace(name='discrete', model=_Model(family=family), config=plain)


def test_probabilities_and_densities_are_compared_in_bits_alone():
  other = SECOND._replace(trained=_discrete())
  results.check_comparable(FIRST.trained, [other.trained])
  table = results.comparison_table([FIRST, other])
  rows = {_cells(line)[0]: _cells(line)[1:] for line in table.splitlines()}
  assert rows['negative ELBO, nats'] == ['30.00 ± 5.77', '24.00 ± 5.29', '']
  first, second, difference = (float(cell.split()[0]) for cell in rows['negative ELBO, bits/dim'])
  np.testing.assert_allclose(first, (30 / 36 + math.log(8)) / math.log(2), atol=6e-5)
  np.testing.assert_allclose(second, 24 / 36 / math.log(2), atol=6e-5)
  np.testing.assert_allclose(difference, second - first, atol=1.1e-4)
  assert rows['squared Mahalanobis distance q / D'] == ['1.000 ± 0.289', '', '']
  assert rows['its spread, sd(q) / sqrt(2 D)'] == ['2.121', '', '']
  tree = results.as_json([FIRST, other])
  assert tree['models']['discrete']['calibration'] is None
  assert 'negative_elbo_nats' not in tree['differences']['discrete - diagonal']
  text = explanation.text([FIRST, other])
  assert 'discrete: probabilities of images of 17 gray levels' in text
  assert 'Uniform noise of that width' in text
  assert 'in bits/dim, not in nats' in text
  alone = results.comparison_table([other])
  assert 'Mahalanobis' not in alone
  assert 'Mahalanobis' not in explanation.text([other])


def test_one_sample_has_no_importance_weights():
  table = results.comparison_table([_result('x', [-1.0], samples=1)])
  assert 'IWAE' not in table
  assert 'effective' not in table


def test_explanation_tells_levels_and_noise():
  text = explanation.text([FIRST])
  assert '17 gray levels is 0.125 wide' in text
  assert 'Uniform noise of that width' in text
  plain = FIRST._replace(settings=FIRST.settings._replace(dequantize=False))
  assert 'do not bound a code length' in explanation.text([plain])


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_named_below_the_table(bad: float):
  table = results.comparison_table([FIRST, _result('other', [1.0, bad, 2.0])])
  row = next(line for line in table.splitlines() if line.startswith('| negative ELBO, nats'))
  assert _cells(row)[2:] == ['nan', 'nan']
  assert 'Not finite for 1 of 3 images (index 1)' in table
  assert 'other: negative ELBO, nats' in table
  assert 'diagonal: ' not in table
  assert 'Not finite' not in results.comparison_table([FIRST, SECOND])


def _strict(text: str) -> dict:
  def refuse(constant: str) -> None:
    raise AssertionError(f'{constant} is not JSON')

  return json.loads(text, parse_constant=refuse)


def test_json_is_strict():
  tree = _strict(strict_json.text(results.as_json([FIRST, SECOND])))
  difference = tree['differences']['low_rank - diagonal']['negative_elbo_nats']
  assert difference['mean'] == -6
  assert tree['models']['diagonal']['parameters'] == 7
  assert tree['settings']['levels'] == 17
  bad = _strict(strict_json.text(results.as_json([_result('x', [math.nan, math.inf])])))
  assert bad['models']['x']['scores']['negative_elbo_nats']['mean'] is None
  assert _strict(strict_json.text({'a': [np.float64('inf'), (np.int32(3),)]})) == {'a': [None, [3]]}


def test_runs_on_other_data_are_not_compared():
  other = SECOND.trained._replace(spec=SPEC._replace(sha256='1'))
  with pytest.raises(ValueError, match='low_rank was trained on other images than diagonal'):
    results.check_comparable(FIRST.trained, [SECOND.trained, other])
  larger = SECOND.trained._replace(spec=SPEC._replace(sha256='1', height=8))
  with pytest.raises(ValueError, match='npz:x of 8 x 3 x 3, npz:x of 4 x 3 x 3'):
    results.check_comparable(FIRST.trained, [larger])
  plain = config.Config(objective=config.ObjectiveConfig(dequantize=False))
  with pytest.raises(ValueError, match=r'objective\.dequantize'):
    results.check_comparable(FIRST.trained, [SECOND.trained._replace(config=plain)])


def _check_figures(path: Path, count: int) -> None:
  """Every figure that a report shows is there."""
  figures = re.findall(r'!\[.*?\]\((.*?)\)', path.read_text())
  assert len(figures) == count
  assert all((path.parent / figure).stat().st_size > 1000 for figure in figures)


@pytest.mark.slow
def test_report_of_a_training(tmp_path: Path):
  records = [{'step': 1, 'kind': 'train', 'elbo': -3.0, 'stats/kl_z': 1.0}]
  path = report.write_report(_trained(tmp_path, 'low_rank'), _images(), records, 'python -m this')
  text = path.read_text()
  for expected in (
    'low_rank on npz:x', 'step 40', 'all 4 validation images', 'all 9 test images',
    'python -m this', f'launch.evaluate --workdir={tmp_path}', 'by hand',
    "likelihood.family = 'low_rank'",
  ):  # fmt: skip
    assert expected in text
  _check_figures(path, 3)


def test_report_without_test_images_and_records(tmp_path: Path):
  images = _images() | {split: np.zeros((0, *IMAGE), np.uint8) for split in ('validation', 'test')}
  path = report.write_report(_trained(tmp_path), images, [], 'python -m this')
  assert 'validation ELBO' not in path.read_text()
  _check_figures(path, 1)


def test_report_of_an_evaluation(tmp_path: Path):
  images = _images()['test']
  models = [_trained(tmp_path / family, family) for family in ('diagonal', 'low_rank')]
  settings = results.settings_of(models[0].config, SPEC, samples=2)
  found = [results.evaluate(trained, images, settings) for trained in models]
  path = report.write_evaluation(tmp_path / 'new', found, images, {'split': 'test'})
  assert results.comparison_table(found) in path.read_text()
  _check_figures(path, 6)
  tree = _strict((path.parent / 'evaluation.json').read_text())
  arrays = np.load(path.parent / 'per_image.npz')
  assert tree['split'] == 'test'
  assert arrays['low_rank/iwae'].shape == (9,)
  assert arrays['low_rank/effective_samples'].shape == (9,)
  mean = tree['models']['diagonal']['scores']['negative_elbo_nats']['mean']
  np.testing.assert_allclose(mean, -arrays['diagonal/elbo'].mean(), rtol=1e-12)
