# One file of more than 300 lines: every test starts from the same problems.
"""Student t distributions against scipy and dense float64 algebra, and integrals over the scale."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from structured_obs.distributions import (
  base,
  circulant,
  diagonal,
  elliptical,
  gaussian,
  haar,
  low_rank,
  radial,
  sparse_precision,
  student,
)
from structured_obs.linalg import dense

STATS: Any = stats  # distributions, whose stubs are of other types

IMAGE = base.ImageShape(2, 3, 2)
INNER = {
  'diagonal': diagonal.family(),
  'low_rank': low_rank.family(rank=3, noise_variance=0.1),
  'sparse_precision': sparse_precision.family(filter_size=3, prior='normal'),
  'circulant': circulant.family(),
}
FAMILY = {name: student.family(inner, dof='predicted') for name, inner in INNER.items()}
EACH = pytest.mark.parametrize('name', ['diagonal', 'low_rank', 'sparse_precision'])


class Problem(NamedTuple):
  """A Student t with its dense scale matrix, built from the base, and an image."""

  params: student.Student
  mean: np.ndarray  # [D]
  scale: np.ndarray  # [D, D]
  dof: float
  x: jax.Array  # [H, W, C]
  observed: np.ndarray  # [H, W, C] bool


@functools.cache
def _problem(name: str) -> Problem:
  rng, family = np.random.default_rng(0), FAMILY[name]
  dtype = jnp.zeros(()).dtype
  outputs = {
    key: jnp.asarray(0.5 * rng.normal(size=s), dtype) for key, s in family.outputs(IMAGE).items()
  }
  params = family.from_outputs(outputs)
  scale = np.asarray(gaussian.covariance(INNER[name], params.base), np.float64)
  mean = np.asarray(family.mean(params), np.float64).ravel()
  x = mean + np.linalg.cholesky(scale) @ (1.5 * rng.normal(size=mean.size))
  observed = rng.random(IMAGE) < 0.5
  return Problem(params, mean, scale, float(params.dof), jnp.asarray(x.reshape(IMAGE), dtype), observed)


def _bound(float64: float, float32: float) -> float:
  return float64 if jnp.zeros(()).dtype == jnp.float64 else float32


def _check(actual: Any, expected: Any, float64: float = 1e-9, float32: float = 1e-4) -> None:
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.size == expected.size
  error = np.max(np.abs(np.ravel(actual) - expected.ravel()))
  assert error <= _bound(float64, float32) * np.max(np.abs(expected)), error


@pytest.mark.parametrize('name', ['diagonal', 'low_rank'])
def test_density_entropy_and_moments(name: str):
  family, problem = FAMILY[name], _problem(name)

  @jax.jit
  def found(params, x):
    return {
      'log_prob': family.log_prob(params, x),
      'entropy': gaussian.entropy(family, params),
      'covariance': gaussian.covariance(family, params),
      'variance': gaussian.variance(family, params),
      'column': gaussian.covariance_column(family, params, (0, 1, 0)),
      'correlation': gaussian.correlation(family, params, (0, 1, 0)),
      'channels': gaussian.channel_covariance(family, params),
      'components': gaussian.principal_components(family, params, 2).values,
      'warm': gaussian.covariance(family, gaussian.temper(family, params, 0.5)),
    }

  law = STATS.multivariate_t(problem.mean, problem.scale, problem.dof)
  cov = problem.scale * problem.dof / (problem.dof - 2)
  expected = {
    'log_prob': law.logpdf(np.asarray(problem.x, np.float64).ravel()),
    'entropy': law.entropy(),
    'covariance': cov,
    'variance': np.diag(cov),
    'column': cov[:, 2],
    'correlation': cov[:, 2] / np.sqrt(np.diag(cov) * cov[2, 2]),
    'channels': np.reshape(cov, (6, 2, 6, 2))[np.arange(6), :, np.arange(6)],
    'components': np.linalg.eigvalsh(cov)[:-3:-1],
    'warm': cov / 4,
  }
  for key, value in found(problem.params, problem.x).items():
    _check(value, expected[key])


@EACH
@pytest.mark.few(3)
def test_conditionals(name: str):
  """Given what is seen: scipy's joint density over its marginal one, and moments by linear algebra."""
  family, problem = FAMILY[name], _problem(name)
  x, seen = np.asarray(problem.x, np.float64).ravel(), problem.observed.ravel()
  given = jax.jit(functools.partial(gaussian.condition, family))(
    problem.params, problem.x, jnp.asarray(problem.observed)
  )
  marginal = STATS.multivariate_t(problem.mean[seen], problem.scale[np.ix_(seen, seen)], problem.dof)
  joint = STATS.multivariate_t(problem.mean, problem.scale, problem.dof)
  _check(
    jax.jit(lambda given, x: given.log_prob(x))(given, problem.x),
    joint.logpdf(x) - marginal.logpdf(x[seen]),
  )
  mean, cov = dense.condition(problem.mean, problem.scale, x, problem.observed)
  distance = dense.mahalanobis(problem.scale[np.ix_(seen, seen)], (x - problem.mean)[seen])
  dof = problem.dof + seen.sum()
  spread = (problem.dof + distance) / (dof - 2)
  _check(np.asarray(given.mean).ravel()[~seen], mean)
  _check(np.asarray(given.variance).ravel()[~seen], spread * np.diag(cov))
  np.testing.assert_array_equal(np.asarray(given.variance).ravel()[seen], 0)
  keys = jax.random.split(jax.random.key(0), 2000)
  drawn = np.asarray(jax.jit(lambda given, keys: jax.vmap(given.sample)(keys))(given, keys))
  assert np.all(drawn[:, problem.observed] == np.asarray(problem.x)[problem.observed])
  law = STATS.multivariate_t(mean, cov * (problem.dof + distance) / dof, dof)
  z = (drawn[:, ~problem.observed] - mean) @ np.linalg.inv(np.linalg.cholesky(law.shape)).T
  assert stats.kstest(np.sum(z**2, axis=1) / mean.size, STATS.f(mean.size, dof).cdf).pvalue > 1e-3


