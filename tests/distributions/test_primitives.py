"""The primitives of every Gaussian family against a dense covariance built from its noise.

The oracle F F^T comes from `reparameterize` alone, by its Jacobian in float64; for the families whose
matrix is written down in the specification it is compared with that formula too.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from structured_obs.distributions import gaussian
from structured_obs.distributions.diagonal import Diagonal
from structured_obs.distributions.low_rank import LowRank
from structured_obs.linalg import dense
from tests.distributions import cases, operations
from tests.distributions.cases import Case, assert_close, each

MAIN = cases.gaussian_only(cases.main_cases())
ALL = MAIN + cases.gaussian_only(cases.shape_cases())


def _diagonal(params: Diagonal) -> Any:
  return np.diag(np.exp(2 * np.asarray(params.log_scale, np.float64).ravel()))


def _low_rank(params: LowRank) -> Any:
  factor = np.asarray(params.cov_factor, np.float64).reshape(params.mean.size, -1)
  diag = np.broadcast_to(np.asarray(params.cov_diag, np.float64), params.mean.shape)
  return factor @ factor.T + np.diag(diag.ravel())


FORMULAS: dict[type, Callable[[Any], Any]] = {Diagonal: _diagonal, LowRank: _low_rank}


def _dense_operations(case: Case, params: Any = None, x: Any = None) -> dict[str, Any]:
  """Everything about a case with other parameters or another image."""
  own, image, key, *_ = cases.arguments(case, x=x)
  operation = cases.compiled(case, operations.dense_operations)
  return operation(own if params is None else params, image, key)


@each(ALL)
@pytest.mark.slow
def test_reparameterize_is_affine(case: Case):
  problem, results = cases.make_problem(case), cases.results(case)
  assert_close(results['reparameterize_nothing'].ravel(), problem.mean, 1e-15, 1e-7)
  noise = np.asarray(ravel_pytree(results['noise'])[0], np.float64)
  moved = problem.mean + problem.factor @ noise
  assert_close(results['reparameterize'].ravel(), moved, 1e-14, 1e-6)
  assert_close(results['sample'], results['reparameterize'], 1e-14, 1e-6)


@pytest.mark.x64
@each(MAIN)
def test_noise_is_white(case: Case):
  """4,096 draws: means and covariances within 6 standard errors of 0 and I."""
  problem, num = cases.make_problem(case), 4096
  assert problem.family.gaussian is not None
  noise, params = problem.family.gaussian.noise, problem.params
  draw = jax.jit(jax.vmap(lambda key: ravel_pytree(noise(key, params))[0]))
  draws = np.asarray(draw(jax.random.split(jax.random.key(0), num)), np.float64)
  assert np.max(np.abs(draws.mean(0))) < 6 / num**0.5
  assert np.max(np.abs(draws.T @ draws / num - np.eye(draws.shape[1]))) < 6 * (2 / num) ** 0.5


@each([case for case in ALL if type(cases.random_params(case)) in FORMULAS])
def test_the_oracle_is_the_formula(case: Case):
  problem = cases.make_problem(case)
  formula = FORMULAS[type(problem.params)](problem.params)
  assert_close(problem.cov, formula, 1e-14, 1e-14)


@each(ALL)
def test_covariance(case: Case):
  problem, results = cases.make_problem(case), cases.results(case)
  assert_close(results['covariance'], problem.cov, 1e-13, 1e-6)
  assert_close(results['variance'].ravel(), np.diag(problem.cov), 1e-13, 1e-6)
  assert_close(results['covariance_column'].ravel(), problem.cov[-1], 1e-13, 1e-6)
  scale = np.sqrt(np.diag(problem.cov))
  correlation = problem.cov[-1] / (scale * scale[-1])
  assert_close(results['correlation'].ravel(), correlation, 1e-12, 1e-5)
  product = problem.cov @ np.asarray(problem.x, np.float64).ravel()
  assert_close(results['covariance_matvec'].ravel(), product, 1e-12, 1e-5)


@each(ALL)
def test_precision_is_the_inverse(case: Case):
  problem, results = cases.make_problem(case), cases.results(case)
  precision = np.asarray(results['precision_matrix'], np.float64)
  # Entries may be differences of numbers as large as the inverse of the pixels' own noise.
  assert_close(precision, np.linalg.inv(problem.cov), 1e-9, 5e-3)
  assert_close(precision, precision.T, 1e-10, 5e-3)
  assert_close(precision @ problem.cov, np.eye(problem.size), 1e-9, 2e-2)
  product = precision @ np.asarray(problem.x, np.float64).ravel()
  assert_close(results['precision_matvec'].ravel(), product, 1e-9, 5e-3)


@each(ALL)
def test_whiten(case: Case):
  """W^T W is the precision, and W cov W^T a projection onto D dimensions."""
  problem, results = cases.make_problem(case), cases.results(case)
  whiten = np.asarray(results['whiten_matrix'], np.float64)
  assert_close(whiten.T @ whiten, np.linalg.inv(problem.cov), 1e-9, 1e-4)
  spread = whiten @ problem.cov @ whiten.T
  assert_close(spread @ spread, spread, 1e-9, 1e-3)
  assert np.trace(spread) == pytest.approx(problem.size, rel=cases.tolerance(1e-9, 1e-3))
  product = whiten @ np.asarray(problem.x, np.float64).ravel()
  assert_close(ravel_pytree(results['whiten'])[0], product, 1e-9, 1e-3)


@each(ALL)
def test_white_image(case: Case):
  """A symmetric W of the images' own size, up to the diagonal: W cov W^T is the identity."""
  problem, results = cases.make_problem(case), cases.results(case)
  if case.generic and 'white_image' not in results:
    with pytest.raises(ValueError, match='no `white_image`'):
      gaussian.white_image(problem.family, problem.params, problem.x)
    return
  whiten = np.asarray(results['white_image_matrix'], np.float64)
  assert_close(whiten @ problem.cov @ whiten.T, np.eye(problem.size), 1e-8, 1e-3)
  residual = np.asarray(problem.x, np.float64).ravel() - problem.mean
  assert_close(np.asarray(results['white_image']).ravel(), whiten @ residual, 1e-8, 1e-3)


