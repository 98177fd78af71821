"""The comparison of a fitted distribution with the optimum of its family and with PCA."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import no_deep_learning
from structured_obs import strict_json
from structured_obs.data import pixels, prepare
from structured_obs.data.prepare import Prepared
from structured_obs.evaluation import results, sections
from structured_obs.evaluation.results import Result
from structured_obs.evaluation.sections import base, closed_form_fits
from structured_obs.evaluation.sections.closed_form_fits import Fit
from structured_obs.runs import experiment, initial
from structured_obs.runs.trained import Trained


@pytest.fixture(scope='module', name='opened')
def _opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Prepared]:
  """A distribution at its start, and a few digits."""
  config = no_deep_learning.get_config()
  config.data.limit, config.likelihood.options['rank'] = 120, 3
  config.data.cache_dir = str(tmp_path_factory.mktemp('cache'))
  prepared = prepare.prepare(config.data)
  made = experiment.build(config, prepared.spec)
  state = initial.init_state(made, jax.random.key(0))
  variables = {'params': state.params['model'], **state.model_state}
  trained = Trained('fresh', '', made.config, prepared.spec, made.model, variables, 0)
  return trained, prepared


@pytest.fixture(scope='module', name='result')
def _result(opened: tuple[Trained, Prepared]) -> Result:
  trained, prepared = opened
  settings = results.settings_of(trained.config, trained.spec)
  return results.evaluate(trained, prepared.images['test'], settings, seed=3)


@pytest.fixture(scope='module', name='fit')
def _fit(opened: tuple[Trained, Prepared], result: Result) -> Fit:
  images = opened[1].images
  return closed_form_fits.of_results([result], images['test'], images['train'], seed=3)[0]


@pytest.mark.slow
def test_the_optimum_is_of_dequantised_training_images(opened, fit: Fit):
  trained, prepared = opened
  width = pixels.bin_width(17)
  x = np.asarray(prepared.images['train'], np.float64).reshape(-1, 64) * width - 1
  values, vectors = np.linalg.eigh(np.cov(x.T, bias=True) + width**2 / 12 * np.eye(64))
  noise = values[:-3].mean()
  covariance = (vectors[:, -3:] * (values[-3:] - noise)) @ vectors[:, -3:].T + noise * np.eye(64)
  params = closed_form_fits._params(fit.best.trained)
  factor = np.asarray(params.cov_factor, np.float64).reshape(64, 3)
  np.testing.assert_allclose(params.mean.ravel(), x.mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(
    factor @ factor.T + float(params.cov_diag) * np.eye(64), covariance, atol=1e-4
  )
  assert fit.rank == 3
  assert trained.model is not fit.best.trained.model


def test_the_optimum_wins_where_it_was_fitted_and_is_scored_on_the_same_noise(opened, fit: Fit):
  numbers = closed_form_fits.as_json([fit])['fresh']
  assert numbers['training']['difference']['mean'] > 10
  assert numbers['training']['difference']['num_images'] == len(opened[1].images['train'])
  # Scored as itself, the optimum differs from itself by nothing.
  again = closed_form_fits.of_results([fit.best], opened[1].images['test'], opened[1].images['train'], 3)
  numbers = closed_form_fits.as_json(again)[fit.best.trained.name]
  assert abs(numbers['evaluated']['difference_per_cent']) < 1e-3
  assert abs(numbers['training']['difference_per_cent']) < 1e-3
  assert 0 < numbers['variance_of_components'] < 1


def test_a_given_noise_variance_stays(opened, result: Result, fit: Fit):
  config = opened[0].config
  options = {**config.likelihood.options, 'noise_variance': 0.2}
  fixed = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, options=config.model.options | {'scale': 'none'}),
    likelihood=dataclasses.replace(config.likelihood, options=options),
  )
  trained = closed_form_fits.optimum(
    result._replace(trained=opened[0]._replace(config=fixed)), fit.images
  )
  assert float(closed_form_fits._params(trained).cov_diag) == pytest.approx(0.2)


def test_pca_lies_in_the_plane_of_its_components(fit: Fit):
  samples = closed_form_fits.pca_samples(jax.random.key(0), fit)
  residual = (samples - fit.images.mean).reshape(100, 64)
  plane = fit.images.directions[:3].reshape(3, 64)
  weights = residual @ plane.T
  np.testing.assert_allclose(weights @ plane, residual, atol=1e-12)
  np.testing.assert_allclose(weights.var(axis=0) / fit.images.variances[:3], 1, atol=0.5)


def test_the_section_tells_all_of_it(opened, result: Result, tmp_path: Path):
  images = opened[1].images
  evaluated = base.Evaluated([result], 'test', images['test'], images, 3)
  assert closed_form_fits.section in sections.SECTIONS
  section = closed_form_fits.section(evaluated)
  assert section is not None
  assert 'probabilistic PCA of rank 3' in section.text
  assert 'no density' in section.text
  assert strict_json.text(section.tree)
  assert section.arrays['closed_form/fresh/log_prob'].shape == (len(images['test']),)
  assert section.draw is not None
  [path] = section.draw(tmp_path).values()
  assert path.read_bytes().startswith(b'\x89PNG')


def test_other_models_have_no_section(opened, result: Result):
  config, images = opened[0].config, opened[1].images
  vae = dataclasses.replace(config, model=dataclasses.replace(config.model, kind='vae'))
  other = result._replace(trained=opened[0]._replace(config=vae))
  assert closed_form_fits.of_results([other], images['test'], images['train']) == []