@pytest.mark.x64
def test_samples_have_the_law_of_distances():
  family, params = FAMILY['low_rank'], _problem('low_rank').params

  @jax.jit
  def found(keys):
    drawn = jax.vmap(lambda key: family.sample(key, params))(keys)
    distance = jax.vmap(functools.partial(gaussian.mahalanobis, family, params))(drawn)
    return (
      distance,
      elliptical.distance_cdf(family, params, distance),
      jax.vmap(functools.partial(elliptical.pixel_cdf, family, params))(drawn)[:, 1, 2, 0],
    )

  distance, probability, pixel = map(np.asarray, found(jax.random.split(jax.random.key(1), 2000)))
  assert stats.kstest(distance / IMAGE.size, STATS.f(IMAGE.size, float(params.dof)).cdf).pvalue > 1e-3
  assert stats.kstest(probability, 'uniform').pvalue > 1e-3
  assert stats.kstest(pixel, 'uniform').pvalue > 1e-3


def test_posterior_mean_is_the_integral_over_scales():
  """Against adaptive integration over log w with dense Gaussian posteriors, at noise 0 to infinity."""
  family, problem = FAMILY['low_rank'], _problem('low_rank')
  rng = np.random.default_rng(3)
  noise = np.exp(rng.normal(size=IMAGE) - 1)
  noise[0, 0], noise[1, 2, 0] = np.inf, 0
  posterior = jax.jit(functools.partial(gaussian.posterior_mean, family))
  mean, variance = posterior(problem.params, problem.x, jnp.asarray(noise, problem.x.dtype))
  expected, spread = _integrated(problem, noise.ravel())
  _check(mean, expected, 1e-8, 1e-4)
  _check(variance, spread, 1e-7, 1e-3)


