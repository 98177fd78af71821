"""Values and derivatives where an implementation changes branch, or a formula has 0 or infinity in it.

Network outputs of exactly 0, images that are exactly the mean or at -1, 0 and 1, noise of 0 and of
infinite variance: there the derivatives are compared with numerical ones, in float64.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import circulant, gaussian
from structured_obs.distributions import discretized_logistic_mixture as dlm
from structured_obs.distributions.base import Family, ImageShape
from tests.distributions import cases
from tests.distributions.cases import Case, each

IMAGE = (2, 3, 1)
CASES = [
  Case('diagonal', (), IMAGE),
  Case('low_rank', (('rank', 3), ('learn_diag', True), ('noise_variance', 0.1)), IMAGE),
  Case('sparse_precision', (('filter_size', 3),), IMAGE),
  Case('dense_precision', (), IMAGE),
  Case('circulant', (('initial_scale', 1.0),), IMAGE),
  Case('scaled_circulant', (('reflect', True), ('initial_scale', 1.0)), IMAGE),
  Case('discretized_logistic_mixture', (('components', 2),), IMAGE),
]
GAUSSIAN = cases.gaussian_only(CASES)
NOISE = np.reshape([0, np.inf, 0.3, 0, np.inf, 0.1], IMAGE)
OBSERVED = np.isfinite(NOISE)


def _zeros(family: Family[Any]) -> dict[str, jax.Array]:
  return {name: jnp.zeros(shape) for name, shape in family.outputs(ImageShape(*IMAGE)).items()}


def _results(family: Family[Any], point: dict[str, Any]) -> dict[str, Any]:
  """Whatever can be differentiated, at a point: a decoder's outputs, an image, variances of noise."""
  params, x = family.from_outputs(point['outputs']), point['x']
  found = {
    'params': params,
    'mean': family.mean(params),
    'log_prob': family.log_prob(params, x),
    'sample': family.sample(jax.random.key(0), params),
  }
  if family.gaussian is None:
    return found
  found |= {
    'variance': gaussian.variance(family, params),
    'entropy': gaussian.entropy(family, params),
    'mahalanobis': gaussian.mahalanobis(family, params, x),
    'posterior_mean': gaussian.posterior_mean(family, params, x, point['noise']),
  }
  if family.gaussian.posterior_mean is None:
    return found
  return found | {
    'posterior_mean of one noise': gaussian.posterior_mean(family, params, x, point['one_noise'])
  }


@functools.cache
def _with_tangents(case: Case) -> Any:
  """(point, direction) -> results and their derivatives along the direction, compiled once."""
  function = functools.partial(_results, cases.family_of(case))
  return jax.jit(lambda point, direction: jax.jvp(function, (point,), (direction,)))


def _random(tree: Any, seed: int = 0) -> Any:
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=jnp.shape(leaf))), tree)


def _moved(point: Any, direction: Any, step: float) -> Any:
  return jax.tree.map(lambda leaf, part: leaf + step * part, point, direction)


def _assert_tangents(case: Case, point: Any, direction: Any, one_sided: bool = False) -> None:
  function = _with_tangents(case)
  _, tangents = function(point, direction)
  step = 1e-5
  weights = {0: -1.5, 1: 2, 2: -0.5} if one_sided else {-1: -0.5, 1: 0.5}
  values = [function(_moved(point, direction, step * i), direction)[0] for i in weights]
  factors = [weight / step for weight in weights.values()]
  expected = jax.tree.map(lambda *leaves: sum(map(np.multiply, factors, leaves)), *values)
  for name, tangent in tangents.items():
    for one, other in zip(jax.tree.leaves(tangent), jax.tree.leaves(expected[name]), strict=True):
      scale = 1 + np.max(np.abs(other), initial=0)
      np.testing.assert_allclose(one, other, atol=2e-5 * scale, rtol=0, err_msg=name)


def _points(case: Case) -> list[dict[str, Any]]:
  family = cases.family_of(case)
  outputs = _zeros(family)
  mean = family.mean(family.from_outputs(outputs))
  images = [jnp.full(IMAGE, value) for value in (-1.0, 0.0, 1.0)]
  scalars = (0.0, np.inf, 0.3)
  found = [
    {'outputs': outputs, 'x': x, 'noise': jnp.asarray(NOISE), 'one_noise': jnp.asarray(noise)}
    for x, noise in zip(images, scalars, strict=True)
  ]
  if family.levels:
    edges = [outputs | {'locs': jnp.full_like(outputs['locs'], value)} for value in (-1.0, 1.0)]
    return found + [found[0] | {'outputs': one} for one in edges]
  return [*found, found[0] | {'x': mean}]


@pytest.mark.x64
@each(CASES)
@pytest.mark.slow
def test_derivatives_at_special_points_are_differences(case: Case):
  for i, point in enumerate(_points(case)):
    zero = jax.tree.map(jnp.zeros_like, point)
    direction = zero | {'outputs': _random(point['outputs'], i)}
    if not cases.family_of(case).levels:
      direction |= {'x': _random(point['x'], i)}
    _assert_tangents(case, point, direction)


@pytest.mark.x64
@each(GAUSSIAN)
@pytest.mark.slow
def test_derivatives_by_the_noise_at_its_ends_are_differences(case: Case):
  """To one side, as a variance is not negative; infinite ones stay where they are."""
  for point in _points(case)[::2]:
    correlated = jax.tree.map(lambda leaf: 0.3 * leaf, _random(point['outputs']))
    point = point | {'outputs': correlated}
    zero = jax.tree.map(jnp.zeros_like, point)
    finite = jnp.isfinite(point['one_noise']).astype(float)
    direction = zero | {'noise': jnp.asarray(np.where(OBSERVED, 0.7, 0)), 'one_noise': finite}
    _assert_tangents(case, point, direction, one_sided=True)


