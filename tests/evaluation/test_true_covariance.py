"""Errors of predicted covariances against formulas of another form, and the rows of the table."""

import math

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from configs import supn_splines
from structured_obs.data import prepare
from structured_obs.data.prepare import Prepared
from structured_obs.data.sources import synthetic
from structured_obs.evaluation.sections import true_covariance, true_covariance_figures
from structured_obs.runs import experiment, initial
from structured_obs.runs.trained import Trained
from tests.distributions import cases


@pytest.fixture(scope='module', name='opened')
def _opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Prepared]:
  """A network at its start, of the sparse family, and a few splines."""
  config = supn_splines.get_config('f3')
  config.data.limit = 90
  config.data.cache_dir = str(tmp_path_factory.mktemp('cache'))
  prepared = prepare.prepare(config.data)
  made = experiment.build(config, prepared.spec)
  state = initial.init_state(made, jax.random.key(0))
  variables = {'params': state.params['model'], **state.model_state}
  trained = Trained('fresh', '', made.config, prepared.spec, made.model, variables, 0)
  return trained, prepared


def _truth(count: int = 3) -> true_covariance.Truth:
  return true_covariance.truth_of([synthetic.spline(7, index) for index in range(count)])


def test_errors_by_generalised_eigenvalues():
  truth = _truth()
  precision = np.stack([np.linalg.inv(synthetic.spline(8, index).covariance) for index in range(3)])
  found = true_covariance.errors(precision, truth)
  for i in range(3):
    covariance, true = np.linalg.inv(precision[i]), truth.covariance[i]
    ratios = scipy.linalg.eigh(covariance, true, eigvals_only=True)
    to_truth = 0.5 * np.sum(ratios - 1 - np.log(ratios))
    from_truth = 0.5 * np.sum(1 / ratios - 1 + np.log(ratios))
    density = scipy.stats.multivariate_normal(np.zeros(50), covariance)
    entropy = scipy.stats.multivariate_normal(np.zeros(50), true).entropy()
    np.testing.assert_allclose(found.kl_to_truth[i], to_truth, rtol=1e-8)
    np.testing.assert_allclose(found.kl_from_truth[i], from_truth, rtol=1e-8)
    np.testing.assert_allclose(found.expected[i], entropy + from_truth, rtol=1e-8)
    np.testing.assert_allclose(found.negative_log_prob[i], -density.logpdf(truth.residual[i]), rtol=1e-8)
    np.testing.assert_allclose(found.frobenius[i], math.sqrt(np.sum((covariance - true) ** 2)))


@cases.each(cases.gaussian_only(cases.main_cases()))
@pytest.mark.few(2)
def test_precision_of_any_family(case: cases.Case):
  problem = cases.make_problem(case)
  params = jax.tree.map(lambda leaf: leaf[None], problem.params)
  precision = true_covariance.precisions(problem.family, params)[0]
  cases.assert_close(precision @ problem.cov, np.eye(problem.size), 1e-6, 1e-2)


def test_rows_are_in_the_order_of_what_they_know(opened: tuple[Trained, Prepared]):
  trained, prepared = opened
  images = prepared.images['train'][: true_covariance.BATCH + 10]
  found = true_covariance.judge([trained], 'train', images)
  assert list(found) == ['truth', true_covariance.VARIANCES, 'best sparse factor, f = 3', 'fresh']
  assert all(len(values) == len(images) for row in found.values() for values in row)
  truth, variances, sparse, fresh = found.values()
  np.testing.assert_allclose(truth.kl_to_truth, 0, atol=1e-9)
  assert np.all(truth.kl_from_truth < sparse.kl_from_truth)
  assert np.all(sparse.kl_from_truth < variances.kl_from_truth)
  assert np.all(sparse.kl_from_truth < fresh.kl_from_truth)
  text = true_covariance.text(found)
  cell = f'{variances.kl_to_truth.mean():.2f} ± {variances.kl_to_truth.std(ddof=1) / 60**0.5:.2f}'
  assert cell in text
  tree = true_covariance.as_json(found)
  above = np.mean(sparse.negative_log_prob - truth.negative_log_prob)
  told = tree['best sparse factor, f = 3']['negative_log_prob_above_truth']['mean']
  np.testing.assert_allclose(told, above)


def test_other_images_than_the_splits_are_refused(opened: tuple[Trained, Prepared]):
  trained, prepared = opened
  with pytest.raises(ValueError, match="not the first of the split 'train'"):
    true_covariance.judge([trained], 'train', prepared.images['train'][1:])


def test_nothing_is_known_of_real_images(opened: tuple[Trained, Prepared]):
  real = supn_splines.get_config()
  real.data.source = 'digits'
  assert true_covariance.judge([opened[0]._replace(config=real)], 'test', np.zeros(0)) == {}


def test_pictures_are_written(opened: tuple[Trained, Prepared], tmp_path):
  trained, prepared = opened
  written = true_covariance_figures.write(tmp_path, [trained], 'train', prepared.images['train'])
  assert list(written) == ['Covariances', 'Samples']
  assert all(path.stat().st_size > 5000 for path in written.values())
