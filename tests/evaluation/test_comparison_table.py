"""The table of models over seeds: its means, its spreads, and what it leaves out."""

import numpy as np
import pytest

from structured_obs.evaluation import comparison_table


def _summary(mean: float) -> dict[str, float]:
  return {'mean': mean, 'standard_error': 0.25, 'num_images': 5}


def _tree(shift: float = 0.0) -> dict:
  def model(bits: float, gaussian: bool) -> dict:
    scores = {'negative_iwae_bits_per_dim': _summary(bits + shift)}
    return {'scores': scores, 'calibration': {'spread': 2.0, 'temperature': 1.0} if gaussian else None}

  return {
    'models': {'white': model(3.0, True), 'mixture': model(2.0, False)},
    'differences': {'mixture - white': {'negative_iwae_bits_per_dim': _summary(-1.0)}},
    'sample_quality': {'distances': {'white new samples': {'kid': 0.02, 'coverage': 0.5}}},
    'image_quality': {'features': 'some_features', 'fingerprint': 'abc', 'models': {}},
  }


def _rows(text: str, heading: str) -> dict[str, list[str]]:
  block = text.split(f'## {heading}\n\n')[1].split('\n\n')[0]
  rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in block.split('\n')]
  return {row[0]: row[1:] for row in rows}


def test_of_one_seed_the_error_is_that_over_images():
  text = comparison_table.text([_tree()])
  found = _rows(text, 'Likelihood')
  assert found[''] == ['-IWAE, bits/dim', 'beside white']  # what no model has is no column
  assert found['white'] == ['3.000 ± 0.250', '']
  assert found['mixture'] == ['2.000 ± 0.250', '-1.000 ± 0.250']
  assert 'standard error over images' in text


def test_of_seeds_it_is_their_standard_deviation():
  shifts = [0.0, 0.1, 0.5]
  text = comparison_table.text([_tree(shift) for shift in shifts])
  mean, deviation = 3 + np.mean(shifts), np.std(shifts, ddof=1)
  assert _rows(text, 'Likelihood')['white'][0] == f'{mean:.3f} ± {deviation:.3f}'
  assert 'standard deviation over 3 seeds' in text


def test_factors_and_features():
  text = comparison_table.text([_tree()])
  assert _rows(text, 'Images')['white'] == ['20.00', '0.500']  # a thousand times the distance
  assert _rows(text, 'Images')['mixture'] == ['', '']
  assert _rows(text, 'Predicted covariance')['mixture'] == ['', '']
  assert 'some_features (abc)' in text


def test_parts_of_the_variance_of_new_images_are_a_table():
  tree = _tree()
  parts = {'of_means': _summary(0.02), 'given_z': _summary(0.08), 'share_of_z': 0.2}
  tree['variance_parts'] = {'images': 0.1, 'models': {'white': parts}}
  found = _rows(comparison_table.text([tree, tree]), 'Variance of new images')
  assert found[''] == ['1000 in z', '1000 in x', 'share of z']
  assert found['white'] == ['20.00 ± 0.00', '80.00 ± 0.00', '0.200 ± 0.000']
  assert found['mixture'] == ['', '', '']


def test_a_number_that_is_not_finite_is_told():
  tree = _tree()
  scores = tree['models']['white']['scores']
  scores['negative_iwae_bits_per_dim'] = {'mean': None, 'standard_error': None, 'num_images': 5}
  assert _rows(comparison_table.text([tree]), 'Likelihood')['white'][0] == 'nan'


def test_other_models_are_refused():
  other = _tree()
  other['models'] = {'white': other['models']['white']}
  for trees in ([], [_tree(), other]):
    with pytest.raises(ValueError, match='same models'):
      comparison_table.text(trees)