@each([case for case in GAUSSIAN if 'precision' not in case.name])
@pytest.mark.slow
def test_unseen_pixels_of_a_noisy_image_are_not_read(case: Case):
  """Values, and first and second derivatives by all arguments in reverse mode."""
  family, point = cases.family_of(case), _points(case)[0]
  dtype = cases.default_dtype()

  def total(outputs, noisy, noise, one_noise):
    params = family.from_outputs(outputs)
    mean, variance = gaussian.posterior_mean(family, params, noisy, noise)
    nothing = jnp.full_like(noisy, jnp.nan)
    other, prior = gaussian.posterior_mean(family, params, nothing, one_noise)
    given = gaussian.condition(family, params, noisy, jnp.asarray(OBSERVED))
    shown: list[Any] = [mean, variance, given.mean, given.variance, given.sample(jax.random.key(0))]
    shown += [other, prior]
    rest = given.log_prob(jnp.where(OBSERVED, jnp.nan, 0.1 * jnp.ones(IMAGE, dtype)))
    return sum(map(jnp.sum, shown)) + rest, tuple(shown)

  @jax.jit
  def derivatives(outputs, noisy, noise, one_noise):
    gradient = jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True)
    arguments = outputs, noisy, noise, one_noise
    tangents = jax.tree.map(jnp.ones_like, outputs), *map(jnp.zeros_like, arguments[1:])
    (first, shown), (second, _) = jax.jvp(gradient, arguments, tangents)
    return shown, first, second

  found = []
  for hidden in (0.0, np.nan, 1e30):
    noisy = jnp.asarray(np.where(OBSERVED, 0.4, hidden), dtype)
    noise = jnp.asarray(NOISE, dtype)
    shown, first, second = derivatives(point['outputs'], noisy, noise, jnp.asarray(np.inf, dtype))
    found.append(shown)
    for leaf in jax.tree.leaves((shown, first, second)):
      assert np.all(np.isfinite(leaf))
    np.testing.assert_array_equal(first[1][~OBSERVED], 0)
    np.testing.assert_array_equal(first[2][~OBSERVED], 0)
  params = family.from_outputs(point['outputs'])
  cases.assert_close(found[0][5], family.mean(params), 1e-12, 1e-6)
  cases.assert_close(found[0][6], gaussian.variance(family, params), 1e-12, 1e-5)
  for other in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, other, found[0])


@each(GAUSSIAN)
@pytest.mark.few(2)
def test_one_negative_noise_variance_leaves_nothing(case: Case):
  family = cases.family_of(case)
  params, noisy = family.from_outputs(_zeros(family)), jnp.zeros(IMAGE)
  posterior_mean = jax.jit(functools.partial(gaussian.posterior_mean, family))
  for bad in (jnp.asarray(-1e-3), jnp.zeros(IMAGE).at[0, 1, 0].set(-1), jnp.asarray(np.nan)):
    found: Any = posterior_mean(params, noisy, bad)
    assert np.isnan(found).all()
    closed_form: Any = family.gaussian and family.gaussian.posterior_mean
    if closed_form and (found := closed_form(params, noisy, bad)) is not None:
      assert np.isnan(found).all()


@jax.jit
def mean(loc: jax.Array, log_scale: jax.Array) -> jax.Array:
  """Of one logistic component, [], compiled once for all locations and scales."""
  return dlm.mean(dlm.DiscretizedLogisticMixture(
    jnp.zeros((1, 1, 1)), jnp.full((1, 1, 1, 1), loc), jnp.full((1, 1, 1, 1), log_scale),
    jnp.zeros((1, 1, 0, 1)),
  ))[0, 0, 0]  # fmt: skip


by_loc, by_loc_twice, by_log_scale = (
  jax.jit(one) for one in (jax.grad(mean), jax.grad(jax.grad(mean)), jax.grad(mean, 1))
)


@pytest.mark.x64
@pytest.mark.parametrize('log_scale', [-3.0, 0.0, np.log(2.0), 2.0])
def test_the_mean_of_a_logistic_mixture_is_smooth(log_scale: float):
  """It is odd in the location: no fold at 0, or where the two forms of wide and narrow scales meet."""
  scale = np.exp(log_scale)
  expected = np.tanh(0.5 / scale)  # F(1 / s) - F(-1 / s), the probability of no clipping
  for loc in (-1e-9, 0.0, 1e-9):
    assert float(by_loc(loc, log_scale)) == pytest.approx(expected, rel=1e-7)
  assert float(by_loc_twice(0.0, log_scale)) == pytest.approx(0, abs=1e-12)
  step = 1e-5
  differences = (mean(0.3, log_scale + step) - mean(0.3, log_scale - step)) / (2 * step)
  assert float(by_log_scale(0.3, log_scale)) == pytest.approx(float(differences), abs=1e-8)


@pytest.mark.x64
def test_the_optimal_scale_of_the_mean_itself_has_a_derivative():
  family = cases.make_family('circulant', ())
  params = family.from_outputs(_zeros(family))
  value_and_grad = jax.jit(jax.value_and_grad(circulant.optimal_scale, 1))
  value, gradient = value_and_grad(params, params.mean)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