def _integrated(problem: Problem, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns posterior mean and variance by sums over a fine grid of log w, all in float64."""
  seen, dof = np.isfinite(noise), problem.dof
  residual = np.asarray(problem.x, np.float64).ravel()[seen] - problem.mean[seen]
  total, first, second = 0.0, 0.0, 0.0
  for log_w in np.linspace(-12, 5, 3001):
    cov = problem.scale / np.exp(log_w)
    inside = cov[np.ix_(seen, seen)] + np.diag(noise[seen])
    weight = np.exp(
      dof / 2 * (log_w - np.exp(log_w))
      + 0.5 * residual.size * np.log(2 * np.pi)
      + dense.log_prob(np.zeros(residual.size), inside, residual)
    )
    gain = np.linalg.solve(inside, cov[seen]).T
    moved = gain @ residual
    own = np.diag(cov) - np.sum(gain * cov[:, seen], axis=1)
    total, first = total + weight, first + weight * moved
    second = second + weight * (own + moved**2)
  mean = first / total
  return problem.mean + mean, np.asarray(second / total - mean**2)


@pytest.mark.x64
@pytest.mark.slow
def test_derivatives_of_everything():
  """By outputs and image, with nu among them, against differences."""
  family, problem = FAMILY['diagonal'], _problem('diagonal')
  observed = jnp.asarray(problem.observed)

  def everything(params, x):
    given = gaussian.condition(family, params, x, observed)
    mean, variance = gaussian.posterior_mean(family, params, x, 0.3)
    assert given.variance is not None
    assert variance is not None
    key = jax.random.key(0)
    return jnp.stack([
      family.log_prob(params, x), gaussian.entropy(family, params), given.log_prob(x),
      jnp.sum(given.variance), jnp.sum(mean * x), jnp.sum(variance),
      jnp.sum(family.sample(key, params)), jnp.sum(given.sample(key)),
    ])  # fmt: skip

  rng = np.random.default_rng(1)
  point = (problem.params, problem.x)
  direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), point)
  found = jax.jit(lambda point: jax.jvp(lambda p: everything(*p), (point,), (direction,)))
  moved = [jax.tree.map(lambda a, b, s=s: a + s * b, point, direction) for s in (1e-5, -1e-5)]
  above, below = (found(one)[0] for one in moved)
  slopes = np.asarray(found(point)[1]), np.asarray(above - below) / 2e-5
  np.testing.assert_allclose(*(slope[:-2] for slope in slopes), rtol=1e-6)
  np.testing.assert_allclose(*(slope[-2:] for slope in slopes), rtol=1e-4)  # JAX's of gamma numbers
  gradients = jax.jit(jax.grad(lambda *p: jnp.sum(everything(*p)), argnums=(0, 1)))(*point)
  pairs = zip(*map(jax.tree.leaves, (gradients, direction)), strict=True)
  total = sum(np.vdot(a, b) for a, b in pairs)
  assert float(total) == pytest.approx(float(jnp.sum(found(point)[1])), rel=1e-9)


def test_a_large_nu_is_the_gaussian():
  inner, params, x = INNER['low_rank'], _problem('low_rank').params, _problem('low_rank').x
  family, params = FAMILY['low_rank'], params._replace(dof=jnp.asarray(1e9, x.dtype))

  @jax.jit
  def found(params, x):
    both = (family, params), (inner, params.base)
    return [
      (one.log_prob(p, x), gaussian.entropy(one, p), elliptical.distance_quantile(one, p, 0.9))
      for one, p in both
    ]

  for one, other in zip(*found(params, x), strict=True):
    _check(one, other, 1e-6, 1e-4)


@pytest.mark.x64
def test_degrees_of_freedom_by_outputs():
  family = student.family(INNER['diagonal'], initial_dof=7.0)
  shapes = family.outputs(IMAGE)
  assert shapes[student.NAME] == base.Shared(())
  assert FAMILY['diagonal'].outputs(IMAGE)[student.NAME] == ()
  outputs = {name: jnp.zeros(shape) for name, shape in shapes.items()}
  assert float(family.from_outputs(outputs).dof) == pytest.approx(7)
  for end, dof in ((-1e4, 2.5), (1e4, 1e6)):
    found = family.from_outputs(outputs | {student.NAME: jnp.asarray(end)}).dof
    assert float(found) == pytest.approx(dof, rel=1e-4)
  fixed = student.family(INNER['diagonal'], dof='fixed', initial_dof=1.5, temperature=1.25)
  assert student.NAME not in fixed.outputs(IMAGE)
  params = fixed.from_outputs({name: outputs[name] for name in fixed.outputs(IMAGE)})
  assert float(params.dof) == 1.5
  plain = INNER['diagonal'].from_outputs({name: outputs[name] for name in fixed.outputs(IMAGE)})
  scale = elliptical.primitives(fixed).variance(params)
  _check(scale, 1.25**2 * np.asarray(diagonal.variance(plain)), 1e-12, 1e-6)
  assert np.isinf(gaussian.variance(fixed, params)).all()


@pytest.mark.x64
def test_bad_values_give_nan():
  family, problem = FAMILY['diagonal'], _problem('diagonal')

  @jax.jit
  def found(params):
    return (
      family.log_prob(params, problem.x), family.sample(jax.random.key(0), params),
      gaussian.variance(family, params), gaussian.entropy(family, params),
      elliptical.distance_cdf(family, params, 3.0), elliptical.distance_quantile(family, params, 0.3),
      gaussian.posterior_mean(family, params, problem.x, 0.1)[0],
    )  # fmt: skip

  for dof in (0.0, -1.0, jnp.inf, jnp.nan):
    results = found(problem.params._replace(dof=jnp.asarray(dof, problem.x.dtype)))
    assert all(np.isnan(one).all() for one in results)
  with pytest.raises(ValueError, match='dof must have shape'):
    family.log_prob(problem.params._replace(dof=jnp.ones(2)), problem.x)


@pytest.mark.x64
def test_what_is_refused():
  with pytest.raises(ValueError, match='Gaussian family as its base'):
    student.family(FAMILY['diagonal'])
  with pytest.raises(ValueError, match='min_dof < initial_dof < max_dof'):
    student.family(INNER['diagonal'], initial_dof=2.0)


@pytest.mark.slow
def test_around_and_inside_other_wrappers():
  """The transform of a Student t is the Student t of the transformed Gaussian."""
  inside = haar.family(student.family(INNER['diagonal'], dof='predicted'))
  outside = student.family(haar.family(INNER['diagonal']), dof='predicted')
  rng, x, shapes = np.random.default_rng(0), _problem('diagonal').x, inside.outputs(IMAGE)
  outputs = {name: jnp.asarray(rng.normal(size=s), x.dtype) for name, s in shapes.items()}
  one, other = inside.from_outputs(outputs), outside.from_outputs(outputs)
  _check(inside.log_prob(one, x), outside.log_prob(other, x), 1e-12, 1e-5)
  observed = jnp.asarray(_problem('diagonal').observed)
  given, same = (
    gaussian.condition(inside, one, x, observed),
    gaussian.condition(outside, other, x, observed),
  )
  _check(given.variance, same.variance)
  _check(given.log_prob(x), same.log_prob(x))


@pytest.mark.x64
@pytest.mark.parametrize('name', ['diagonal', 'low_rank'])
@pytest.mark.slow
def test_second_derivatives_of_the_density(name: str):
  """Those of the formula, without the rule that takes the base's derivatives."""
  family, (params, *_, x, _) = FAMILY[name], _problem(name)

  def plain(params, x):
    distance = gaussian.mahalanobis(family, params, x)
    log_det = elliptical.primitives(family).log_det(params)
    return radial.log_density(IMAGE.size, params.dof, distance, log_det)

  rng, point = np.random.default_rng(5), (params, x)
  direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), point)

  @jax.jit
  def found(point):
    def slope(density, point):
      return jax.jvp(lambda p: density(*p), (point,), (direction,))[1]

    return [jax.grad(functools.partial(slope, one))(point) for one in (family.log_prob, plain)]

  for one, other in zip(*map(jax.tree.leaves, found(point)), strict=True):
    _check(one, other, 1e-8)
