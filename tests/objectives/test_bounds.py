"""Bounds against their definitions, and bits per dimension against a discrete code length."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from structured_obs.objectives import bounds
from structured_obs.objectives.terms import Terms, log_weight


@pytest.fixture
def terms() -> Terms:
  draw = np.random.default_rng(0).normal(size=(5, 3))
  x, z, u, qz, qu = (jnp.asarray(row) for row in draw)
  return Terms({'x': x, 'z': z, 'u': u}, {'z': qz, 'u': qu}, {'kl_z': jnp.asarray([1.0, 2.0, 3.0])})


def test_log_weight_is_log_p_minus_log_q(terms):
  expected = terms.log_p['x'] + terms.log_p['z'] + terms.log_p['u'] - terms.log_q['z'] - terms.log_q['u']
  np.testing.assert_allclose(log_weight(terms), expected, rtol=1e-6)


@pytest.mark.parametrize('beta', [1.0, 4.0])
def test_elbo_prefers_the_closed_form_and_weighs_every_kl(terms, beta):
  sampled_u = terms.log_q['u'] - terms.log_p['u']
  expected = terms.log_p['x'] - beta * (terms.stats['kl_z'] + sampled_u)
  np.testing.assert_allclose(bounds.elbo(terms, beta), expected, rtol=1e-6)


def test_objective_reports_the_unweighted_elbo(terms):
  loss, metrics = bounds.negative_elbo(beta=4.0)(terms, {})
  np.testing.assert_allclose(loss, -jnp.mean(bounds.elbo(terms, 4.0)), rtol=1e-6)
  np.testing.assert_allclose(metrics['elbo'], jnp.mean(bounds.elbo(terms)), rtol=1e-6)
  assert {'loss', 'log_p/x', 'log_q/z', 'stats/kl_z'} <= set(metrics)


def test_kl_is_weighted_by_the_share_of_the_warm_up(terms):
  objective = bounds.negative_elbo(beta=2.0, weighting=bounds.Weighting(warmup_steps=4))
  for step, weight in ((0, 0.0), (1, 0.5), (4, 2.0), (9, 2.0)):
    loss, metrics = objective(terms, {}, step)
    np.testing.assert_allclose(loss, -jnp.mean(bounds.elbo(terms, weight)), rtol=1e-6)
    np.testing.assert_allclose(metrics['elbo'], jnp.mean(bounds.elbo(terms)), rtol=1e-6)


@pytest.mark.parametrize('free', [0.5, 2.5])
def test_free_bits_cost_nothing_and_teach_nothing(terms, free):
  objective = bounds.negative_elbo(beta=2.0, weighting=bounds.Weighting(free_bits=free))

  def loss(shift):
    stats = {'kl_z': terms.stats['kl_z'] + shift}
    log_q = {**terms.log_q, 'u': terms.log_p['u'] + 5}  # a KL of 5, above the bound
    return objective(terms._replace(stats=stats, log_q=log_q), {})[0]

  value, slope = jax.value_and_grad(loss)(0.0)
  expected = -jnp.mean(terms.log_p['x']) + 2 * (max(2.0, free) + 5)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  assert slope == (2.0 if free < 2 else 0.0)


def test_iwae_of_one_sample_is_its_weight_and_of_many_the_log_mean_exp():
  weights = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)) * 20)
  np.testing.assert_allclose(bounds.iwae(weights[:1]), weights[0], rtol=1e-6)
  expected = np.asarray(special.logsumexp(np.asarray(weights), axis=0)) - math.log(7)
  np.testing.assert_allclose(bounds.iwae(weights), expected, rtol=1e-6)
  assert np.all(bounds.iwae(weights) >= jnp.mean(weights, axis=0))


def test_effective_samples_and_the_error_of_the_bound():
  logs = np.random.default_rng(2).normal(size=(7, 5)) * [0, 0.1, 1, 3, 20] + [0, -9e3, 9e3, 1, 2]
  given = jnp.asarray(logs)
  logs = np.asarray(given, np.float64)  # as they are rounded
  w = np.exp(logs - logs.mean(axis=0))
  effective, error = (f(given) for f in (bounds.effective_samples, bounds.iwae_error))
  np.testing.assert_allclose(effective, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=1e-4)
  expected = w.std(axis=0, ddof=1) / w.mean(axis=0) / math.sqrt(7)
  np.testing.assert_allclose(error, expected, rtol=1e-3, atol=1e-9)
  assert (effective[0], error[0]) == (7, 0)  # of equal weights
  assert np.isnan(bounds.iwae_error(given[:1])).all()


def test_bits_per_dim_of_a_density_that_is_flat_on_bins_is_the_code_length():
  # A density of p_k / width on bin k: with uniform noise inside the bin the bound is tight.
  width, probabilities = 2 / 15, stats.binom.pmf(np.arange(16), 15, 0.3)
  levels = np.asarray([[3, 5], [4, 4]])
  log_density = np.log(probabilities[levels] / width).sum(axis=1)
  expected = -np.log2(probabilities[levels]).mean(axis=1)
  np.testing.assert_allclose(bounds.bits_per_dim(jnp.asarray(log_density), 2, width), expected)


def test_elbo_of_nothing_is_refused():
  with pytest.raises(ValueError, match='at least one term'):
    bounds.elbo(Terms({}, {}, {}))


def test_objective_is_differentiable_under_jit(terms):
  gradient = jax.jit(jax.grad(lambda t: bounds.negative_elbo()(t, {})[0]))(terms)
  np.testing.assert_allclose(gradient.log_p['x'], -1 / 3, rtol=1e-6)
