"""Low-rank plus diagonal: accuracy in float32 at the sizes it is for, and its degenerate members."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import diagonal, gaussian, low_rank
from structured_obs.distributions.low_rank import LowRank
from structured_obs.linalg import dense
from tests.distributions import low_rank_reference as reference
from tests.distributions.cases import assert_close, default_dtype, tolerance

IMAGE = (64, 64, 3)
SIZE = 64 * 64 * 3


_value_and_grad = jax.jit(jax.value_and_grad(low_rank.log_prob, argnums=(0, 1)))
_entropy = jax.jit(functools.partial(gaussian.entropy, low_rank.family()))
_excess_entropy = jax.jit(low_rank.excess_entropy)


@jax.jit
def _condition(params: LowRank, x: jax.Array, observed: jax.Array) -> tuple[Any, Any, jax.Array]:
  given = low_rank.condition(params, x, observed)
  return given.mean, given.variance, given.log_prob(x)


def _relative(actual: Any, expected: Any) -> float:
  actual = np.asarray(actual, np.float64).reshape(np.shape(expected))
  return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def _small(factor: Any, variance: float = 0.01) -> tuple[LowRank, jax.Array]:
  """A factor [12, R] on a 2x3x2 image, in the run's precision."""
  rng, dtype = np.random.default_rng(0), default_dtype()
  mean, x = (jnp.asarray(rng.normal(size=(2, 3, 2)), dtype) for _ in range(2))
  factor = jnp.asarray(np.reshape(factor, (2, 3, 2, -1)), dtype)
  return LowRank(mean, factor, jnp.asarray(variance, dtype)), x


def _dense(params: LowRank) -> tuple[Any, Any]:
  size = params.mean.size
  factor = np.asarray(params.cov_factor, np.float64).reshape(size, -1)
  diag = np.broadcast_to(np.asarray(params.cov_diag, np.float64), params.mean.shape).ravel()
  return np.asarray(params.mean, np.float64).ravel(), factor @ factor.T + np.diag(diag)


@pytest.mark.float32
@pytest.mark.parametrize('by_pixel', [False, True], ids=['scalar', 'by pixel'])
@pytest.mark.parametrize(
  ('image', 'error'), [(IMAGE, 0.05), ((64, 64, 1), 0.05), ((218, 178, 3), 1.0)], ids=str
)
@pytest.mark.few(5)
def test_float32_log_prob_at_the_papers_settings(
  image: tuple[int, int, int], error: float, by_pixel: bool
):
  factor = reference.independent_columns(int(np.prod(image)), 25)
  params, x = reference.well_specified(factor, image, by_pixel=by_pixel)
  expected = reference.evaluate(params, x)
  value, (gradient, d_x) = _value_and_grad(params, x)
  assert value.dtype == jnp.float32
  assert abs(float(value) - expected.log_prob) <= error
  assert abs(float(_excess_entropy(params)) - expected.excess_entropy) <= 0.01
  assert _relative(gradient.mean, expected.d_mean) < 1e-4
  assert _relative(d_x, -expected.d_mean) < 1e-4
  assert _relative(gradient.cov_factor, expected.d_factor) < 1e-4
  if by_pixel:
    assert _relative(gradient.cov_diag, expected.d_diag) < 1e-4
  else:  # nats per unit of log variance: a difference of two numbers of the image's size
    error = float(gradient.cov_diag) - np.sum(expected.d_diag)
    assert abs(error) * 1e-5 < 1e-6 * x.size


@pytest.mark.float32
@pytest.mark.parametrize('largest', [1.0, 20.0])
@pytest.mark.parametrize('decades', [2, 3, 4, 5])
def test_float32_log_prob_with_a_spread_spectrum(largest: float, decades: int):
  factor = reference.spread_spectrum(SIZE, 25, decades, largest)
  params, x = reference.well_specified(factor, IMAGE)
  expected = reference.evaluate(params, x)
  value, (gradient, _) = _value_and_grad(params, x)
  assert abs(float(value) - expected.log_prob) <= 0.02
  assert _relative(gradient.mean, expected.d_mean) < 1e-4
  assert _relative(gradient.cov_factor, expected.d_factor) < 2e-3


@pytest.mark.float32
def test_float32_log_prob_with_columns_over_five_decades():
  factor = reference.independent_columns(SIZE, 25, 0.3 * np.logspace(0, -5, 25))
  params, x = reference.well_specified(factor, IMAGE)
  expected = reference.evaluate(params, x)
  value, (gradient, _) = _value_and_grad(params, x)
  assert abs(float(value) - expected.log_prob) <= 0.02
  assert _relative(gradient.cov_factor, expected.d_factor) < 1e-3


