"""The small table: scores against dense float64 algebra, who wins, and what is not told apart."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from structured_obs import strict_json
from structured_obs.applications import overview
from structured_obs.distributions import low_rank
from structured_obs.evaluation.metrics import calibration

SHAPE = (4, 3, 1)


def test_scores_of_an_image_are_those_of_dense_algebra():
  family = low_rank.family(rank=2, noise_variance=0.1)
  keys = jax.random.split(jax.random.key(0), 3)
  emitted = {
    'mean': jax.random.normal(keys[0], SHAPE),
    'cov_factor': 5 * jax.random.normal(keys[1], (*SHAPE, 2)),
  }
  params, x = family.from_outputs(emitted), jax.random.normal(keys[2], SHAPE)
  found = overview._of_image(family, params, x)
  factor = np.asarray(params.cov_factor, np.float64).reshape(12, 2)
  cov = factor @ factor.T + 0.1 * np.eye(12)
  mean, image = (np.asarray(array, np.float64).ravel() for array in (params.mean, x))
  seen = np.arange(12) < 6
  gain = cov[np.ix_(~seen, seen)] @ np.linalg.inv(cov[np.ix_(seen, seen)])
  given = mean[~seen] + gain @ (image - mean)[seen]
  rest: Any = cov[np.ix_(~seen, ~seen)] - gain @ cov[np.ix_(seen, ~seen)]
  score = np.abs(image - mean) / np.sqrt(np.diag(cov))
  expected = {
    'error': np.mean((image - mean) ** 2),
    'hidden': stats.multivariate_normal(given, rest).logpdf(image[~seen]),
    'hidden_error': np.mean((image[~seen] - given) ** 2),
    'inside': np.mean(score <= stats.norm.ppf(0.95)),
    'distance': (image - mean) @ np.linalg.solve(cov, image - mean),
    'inverse_dof': 0.0,
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
  assert found['hidden'].dtype == jnp.asarray(x).dtype


def _scores(bits, psnr, spread):
  rng = np.random.default_rng(0).normal(size=50)
  values = {'bits_per_dim': bits + 0.01 * rng, 'psnr': psnr + rng, 'hidden_bits': bits + rng}
  values['hidden_psnr'] = psnr + np.random.default_rng(int(100 * bits)).normal(size=50)
  told = calibration.Calibration(1.25, spread, 1.0, 0.1, 1.0)
  return overview.Scores(values, 0.875, told, 12345, 321.4)


FOUND = {'plain': _scores(2.0, 20.0, 3.0), 'fancy': _scores(1.5, 19.0, 1.5)}


def test_the_table_has_every_line_and_paired_differences():
  lines = [
    [cell.strip() for cell in line.strip('|').split('|')] for line in overview.table(FOUND).splitlines()
  ]
  assert lines[0] == ['mean over 50 test images', 'better', 'plain', 'fancy', 'fancy - plain']
  by_label = {line[0]: line[1:] for line in lines}
  code = by_label['code length (negative ELBO), bits per pixel']
  assert code[0] == 'smaller'
  assert code[3] == '-0.500 ± 0.000'  # the same noise in both
  assert by_label['pixels inside their 90% interval'] == ['90%', '87.5%', '87.5%', '']
  assert by_label['its spread over images'] == ['1', '3.00', '1.50', '']
  assert by_label['parameters'][1] == '12,345'
  assert by_label['images per second in training'][1] == '321'
  assert len(lines) == 2 + len(overview.QUANTITIES) + 5


def test_the_verdict_names_the_winner_of_every_line_and_ties():
  lines = overview.verdict(FOUND).splitlines()
  assert len(lines) == len(overview.QUANTITIES) + 1
  assert lines[0] == (
    '- code length (negative ELBO): fancy is best, 0.500 ± 0.000 bits per pixel before plain.'
  )
  assert lines[1].startswith('- PSNR of the mean: plain is best, 1.00 ± 0.00 dB before fancy')
  assert 'nearest for fancy (1.50)' in lines[-1]
  same = {'a': FOUND['plain'], 'b': FOUND['plain']}
  assert 'a and b do not differ by more than chance' in overview.verdict(same)


def test_the_json_is_strict_and_has_the_same_numbers():
  nobody = FOUND['plain']._replace(images_per_second=float('nan'))
  tree = json.loads(strict_json.text(overview.as_json({'plain': nobody})))
  assert tree['plain']['images_per_second'] is None
  assert tree['plain']['scores']['psnr']['mean'] == pytest.approx(FOUND['plain'].values['psnr'].mean())
