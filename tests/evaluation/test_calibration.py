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


@pytest.mark.parametrize('dims', [1, 64, 12288])
@pytest.mark.parametrize('dof', [math.inf, 6.0])
def test_quantiles_are_those_of_chi_square_and_f(dims: int, dof: float):
  law = stats.chi2(dims, scale=1 / dims) if dof == math.inf else stats.f(dims, dof)
  expected, _ = calibration.quantiles(np.ones(1000), dims, 1 / dof)
  np.testing.assert_allclose(expected, law.ppf((np.arange(1000) + 0.5) / 1000), rtol=1e-9)
  found = law.ppf([1e-6, 0.3, 0.999])
  np.testing.assert_allclose(calibration.below(found, dims, 1 / dof), law.cdf(found), rtol=1e-9)


def test_quantiles_match_for_a_perfect_model():
  expected, found = calibration.quantiles(_distances(), DIMS)
  assert np.all(np.diff(found) >= 0)
  inner = slice(COUNT // 10, -COUNT // 10)
  np.testing.assert_allclose(found[inner], expected[inner], atol=0.015)
  assert calibration.quantiles(np.ones(5), 1)[0].min() >= 0


def test_distance_from_the_law_is_that_of_kolmogorov_and_smirnov():
  dims = 16
  for scale in (0.9, 1.0, 1.1):
    distances = scale * np.random.default_rng(1).chisquare(dims, 300) / dims
    for inverse, law in ((0.0, stats.chi2(dims, scale=1 / dims)), (0.2, stats.f(dims, 5))):
      exact = stats.kstest(distances, law.cdf).statistic
      assert calibration.law_distance(distances, dims, inverse) == pytest.approx(exact, rel=1e-9)
  assert calibration.law_distance(np.full(4, 100.0), dims) == pytest.approx(1)


def test_a_student_t_is_calibrated():
  """One nu for each image: each distance is judged by its own law."""
  rng, dims = np.random.default_rng(2), 40
  dofs = rng.choice([12.0, 40.0], COUNT)
  distances = stats.f(dims, dofs).rvs(random_state=rng)
  found = calibration.calibration(distances, dims, 1 / dofs)
  assert found.mean == pytest.approx(1, abs=0.05)
  assert found.spread == pytest.approx(1, abs=0.3)
  assert found.temperature == pytest.approx(1, abs=0.02)
  assert found.distance < 1.6 / math.sqrt(COUNT)
  assert found.pit_spread == pytest.approx(1, abs=0.03)
  expected, observed = calibration.quantiles(distances, dims, 1 / dofs)
  np.testing.assert_allclose(observed[100:-100], expected[100:-100], rtol=0.1)
  gaussian = calibration.calibration(distances, dims)
  assert gaussian.distance > 0.1
  assert gaussian.pit_spread > 1.15


def test_moments_that_are_not_finite_are_nan():
  found = calibration.calibration(_distances(), DIMS, 1 / 1.9)
  assert math.isnan(found.mean)
  assert math.isnan(found.spread)
  assert math.isfinite(found.temperature)
  assert math.isnan(calibration.calibration(_distances(), DIMS, 1 / 3.9).spread)


def test_few_images():
  assert math.isnan(calibration.calibration(np.ones(1), 4).spread)
  with pytest.raises(ValueError, match='at least one image'):
    calibration.calibration(np.ones(0), 4)
  with pytest.raises(ValueError, match='num_dims=0'):
    calibration.quantiles(np.ones(3), 0)


def test_nan_stays():
  found = calibration.calibration(np.array([1.0, math.nan]), 4)
  assert all(math.isnan(value) for value in found)
  assert math.isnan(calibration.law_distance(np.array([1.0, math.nan]), 4))
