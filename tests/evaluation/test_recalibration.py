"""Temperatures against the densities of tempered Gaussians, and of a model known to be too sure."""

import numpy as np
import pytest
from scipy import stats

from structured_obs.evaluation import likelihood
from structured_obs.evaluation.metrics import temperature

SIZE = 50
SCALE = 0.4  # of the model; the truth's is 1
FIELDS = {name: np.zeros(300) for name in likelihood.Scores._fields}


def _scores(seed: int) -> tuple[likelihood.Scores, np.ndarray]:
  x = np.random.default_rng(seed).normal(size=(300, SIZE))
  log_prob = stats.norm.logpdf(x, scale=SCALE).sum(axis=1)
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
  tempered = stats.norm.logpdf(test[1], scale=SCALE * found.temperature).sum(axis=1)
  np.testing.assert_allclose(found.tempered, -tempered, rtol=1e-9)
  assert found.tempered.mean() < found.negative_log_prob.mean() - 10


def test_temperature_is_the_most_likely_one_of_its_own_split():
  scores, x = _scores(2)
  best = temperature.recalibrate(scores.mahalanobis, scores, SIZE)
  for factor in (0.98, 1.02):
    other = -stats.norm.logpdf(x, scale=SCALE * best.temperature * factor).sum(axis=1)
    assert best.tempered.mean() < other.mean()
