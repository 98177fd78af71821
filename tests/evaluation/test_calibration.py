"""Calibration on distances whose distribution is known."""

import math

import numpy as np
import pytest
from scipy import stats

from structured_obs.evaluation.metrics import calibration

DIMS, COUNT = 64, 4000


def _distances(scale: float = 1.0) -> np.ndarray:
  """q / D of a model whose standard deviations are `scale` times too small."""
  x = np.random.default_rng(0).normal(size=(COUNT, DIMS))
  return np.mean(np.square(scale * x), axis=1)


@pytest.mark.parametrize('scale', [1.0, 1.7])
def test_temperature_finds_the_scale(scale: float):
  found = calibration.calibration(_distances(scale), DIMS)
  error = math.sqrt(2 / (DIMS * COUNT))
  assert abs(found.mean / scale**2 - 1) < 4 * error
  assert abs(found.temperature / scale - 1) < 2 * error
  assert abs(found.spread / scale**2 - 1) < 4 / math.sqrt(2 * COUNT)


def test_repairing_by_the_temperature_gives_one():
  distances = _distances(1.7)
  temperature = calibration.calibration(distances, DIMS).temperature
  assert calibration.calibration(distances / temperature**2, DIMS).mean == pytest.approx(1)


def test_spread_sees_what_the_mean_does_not():
  """Images of unlike scale, right on average: the spread tells."""
  half = np.concatenate([0.5 * _distances()[::2], 1.5 * _distances()[1::2]])
  found = calibration.calibration(half, DIMS)
  assert found.mean == pytest.approx(1, abs=0.02)
  assert found.spread > 2


@pytest.mark.parametrize(('dims', 'error'), [(16, 0.034), (64, 0.0081), (256, 0.002)])
def test_quantiles_are_those_of_chi_square(dims: int, error: float):
  expected, _ = calibration.quantiles(np.ones(1000), dims)
  exact = stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, dims) / dims
  assert np.abs(expected - exact).max() / math.sqrt(2 / dims) < error


def test_quantiles_match_for_a_perfect_model():
  expected, found = calibration.quantiles(_distances(), DIMS)
  assert np.all(np.diff(found) >= 0)
  inner = slice(COUNT // 10, -COUNT // 10)
  np.testing.assert_allclose(found[inner], expected[inner], atol=0.015)
  assert calibration.quantiles(np.ones(5), 1)[0].min() >= 0


@pytest.mark.parametrize(('dims', 'error'), [(16, 0.012), (64, 0.003)])
def test_distance_from_chi_square_is_that_of_kolmogorov_and_smirnov(dims: int, error: float):
  for scale in (0.9, 1.0, 1.1):
    distances = scale * np.random.default_rng(1).chisquare(dims, 300) / dims
    exact = stats.kstest(dims * distances, stats.chi2(dims).cdf).statistic
    assert abs(calibration.chi_square_distance(distances, dims) - exact) < error
  assert calibration.chi_square_distance(np.full(4, 100.0), dims) == pytest.approx(1)


def test_few_images():
  assert math.isnan(calibration.calibration(np.ones(1), 4).spread)
  with pytest.raises(ValueError, match='at least one image'):
    calibration.calibration(np.ones(0), 4)
  with pytest.raises(ValueError, match='num_dims=0'):
    calibration.quantiles(np.ones(3), 0)


def test_nan_stays():
  found = calibration.calibration(np.array([1.0, math.nan]), 4)
  assert all(math.isnan(value) for value in found)
  assert math.isnan(calibration.chi_square_distance(np.array([1.0, math.nan]), 4))
