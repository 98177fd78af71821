"""Tables and curves of models at several bounds on the KL."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from structured_obs.evaluation import rate_distortion


def _summary(mean: float | None) -> dict[str, float | None]:
  return {'mean': mean, 'standard_error': 0.25, 'num_images': 5}


def _tree(rate: float, psnr: float | None = None) -> dict[str, Any]:
  models = {
    name: {'step': 7 + i, 'scores': {'kl_nats': _summary(rate + i)}} for i, name in enumerate(('a', 'b'))
  }
  quality = {} if psnr is None else {'a': {'psnr_db': _summary(psnr)}}
  return {
    'data': 'digits', 'split': 'test', 'models': models, 'image_quality': {'models': quality}
  }  # fmt: skip


TREES = {'50': [_tree(48, 20), _tree(50, 22)], '9': [_tree(9, 15), _tree(9, 15)]}


def test_a_row_of_each_model_and_bound():
  text = rate_distortion.text(TREES)
  lines = [line.strip('|').split('|') for line in text.split('\n') if '|' in line]
  rows = [[cell.strip() for cell in line] for line in lines]
  assert rows[0] == ['', 'bound', 'KL, nats', 'PSNR, dB']  # what no model has is no column
  assert rows[2:] == [
    ['a', '50', '49.0 ± 1.4', '21.00 ± 1.41'],
    ['a', '9', '9.0 ± 0.0', '15.00 ± 0.00'],
    ['b', '50', '50.0 ± 1.4', ''],
    ['b', '9', '10.0 ± 0.0', ''],
  ]
  assert 'standard deviation over 2 seeds' in text


def test_curves_are_sorted_by_the_rate(tmp_path: Path):
  found = rate_distortion.curves(TREES)
  assert [*found] == ['PSNR, dB']
  assert [*found['PSNR, dB']] == ['a']
  expected = [[9, 15, 0], [49, 21, np.sqrt(2)]]
  np.testing.assert_allclose(found['PSNR, dB']['a'], expected)
  assert rate_distortion.draw(tmp_path / 'x.png', TREES).stat().st_size > 5000


def test_other_models_are_refused():
  for trees in ({}, {'1': [_tree(1)], '2': [{'models': {'a': {}}}]}):
    with pytest.raises(ValueError, match='same models'):
      rate_distortion.text(trees)
