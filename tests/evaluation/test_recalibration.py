"""Temperatures and tails against densities by scipy, of models known to be too sure."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from structured_obs.evaluation import likelihood
from structured_obs.evaluation.metrics import temperature

STATS: Any = stats  # distributions, whose stubs are of other types

SIZE = 50
SCALE = 0.4  # of the model; the truth's is 1
FIELDS = {name: np.zeros(300) for name in likelihood.Scores._fields}


def _scores(seed: int) -> tuple[likelihood.Scores, np.ndarray]:
  x = np.random.default_rng(seed).normal(size=(300, SIZE))
  log_prob = STATS.norm.logpdf(x, scale=SCALE).sum(axis=1)
  distance = np.mean((x / SCALE) ** 2, axis=1)
  scores = likelihood.Scores(**{**FIELDS, 'log_prob': log_prob, 'mahalanobis': distance})
  return scores, x


def test_temperature_makes_an_overconfident_model_right():
  validation, test = _scores(0)[0], _scores(1)
  found = temperature.recalibrate(validation.mahalanobis, test[0], SIZE)
  assert found.temperature == pytest.approx(1 / SCALE, rel=0.01)
  assert found.before.mean == pytest.approx(SCALE**-2, rel=0.02)
  assert found.after.mean == pytest.approx(1, abs=0.02)
  assert found.after.spread == pytest.approx(1, abs=0.15)
  tempered = STATS.norm.logpdf(test[1], scale=SCALE * found.temperature).sum(axis=1)
  np.testing.assert_allclose(found.tempered, -tempered, rtol=1e-9)
  assert found.tempered.mean() < found.negative_log_prob.mean() - 10


def test_temperature_is_the_most_likely_one_of_its_own_split():
  scores, x = _scores(2)
  best = temperature.recalibrate(scores.mahalanobis, scores, SIZE)
  for factor in (0.98, 1.02):
    other = -STATS.norm.logpdf(x, scale=SCALE * best.temperature * factor).sum(axis=1)
    assert best.tempered.mean() < other.mean()


def test_tails_of_a_student_t_are_found():
  """The truth is a Student t whose scale the Gaussian model misses by SCALE."""
  dof, rng = 6.0, np.random.default_rng(3)
  law = STATS.multivariate_t(np.zeros(SIZE), np.eye(SIZE), dof)
  seen, x = law.rvs(2000, random_state=rng), law.rvs(400, random_state=rng)
  distances, distance = (np.mean((images / SCALE) ** 2, axis=1) for images in (seen, x))
  log_prob = STATS.norm.logpdf(x, scale=SCALE).sum(axis=1)
  fields = {name: np.zeros(400) for name in likelihood.Scores._fields}
  scores = likelihood.Scores(**{**fields, 'log_prob': log_prob, 'mahalanobis': distance})
  found = temperature.recalibrate(distances, scores, SIZE)
  assert found.tails.dof == pytest.approx(dof, rel=0.15)
  assert found.tails.temperature == pytest.approx(1 / SCALE, rel=0.03)
  scale = (SCALE * found.tails.temperature) ** 2
  expected = STATS.multivariate_t(np.zeros(SIZE), scale * np.eye(SIZE), found.tails.dof).logpdf(x)
  np.testing.assert_allclose(found.heavy, -expected, rtol=1e-9)
  assert found.student.distance < 0.07 < 0.15 < found.after.distance
  assert found.student.pit_spread == pytest.approx(1, abs=0.1)
  assert found.heavy.mean() < found.tempered.mean() - 2
  for near in (0.97, 1.03):
    other = temperature.Tails(found.tails.dof * near, found.tails.temperature)
    assert _mean_density(distances, other) < _mean_density(distances, found.tails)
    other = temperature.Tails(found.tails.dof, found.tails.temperature * near)
    assert _mean_density(distances, other) < _mean_density(distances, found.tails)


def _mean_density(distances: np.ndarray, tails: temperature.Tails) -> float:
  ratio = STATS.f(SIZE, tails.dof).logpdf(distances / tails.temperature**2)
  return float(np.mean(ratio)) - 2 * np.log(tails.temperature)


def test_a_student_t_is_recalibrated_with_its_own_tails():
  dof, rng = 8.0, np.random.default_rng(4)
  law = STATS.multivariate_t(np.zeros(SIZE), SCALE**2 * np.eye(SIZE), dof)
  x = law.rvs(500, random_state=rng) / SCALE
  distance = np.mean((x / SCALE) ** 2, axis=1)
  fields = {name: np.full(500, 1 / dof) for name in likelihood.Scores._fields}
  scores = likelihood.Scores(**{**fields, 'log_prob': law.logpdf(x), 'mahalanobis': distance})
  found = temperature.recalibrate(distance, scores, SIZE, scores.inverse_dof)
  assert found.temperature == pytest.approx(1 / SCALE, rel=0.03)
  warm = STATS.multivariate_t(np.zeros(SIZE), (SCALE * found.temperature) ** 2 * np.eye(SIZE), dof)
  np.testing.assert_allclose(found.tempered, -warm.logpdf(x), rtol=1e-9)
  assert found.after.distance < 0.07
