"""Derivatives of every Gaussian family: against a naive dense log density, and finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.test_util import check_grads

from structured_obs.distributions import gaussian
from structured_obs.distributions.base import Family
from tests.distributions import cases
from tests.distributions.cases import Case, assert_close, assert_within, each

MAIN = cases.gaussian_only(cases.main_cases())


def _dense_covariance(family: Family[Any], params: Any) -> jax.Array:
  """F F^T as a differentiable function of the parameters."""
  assert family.gaussian is not None
  reparameterize = family.gaussian.reparameterize
  noise, unravel = ravel_pytree(family.gaussian.noise(jax.random.key(0), params))
  factor = jax.jacfwd(lambda flat: reparameterize(params, unravel(flat)).ravel())(jnp.zeros_like(noise))
  return factor @ factor.T


def _naive_log_prob(family: Family[Any], params: Any, x: jax.Array) -> jax.Array:
  cov, residual = _dense_covariance(family, params), (x - family.mean(params)).ravel()
  log_det = jnp.linalg.slogdet(2 * jnp.pi * cov)[1]
  return -0.5 * (log_det + residual @ jnp.linalg.solve(cov, residual))


def _naive_entropy(family: Family[Any], params: Any) -> jax.Array:
  return 0.5 * jnp.linalg.slogdet(2 * jnp.pi * jnp.e * _dense_covariance(family, params))[1]


def _assert_trees_close(actual: Any, expected: Any, float64: float) -> None:
  """Each leaf in units of its largest entry, but a leaf of zeros in units of the naive form's noise."""
  largest = max(np.max(np.abs(leaf), initial=0) for leaf in jax.tree.leaves(expected))
  for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    unit = max(np.max(np.abs(other), initial=0), 1e-4 * largest)
    assert_within(one, other, unit, float64, np.inf)


def _differentiate(function: Any, family: Family[Any], *args: Any, order: int = 1) -> Any:
  """Gradient, or a product of the Hessian with a fixed direction, by all arguments."""
  gradient = jax.grad(lambda args: function(family, *args))
  if order == 1:
    return jax.jit(gradient)(args)
  rng = np.random.default_rng(0)
  direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), args)
  return jax.jit(lambda args: jax.jvp(gradient, (args,), (direction,))[1])(args)


@pytest.mark.x64
@each(MAIN)
@pytest.mark.parametrize('order', [1, 2])
@pytest.mark.few(3)
def test_log_prob_derivatives_are_the_naive_ones(case: Case, order: int):
  family, _, params, x, *_ = cases.make_problem(case)
  actual = _differentiate(gaussian.log_prob, family, params, x, order=order)
  expected = _differentiate(_naive_log_prob, family, params, x, order=order)
  _assert_trees_close(actual, expected, 1e-8)


@pytest.mark.x64
@each(MAIN)
def test_entropy_gradient_is_the_naive_one(case: Case):
  problem = cases.make_problem(case)
  actual = _differentiate(gaussian.entropy, problem.family, problem.params)
  expected = _differentiate(_naive_entropy, problem.family, problem.params)
  _assert_trees_close(actual, expected, 1e-8)


def _check_differences(function: Any, args: Any, modes: list[str]) -> None:
  """Compare with finite differences over relative changes, small for every parameter's own scale."""

  @jax.jit
  def of_change(change):
    return function(*jax.tree.map(lambda leaf, part: leaf * (1 + part), args, change))

  none = jax.tree.map(jnp.zeros_like, args)
  check_grads(of_change, (none,), order=1, modes=modes, eps=1e-6, rtol=1e-4, atol=1e-4)


@pytest.mark.x64
@each(MAIN)
def test_gradients_are_differences(case: Case):
  family, _, params, x, *_ = cases.make_problem(case)
  _check_differences(family.log_prob, (params, x), ['fwd', 'rev'])


@pytest.mark.x64
@each(MAIN)
@pytest.mark.slow
def test_samples_and_conditionals_are_differentiable(case: Case):
  family, image, params, x, *_ = cases.make_problem(case)
  observed = jnp.asarray(cases.random_mask(image, seed=3))

  def total(params, x):
    given = gaussian.condition(family, params, x, observed)
    posterior, _ = gaussian.posterior_mean(family, params, x, 0.1)
    return jnp.sum(given.mean + posterior + family.sample(jax.random.key(0), params))

  _check_differences(total, (params, x), ['rev'])


@each(MAIN)
@pytest.mark.few(3)
def test_value_and_grad_under_jit_and_vmap(case: Case):
  """The gradient of a batch's sum is each image's gradient."""
  problem = cases.make_problem(case)
  value_and_grad = jax.jit(jax.value_and_grad(problem.family.log_prob, argnums=(0, 1)))
  batch = [(cases.random_params(case, seed), problem.x) for seed in range(2)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
  together = jax.jit(jax.vmap(value_and_grad))(*stacked)
  for i, arguments in enumerate(batch):
    single = value_and_grad(*arguments)
    for one, other in zip(jax.tree.leaves(together), jax.tree.leaves(single), strict=True):
      assert_close(one[i], other, 1e-9, 1e-3)