ALMOST_DEPENDENT = {
  'almost equal': (reference.almost_equal_columns, 2, 1e-5, 1e-5),
  'equal but for rounding': (reference.almost_equal_columns, 0.5, 1e-7, 1e-5),
  'almost equal and large': (reference.almost_equal_columns, 30, 1e-6, 1e-6),
  'clusters': (reference.clusters_of_columns, 2, 1e-5, 1e-6),
  'a ladder': (reference.ladder_of_columns, 10, 1e-7, 1e-5),
}


@pytest.mark.float32
@pytest.mark.parametrize(
  ('columns', 'scale', 'difference', 'variance'), ALMOST_DEPENDENT.values(), ids=ALMOST_DEPENDENT
)
def test_float32_log_prob_of_almost_dependent_columns(
  columns: Any, scale: float, difference: float, variance: float
):
  factor = columns(SIZE, 25, scale, difference)
  # Without a mean, whose subtraction would round the residual.
  params, x = reference.well_specified(factor, IMAGE, variance, mean_range=0)
  expected = reference.evaluate(params, x)
  value, (gradient, _) = _value_and_grad(params, x)
  assert abs(float(value) - expected.log_prob) <= 0.02
  assert abs(float(_excess_entropy(params)) - expected.excess_entropy) <= 0.01
  assert _relative(gradient.mean, expected.d_mean) < 2e-4
  assert _relative(gradient.cov_factor, expected.d_factor) < 1e-3
  assert abs(float(gradient.cov_diag) - np.sum(expected.d_diag)) * variance < 1e-6 * SIZE


@pytest.mark.float32
@pytest.mark.parametrize('difference', [1e-5, 1])
def test_float32_conditional(difference: float):
  """The mean at hidden pixels, in standard deviations, and the density of what they hide."""
  image = (24, 24, 1)
  factor = reference.almost_equal_columns(576, 25, 0.5, difference)
  params, x = reference.well_specified(factor, image)
  observed = np.random.default_rng(0).random(image) < 0.5
  found, variance, log_prob = _condition(params, x, jnp.asarray(observed))
  mean, cov = dense.condition(*_dense(params), np.asarray(x), observed)
  error = (np.asarray(found, np.float64)[~observed] - mean) / np.sqrt(np.diag(cov))
  assert np.max(np.abs(error)) < 1e-3
  assert_close(np.asarray(variance)[~observed], np.diag(cov), 1e-5, 1e-5)
  hidden = np.asarray(x, np.float64)[~observed]
  assert abs(float(log_prob) - dense.log_prob(mean, cov, hidden)) < 0.01


@pytest.mark.x64
def test_the_reference_is_the_dense_one():
  params, x = _small(np.random.default_rng(1).normal(size=(12, 3)))
  expected = dense.log_prob(*_dense(params), np.asarray(x))
  assert reference.evaluate(params, x).log_prob == pytest.approx(expected, rel=1e-12)


def _degenerate() -> dict[str, Any]:
  column = np.random.default_rng(2).normal(size=(12, 1))
  return {
    'no column': np.zeros((12, 0)),
    'a zero factor': np.zeros((12, 3)),
    'duplicate columns': np.repeat(column, 3, axis=1),
    'more columns than pixels': np.random.default_rng(3).normal(size=(12, 30)),
    'columns over five decades': np.random.default_rng(4).normal(size=(12, 6)) * np.logspace(0, -5, 6),
    'some zero pixels': np.random.default_rng(5).normal(size=(12, 3)) * (np.arange(12) > 5)[:, None],
  }


@pytest.mark.parametrize('kind', list(_degenerate()))
@pytest.mark.parametrize('variance', [1e-2, 1e-5])
def test_degenerate_factors(kind: str, variance: float):
  params, x = _small(_degenerate()[kind], variance)
  value, (gradient, _) = _value_and_grad(params, x)
  expected = reference.evaluate(params, x)
  assert float(value) == pytest.approx(expected.log_prob, rel=tolerance(1e-9, 3e-5))
  d_factor = np.asarray(gradient.cov_factor, np.float64).reshape(expected.d_factor.shape)
  error = np.abs(d_factor - expected.d_factor)
  scale = np.max(np.abs(expected.d_factor), initial=1)
  # Where the columns span the image, float32 keeps the gradient of a nearly noise-free density to
  # percents only: it is a difference of numbers as large as the inverse noise.
  float32 = 0.05 if params.cov_factor.shape[-1] >= x.size else 1e-3
  assert np.max(error, initial=0) <= tolerance(1e-8, float32) * scale
  assert np.isfinite(gradient.cov_diag)
  entropy = 0.5 * (x.size + dense.log_det(2 * np.pi * _dense(params)[1]))
  assert_close(_entropy(params), entropy, 1e-10, 1e-5)


