"""The dense oracles themselves, against scipy and against exact identities of block matrices."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from structured_obs.linalg import dense


def _random(size: int = 6, seed: int = 0) -> tuple[Any, Any, Any]:
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(size, size))
  return rng.normal(size=size), root @ root.T + 0.1 * np.eye(size), rng.normal(size=size)


def test_log_prob_and_entropy_are_scipys():
  mean, cov, x = _random()
  normal = scipy.stats.multivariate_normal(mean, cov)
  assert dense.log_prob(mean, cov, x) == pytest.approx(normal.logpdf(x), rel=1e-11)
  assert dense.entropy(cov) == pytest.approx(normal.entropy(), rel=1e-11)


def test_condition_is_the_ratio_of_densities():
  mean, cov, x = _random()
  observed = np.arange(6) % 2 == 0
  joint = dense.log_prob(mean, cov, x)
  seen = dense.log_prob(*dense.marginal(mean, cov, observed), x[observed])
  rest = dense.log_prob(*dense.condition(mean, cov, x, observed), x[~observed])
  assert joint == pytest.approx(seen + rest, rel=1e-11)


def test_posterior_is_conditioning_on_a_noisy_copy():
  mean, cov, noisy = _random()
  joint = np.block([[cov, cov], [cov, cov + 0.5 * np.eye(6)]])
  observed = np.arange(12) >= 6
  both = np.concatenate([noisy, noisy])
  expected = dense.condition(np.concatenate([mean, mean]), joint, both, observed)
  for actual, wanted in zip(dense.posterior(mean, cov, noisy, 0.5), expected, strict=True):
    np.testing.assert_allclose(actual, wanted, atol=1e-11)


def test_kl_divergence():
  """In one dimension it is a formula by hand; it is invariant under a change of basis."""
  by_hand = 0.5 * (4 / 9 + 1 / 9 - 1) + math.log(3 / 2)
  assert dense.kl_divergence([1], [[4]], [2], [[9]]) == pytest.approx(by_hand, rel=1e-13)
  (mean_p, cov_p, _), (mean_q, cov_q, _) = _random(seed=1), _random(seed=2)
  basis = np.random.default_rng(3).normal(size=(6, 6))
  moved = dense.kl_divergence(
    basis @ mean_p, basis @ cov_p @ basis.T, basis @ mean_q, basis @ cov_q @ basis.T
  )
  assert dense.kl_divergence(mean_p, cov_p, mean_q, cov_q) == pytest.approx(moved, rel=1e-9)


def test_an_indefinite_matrix_is_refused():
  with pytest.raises(np.linalg.LinAlgError):
    dense.log_det([[1, 2], [2, 1]])


def test_dense_oracles_do_not_broadcast():
  cov, vector = np.eye(6), np.zeros(6)
  for call in (
    lambda v: dense.log_prob(v, cov, vector), lambda v: dense.log_prob(vector, cov, v),
    lambda v: dense.mahalanobis(cov, v), lambda v: dense.kl_divergence(v, cov, vector, cov),
    lambda v: dense.condition(vector, cov, v, vector > 0), lambda v: dense.marginal(v, cov, vector > 0),
    lambda v: dense.posterior(v, cov, vector, 0.1),
  ):  # fmt: skip
    with pytest.raises(ValueError, match='must have 6 entries'):
      call(np.zeros(1))
  with pytest.raises(ValueError, match='covariance must be'):
    dense.log_det(np.ones((2, 3)))
