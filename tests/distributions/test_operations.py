"""The operations on top of the primitives, against dense float64 formulas.

Generic cases go through what `gaussian` does for a family without closed forms of its own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import gaussian
from structured_obs.linalg import dense
from tests.distributions import cases, operations
from tests.distributions.cases import Case, assert_close, assert_within, each

MAIN = cases.gaussian_only(cases.main_cases())
WITH_GENERIC = MAIN + cases.gaussian_only(cases.generic_cases())
ALL = WITH_GENERIC + cases.gaussian_only(cases.shape_cases())
MASKS = ('random', 'none', 'all', 'one hidden', 'left half')


def _mask(kind: str, problem: cases.Problem) -> Any:
  if kind == 'random':
    return cases.random_mask(problem.image, seed=3)
  if kind == 'left half':
    return np.broadcast_to(np.arange(problem.image.width)[:, None] < 2, tuple(problem.image))
  mask = np.full(tuple(problem.image), kind != 'none')
  mask.flat[problem.size // 2] = kind == 'all'
  return mask


def _with(case: Case, **changes: Any) -> dict[str, Any]:
  """Conditionals and posteriors with other arguments: an image, a mask or a noise variance."""
  return cases.compiled(case, operations.conditional_operations)(*cases.arguments(case, **changes))


@pytest.mark.x64
@each(MAIN)
@pytest.mark.slow
def test_entropy_is_minus_the_mean_of_log_prob(case: Case):
  """log p is quadratic, so E log p = log p(mean) + tr(Hessian cov) / 2, without sampling."""
  problem = cases.make_problem(case)

  def log_prob(flat):
    return problem.family.log_prob(problem.params, flat.reshape(problem.image))

  evaluate = jax.jit(lambda x: (log_prob(x), jax.hessian(log_prob)(x)))
  value, hessian = map(np.asarray, evaluate(jnp.asarray(problem.mean)))
  expected = -(value + 0.5 * np.trace(hessian @ problem.cov))
  assert_close(cases.results(case)['entropy'], expected, 1e-9, 1e-9)
  assert_close(-hessian, np.linalg.inv(problem.cov), 1e-9, 1e-9)


@each(MAIN)
@pytest.mark.parametrize('kind', MASKS)
@pytest.mark.few(4)
def test_condition(case: Case, kind: str):
  _check_condition(case, kind)


@each([case for case in ALL if case not in MAIN])
@pytest.mark.slow
def test_condition_of_generic_families_and_other_shapes(case: Case):
  _check_condition(case, 'random')


def _check_condition(case: Case, kind: str) -> None:
  problem = cases.make_problem(case)
  observed = _mask(kind, problem)
  rest = ~observed.ravel()
  x = np.asarray(problem.x, np.float64).ravel()
  mean, cov = dense.condition(problem.mean, problem.cov, x, observed)
  given = _with(case, observed=observed)
  assert float(given['condition.residual']) < cases.tolerance(1e-8, 1e-3)
  for name in ('mean', 'sample'):
    np.testing.assert_array_equal(given[f'condition.{name}'][observed], problem.x[observed])
  variance = np.asarray(given['condition.variance'], np.float64)
  np.testing.assert_array_equal(variance[observed], 0)
  scale = np.sqrt(np.diag(cov))
  assert_within(given['condition.mean'].ravel()[rest], mean, scale, 1e-7, 1e-2)
  assert_within(variance.ravel()[rest], scale**2, scale**2, 1e-7, 2e-3)
  expected = dense.log_prob(mean, cov, x[rest])
  error = cases.tolerance(1e-7, 5e-2)
  assert float(given['condition.log_prob']) == pytest.approx(expected, abs=error)


@each(WITH_GENERIC)
@pytest.mark.few(3)
def test_chain_rule(case: Case):
  """log p(x) = log p(x_O) + log p(x_A | x_O)."""
  problem = cases.make_problem(case)
  observed = cases.random_mask(problem.image, seed=7)
  x = np.asarray(problem.x, np.float64).ravel()
  mean, cov = dense.marginal(problem.mean, problem.cov, observed)
  given = _with(case, observed=observed)
  chained = dense.log_prob(mean, cov, x[observed.ravel()]) + float(given['condition.log_prob'])
  assert float(given['log_prob']) == pytest.approx(chained, abs=cases.tolerance(1e-7, 5e-2))


@each(WITH_GENERIC)
@pytest.mark.slow
def test_conditional_samples(case: Case):
  """8,192 samples, whitened by the dense conditional, within 6 standard errors of white."""
  problem, num = cases.make_problem(case), 8192
  observed = cases.random_mask(problem.image, seed=3)
  mean, cov = dense.condition(problem.mean, problem.cov, problem.x, observed)

  def draw(key: Any) -> Any:
    given = gaussian.condition(problem.family, problem.params, problem.x, jnp.asarray(observed))
    return given.sample(key)

  keys = jax.random.split(jax.random.key(0), num)
  samples = np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64)
  centred = samples[:, ~observed] - mean
  white = np.linalg.solve(np.linalg.cholesky(cov), centred.T)
  assert np.max(np.abs(white.mean(1))) < 6 / num**0.5
  assert np.max(np.abs(white @ white.T / num - np.eye(len(white)))) < 6 * (2 / num) ** 0.5


@pytest.mark.x64
@each(WITH_GENERIC)
@pytest.mark.few(3)
def test_unobserved_pixels_are_not_read(case: Case):
  problem = cases.make_problem(case)
  observed = jnp.asarray(cases.random_mask(problem.image, seed=3))
  holes = jnp.where(observed, problem.x, jnp.nan)
  given, same = _with(case, observed=observed), _with(case, observed=observed, x=holes)
  for name in ('condition.mean', 'condition.variance', 'condition.sample'):
    np.testing.assert_array_equal(same[name], given[name])

  def total(params):
    return jnp.sum(gaussian.condition(problem.family, params, holes, observed).mean)

  gradient = jax.jit(jax.grad(total))(problem.params)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@each([case for case in WITH_GENERIC if case.generic or 'precision' in case.name])
def test_an_observed_pixel_that_is_not_a_number_leaves_none(case: Case):
  problem = cases.make_problem(case)
  observed = jnp.asarray(cases.random_mask(problem.image, seed=3))
  bad = jnp.where(observed, jnp.nan, problem.x)
  found = _with(case, observed=observed, x=bad)['condition.mean']
  assert np.isnan(np.asarray(found)).all()


@each([case for case in WITH_GENERIC if case.generic or not case.options])
@pytest.mark.slow
def test_conditionals_are_linear_at_any_scale(case: Case):
  """Of a mean of 0, in float32, where squares of such numbers are 0 or infinite."""
  problem = cases.make_problem(case)
  observed = jnp.asarray(cases.random_mask(problem.image, seed=3))
  params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), problem.params)
  params = _centred(params)

  @jax.jit
  def of(x):
    given = gaussian.condition(problem.family, params, x, observed)
    return given.mean, gaussian.posterior_mean(problem.family, params, x, 0.1)[0]

  x = problem.x.astype(jnp.float32)
  # Large residuals of low rank are whitened with less rounding, and the solve of this case amplifies
  # differences by its condition number of 1e5.
  error = 2e-2 if case.generic else 1e-6
  for scale in (2.0**-100, 2.0**-70, 2.0**70, 2.0**100):
    for one, other in zip(of(scale * x), of(x), strict=True):
      assert_close(one / scale, other, error, error)


def _centred(params: Any) -> Any:
  """The same distribution about 0."""
  if 'mean' in params._fields:
    return params._replace(mean=jnp.zeros_like(params.mean))
  return params._replace(base=_centred(params.base))


@pytest.mark.x64
def test_condition_refuses_masks_of_other_types_and_shapes():
  problem = cases.make_problem(MAIN[0])
  condition = functools.partial(gaussian.condition, problem.family, problem.params, problem.x)
  with pytest.raises(TypeError, match='observed must be a boolean array'):
    condition(jnp.ones_like(problem.x))
  with pytest.raises(ValueError, match='observed must have shape'):
    condition(jnp.ones((2, 2), bool))


@each(ALL)
@pytest.mark.parametrize('noise_variance', [1e-2, 1e-6])
@pytest.mark.few(4)
def test_posterior_mean(case: Case, noise_variance: float):
  problem = cases.make_problem(case)
  noise = noise_variance**0.5 * np.random.default_rng(0).normal(size=problem.size)
  noisy = problem.x + cases.as_image(noise, problem.image)
  expected, cov = dense.posterior(problem.mean, problem.cov, noisy, noise_variance)
  mean, variance = _with(case, x=noisy, noise_variance=noise_variance)['posterior_mean']
  scale = np.sqrt(np.diag(cov))
  # Without a closed form the variance is a difference of two numbers as large as the prior's.
  error = 0.2 if case.generic else 1e-3
  assert_within(mean.ravel(), expected, scale, 1e-7, error)
  assert_within(variance.ravel(), scale**2, scale**2, 1e-6, error)


@each(WITH_GENERIC)
@pytest.mark.slow
def test_posterior_mean_between_its_limits(case: Case):
  """No noise gives the image back; infinite noise at some pixels is conditioning on the others."""
  problem = cases.make_problem(case)
  mean, variance = _with(case, noise_variance=0)['posterior_mean']
  assert_close(mean, problem.x, 1e-9, 1e-4)
  assert np.max(np.abs(variance)) <= cases.tolerance(1e-12, 1e-5) * np.max(np.diag(problem.cov))
  observed = cases.random_mask(problem.image, seed=3)
  noise = jnp.where(observed, jnp.zeros_like(problem.x), jnp.inf)
  posterior = jax.jit(functools.partial(gaussian.posterior_mean, problem.family))
  mean, variance = posterior(problem.params, problem.x, noise)
  expected, cov = dense.condition(problem.mean, problem.cov, problem.x, observed)
  scale = np.sqrt(np.diag(cov))
  assert_within(np.asarray(mean)[~observed], expected, scale, 1e-7, 1e-2)
  assert_within(np.asarray(variance)[~observed], scale**2, scale**2, 1e-7, 2e-3)


@pytest.mark.x64
def test_posterior_mean_refuses_negative_noise():
  problem = cases.make_problem(MAIN[0])
  mean, _ = gaussian.posterior_mean(problem.family, problem.params, problem.x, -1.0)
  assert np.all(np.isnan(mean))


@pytest.mark.x64
@each(WITH_GENERIC)
@pytest.mark.few(3)
def test_leading_principal_components(case: Case):
  problem = cases.make_problem(case)
  for k in (1, 4):
    cases.check_components(problem, cases.run(gaussian.principal_components, problem, k=k), k)


@pytest.mark.x64
@each(WITH_GENERIC)
def test_more_components_than_pixels_are_refused(case: Case):
  problem = cases.make_problem(case)
  for k in (0, problem.size + 1):
    with pytest.raises(ValueError, match=f'k must be .*{problem.size}'):
      gaussian.principal_components(problem.family, problem.params, k)


@pytest.mark.x64
@each(MAIN)
def test_dense_covariance_is_refused_for_large_images(case: Case):
  problem = cases.make_problem(case)
  with pytest.raises(ValueError, match=r'covariance would form a dense 24 x 24 matrix.*limit is 23'):
    gaussian.covariance(problem.family, problem.params, max_size=23)


@pytest.mark.x64
def test_operations_need_a_gaussian():
  family = cases.family_of(MAIN[0])._replace(gaussian=None)
  with pytest.raises(ValueError, match='needs a Gaussian family'):
    gaussian.entropy(family, cases.random_params(MAIN[0]))