@each(ALL)
def test_mahalanobis_and_log_det(case: Case):
  problem, results = cases.make_problem(case), cases.results(case)
  residual = np.asarray(problem.x, np.float64).ravel() - problem.mean
  assert_close(results['mahalanobis'], dense.mahalanobis(problem.cov, residual), 1e-9, 1e-3)
  assert_close(results['log_det'], dense.log_det(problem.cov), 1e-11, 1e-5)
  assert_close(results['entropy'], dense.entropy(problem.cov), 1e-11, 1e-5)


@each(ALL)
def test_log_prob(case: Case):
  problem, results = cases.make_problem(case), cases.results(case)
  x = np.asarray(problem.x, np.float64).ravel()
  actual, error = float(results['log_prob']), cases.tolerance(1e-8, 5e-3)
  assert actual == pytest.approx(dense.log_prob(problem.mean, problem.cov, x), abs=error)
  normal: Any = scipy.stats.multivariate_normal
  by_scipy = normal(problem.mean, problem.cov).logpdf(x)
  assert actual == pytest.approx(by_scipy, abs=max(error, 1e-6))


@each(ALL)
def test_log_prob_far_from_the_mean(case: Case):
  """A residual that the model does not explain, where the quadratic form is large."""
  problem = cases.make_problem(case)
  x = problem.x + 0.5
  actual = float(_dense_operations(case, x=x)['log_prob'])
  expected = dense.log_prob(problem.mean, problem.cov, x)
  assert actual == pytest.approx(expected, rel=cases.tolerance(1e-9, 1e-4))


@each(ALL)
def test_principal_components(case: Case):
  cases.check_components(cases.make_problem(case), cases.results(case)['principal_components'])


@each(MAIN)
def test_temper_scales_the_covariance(case: Case):
  problem, tempered = cases.make_problem(case), cases.results(case)['temper']
  np.testing.assert_array_equal(problem.family.mean(tempered), problem.family.mean(problem.params))
  warm = _dense_operations(case, tempered)
  assert_close(warm['covariance'], 0.09 * problem.cov, 1e-12, 1e-6)
  expected = dense.log_prob(problem.mean, 0.09 * problem.cov, problem.x)
  assert float(warm['log_prob']) == pytest.approx(expected, rel=cases.tolerance(1e-9, 1e-4))
  for temperature in (0.0, -1.0):
    none = gaussian.temper(problem.family, problem.params, temperature)
    assert np.isnan(_dense_operations(case, none)['log_prob'])
