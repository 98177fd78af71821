"""Squared error, PSNR and the table of a comparison, by definition."""

from pathlib import Path

import numpy as np
import pytest

from structured_obs.evaluation import image_quality

RNG = np.random.default_rng(0)
TRUE = RNG.uniform(-1, 1, (6, 4, 5, 1))
METHODS = {'noisy': TRUE + 0.1 * RNG.normal(size=TRUE.shape), 'better': TRUE + 0.01}


def test_psnr_of_a_constant_error():
  np.testing.assert_allclose(image_quality.mean_squared_error(METHODS['better'], TRUE), 1e-4)
  decibels = image_quality.peak_signal_to_noise(METHODS['better'], TRUE)
  np.testing.assert_allclose(decibels, 10 * np.log10(4 / 1e-4))
  assert np.all(np.isinf(image_quality.peak_signal_to_noise(TRUE, TRUE)))


def test_a_comparison_is_paired(tmp_path: Path):
  table, tree = image_quality.comparison(METHODS, TRUE, 'better')
  difference = np.mean(np.square(METHODS['noisy'] - TRUE), axis=(1, 2, 3)) - 1e-4
  told = tree['noisy']['mse_minus_better']
  np.testing.assert_allclose(told['mean'], difference.mean())
  np.testing.assert_allclose(told['standard_error'], difference.std(ddof=1) / 6**0.5)
  assert f'{1000 * difference.mean():.3f} ±' in table
  report = image_quality.write(tmp_path, table, tree, 'about it').read_text()
  assert table in report
  assert 'about it' in report


def test_images_of_other_shapes_are_refused():
  with pytest.raises(ValueError, match='differ in shape'):
    image_quality.mean_squared_error(TRUE, TRUE[:1])