@pytest.mark.x64
def test_without_columns_it_is_diagonal():
  params, x = _small(np.zeros((12, 0)))
  same = diagonal.Diagonal(params.mean, jnp.full_like(x, 0.5 * np.log(0.01)))
  assert_close(_value_and_grad(params, x)[0], diagonal.log_prob(same, x), 1e-13, 1e-5)
  assert low_rank.excess_entropy(params) == 0


@pytest.mark.x64
def test_a_zero_factor_is_a_stationary_point():
  params, x = _small(np.zeros((12, 3)))
  _, (gradient, _) = _value_and_grad(params, x)
  np.testing.assert_array_equal(gradient.cov_factor, 0)


@pytest.mark.x64
@pytest.mark.parametrize('variance', [0.0, -1e-5, np.inf, np.nan])
@pytest.mark.parametrize('by_pixel', [False, True], ids=['scalar', 'by pixel'])
@pytest.mark.few(2)
def test_variances_that_are_none_give_nan(variance: float, by_pixel: bool):
  params, x = _small(np.random.default_rng(1).normal(size=(12, 3)))
  if by_pixel:
    diag = jnp.full_like(x, 0.01).at[0, 1, 0].set(variance)
  else:
    diag = jnp.full_like(params.cov_diag, variance)
  family = low_rank.family(rank=3)

  @jax.jit
  def found(params: LowRank) -> tuple[jax.Array, ...]:
    return (
      low_rank.log_prob(params, x), gaussian.entropy(family, params),
      gaussian.mahalanobis(family, params, x),
      low_rank.sample(jax.random.key(0), params)[0, 1, 0], low_rank.variance(params)[0, 1, 0],
    )  # fmt: skip

  assert all(np.isnan(one) for one in found(params._replace(cov_diag=diag)))


@pytest.mark.float32
def test_entropy_floor():
  """The floor that the paper's slack at full CelebA size stands above: -504,939.87 nats."""
  image = (218, 178, 3)
  zero = jnp.zeros(image, jnp.float32)
  params = LowRank(zero, zero[..., None], jnp.asarray(1e-5, jnp.float32))
  floor = 0.5 * zero.size * (1 + np.log(2 * np.pi) + np.log(1e-5))
  assert floor == pytest.approx(-504_939.87, abs=0.01)
  assert float(gaussian.entropy(low_rank.family(), params)) == pytest.approx(floor, abs=0.1)
  assert low_rank.excess_entropy(params) == 0


@pytest.mark.x64
def test_an_output_of_zero_is_the_noise_variance():
  family = low_rank.family(rank=2, noise_variance=1e-5, learn_diag=True)
  outputs = family.outputs(low_rank.base.ImageShape(2, 2, 1))
  params = family.from_outputs({name: jnp.zeros(shape) for name, shape in outputs.items()})
  assert_close(params.cov_diag, np.full((2, 2, 1), 1e-5), 1e-12, 1e-5)


@pytest.mark.x64
@pytest.mark.parametrize(
  'options', [{'rank': -1}, {'noise_variance': 0.0}, {'learn_diag': True, 'min_variance': 1.0}]
)
def test_impossible_options_are_refused(options: dict[str, Any]):
  with pytest.raises(ValueError, match='low_rank'):
    low_rank.family(**options)


@pytest.mark.float32
def test_batched_gradients_survive_two_cores():
  """Batched LAPACK calls can hang the CPU backend for ever; the test's timeout would show it."""
  params, x = reference.well_specified(reference.independent_columns(3072, 25), (32, 32, 3))
  scales = 1 + 0.01 * jnp.arange(16, dtype=jnp.float32)
  stacked = jax.tree.map(lambda leaf: jax.vmap(lambda s: s * leaf)(scales), params)
  step = jax.jit(jax.vmap(jax.value_and_grad(low_rank.log_prob), in_axes=(0, None)))
  values = [jax.block_until_ready(step(stacked, x))[0] for _ in range(200)]
  assert np.all(np.isfinite(values[-1]))
