"""The sparse precision: what the conformance tests of all families do not say."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import diagonal, family, gaussian, links, sparse_precision
from structured_obs.distributions.base import ImageShape
from structured_obs.linalg import dense
from tests.distributions.cases import assert_close, default_dtype

COUPLINGS = ('none', 'pixel', 'full')
_from_covariance = jax.jit(sparse_precision.from_covariance, static_argnums=(2, 3))


def _random(image: tuple[int, int, int], seed: int = 0, scale: float = 0.4, **options: Any):
  chosen = family('sparse_precision', **options)
  rng = np.random.default_rng(seed)
  shapes = chosen.outputs(ImageShape(*image))
  outputs = {n: jnp.asarray(scale * rng.normal(size=s), default_dtype()) for n, s in shapes.items()}
  return chosen, chosen.from_outputs(outputs)


def _dense_factor(params: sparse_precision.SparsePrecision) -> np.ndarray:
  """L by its definition, an entry at a time."""
  height, width, channels, neighbours = params.off_diag.shape
  cross = params.cross.shape[-1]
  half = round((2 * neighbours + 1) ** 0.5) // 2
  later = [(0, c) for c in range(1, half + 1)]
  later += [(r, c) for r in range(1, half + 1) for c in range(-half, half + 1)]
  index = np.arange(height * width * channels).reshape(height, width, channels)
  factor = np.diag(np.exp(np.ravel(np.asarray(params.log_diag))))
  for r, c, ch in np.ndindex(height, width, channels):
    links_of = [(dr, dc, ch, params.off_diag[r, c, ch, k]) for k, (dr, dc) in enumerate(later)]
    for x in range(cross):
      number, step = divmod(x, channels - 1)
      dr, dc = later[number - 1] if number else (0, 0)
      other = ch + step + 1
      if number or other < channels:
        links_of.append((dr, dc, other % channels, params.cross[r, c, ch, x]))
    for dr, dc, other, value in links_of:
      if r + dr < height and 0 <= c + dc < width:
        factor[index[r + dr, c + dc, other], index[r, c, ch]] = value
  return factor


@pytest.mark.parametrize('channels', COUPLINGS)
@pytest.mark.parametrize('filter_size', [1, 3, 5])
@pytest.mark.parametrize('image', [(4, 5, 1), (3, 4, 3)])
@pytest.mark.few(7)
def test_whitening_is_by_the_factor_as_defined(channels, filter_size, image):
  _, params = _random(image, filter_size=filter_size, channels=channels)
  factor = _dense_factor(params)
  residual = np.random.default_rng(1).normal(size=image)
  whiten = jax.jit(sparse_precision.whiten)
  actual = whiten(params, jnp.asarray(residual, default_dtype()))
  assert_close(np.ravel(actual), factor.T @ residual.ravel(), 1e-13, 1e-5)
  diagonal_of = jax.jit(sparse_precision.precision_diagonal)(params)
  assert_close(np.ravel(diagonal_of), np.diag(factor @ factor.T), 1e-13, 1e-5)


@pytest.mark.x64
@pytest.mark.parametrize('channels', COUPLINGS)
def test_the_number_of_links_is_the_stated_one(channels):
  stated = {'none': 3 * 12, 'pixel': 3 * 12 + 3, 'full': 9 * 12 + 3}  # of an inner pixel, f = 5
  pattern = links.pattern(3, 12, links.cross_links(channels, 12, 3))
  present = links.present(links.interleaved(pattern, 3), (9, 9, 3))
  inner = present.reshape(9, 9, 3, -1)[4, 4].sum()
  assert inner == stated[channels]


@pytest.mark.x64
@pytest.mark.parametrize('channels', COUPLINGS)
@pytest.mark.parametrize('filter_size', [1, 3, 5])
@pytest.mark.slow
def test_from_covariance_inverts_the_family(channels, filter_size):
  chosen, params = _random((3, 4, 2), filter_size=filter_size, channels=channels)
  covariance = gaussian.covariance(chosen, params)
  found = sparse_precision.from_covariance(params.mean, covariance, filter_size, channels)
  for one, other in zip(found, params, strict=True):
    assert_close(one, other, 1e-10, np.inf)


@pytest.mark.x64
def test_from_covariance_is_the_nearest_of_the_family():
  """The gradient of KL(N(0, S) || .) vanishes there, in all parameters, and tr(L L^T S) = D."""
  rng = np.random.default_rng(0)
  factor = rng.normal(size=(20, 20))
  covariance = jnp.asarray(factor @ factor.T + np.eye(20))
  mean = jnp.zeros((4, 5, 1))
  best = _from_covariance(mean, covariance, 3)

  def cross_entropy(params):
    columns = covariance.reshape(4, 5, 1, 20)
    products = jax.vmap(sparse_precision.precision_matvec, in_axes=(None, -1))(params, columns)
    trace = jnp.trace(products.reshape(20, 20))
    return 0.5 * (trace + sparse_precision.log_det(params)), trace

  gradient, trace = jax.jit(jax.grad(cross_entropy, has_aux=True))(best)
  assert trace == pytest.approx(20, rel=1e-12)
  for leaf in gradient:
    assert np.all(np.abs(leaf) < 1e-10)


@pytest.mark.x64
def test_a_covariance_that_is_none_gives_nan():
  covariance = -jnp.eye(6)
  params = _from_covariance(jnp.zeros((2, 3, 1)), covariance, 3)
  assert np.all(np.isnan(params.log_diag))


@pytest.mark.x64
def test_a_filter_of_one_pixel_is_the_diagonal_family():
  chosen, params = _random((3, 4, 2), filter_size=1)
  same = diagonal.Diagonal(params.mean, -params.log_diag)
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 2)), default_dtype())
  assert set(chosen.outputs(ImageShape(3, 4, 2))) == {'mean', 'log_diag'}
  assert_close(chosen.log_prob(params, x), diagonal.log_prob(same, x), 1e-13, 1e-5)
  key = jax.random.key(0)
  assert_close(chosen.sample(key, params), diagonal.sample(key, same), 1e-13, 1e-5)


@pytest.mark.x64
@pytest.mark.parametrize('parametrization', ['autoregressive', 'raw'])
def test_outputs_of_zero_are_white_at_the_initial_scale(parametrization):
  chosen, params = _random((4, 4, 1), scale=0.0, parametrization=parametrization, initial_scale=0.3)
  covariance = jax.jit(functools.partial(gaussian.covariance, chosen))(params)
  assert_close(covariance, 0.09 * np.eye(16), 1e-3, 1e-3)


@pytest.mark.x64
def test_the_autoregressive_outputs_predict_each_pixel_from_the_later_ones():
  chosen = family('sparse_precision', filter_size=3, initial_scale=0.5)
  outputs = {n: jnp.zeros(s) for n, s in chosen.outputs(ImageShape(3, 3, 1)).items()}
  outputs['off_diag'] = outputs['off_diag'].at[1, 1, 0].set(jnp.array([0.1, 0.2, 0.3, 0.4]))
  params = chosen.from_outputs(outputs)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 1)), default_dtype())
  seen = np.arange(9).reshape(3, 3, 1) > 4
  condition = jax.jit(functools.partial(gaussian.condition, chosen))
  given = condition(params, x, jnp.asarray(seen))
  expected = 0.1 * x[1, 2] + 0.2 * x[2, 0] + 0.3 * x[2, 1] + 0.4 * x[2, 2]
  assert_close(given.mean[1, 1], expected, 1e-12, 1e-5)
  assert given.variance is not None
  assert_close(given.variance[1, 1], np.exp(-2 * params.log_diag[1, 1]), 1e-12, 1e-5)


@pytest.mark.parametrize('channels', ['none', 'full'])
@pytest.mark.slow
def test_trailing_rows_are_marginal_and_given(channels):
  chosen, params = _random((4, 3, 2), filter_size=5, channels=channels)
  covariance = np.asarray(gaussian.covariance(chosen, params), np.float64)
  last = sparse_precision.last_rows(params, 2)
  assert_close(gaussian.covariance(chosen, last), covariance[12:, 12:], 1e-12, 1e-5)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), default_dtype())
  seen = np.repeat([False, False, True, True], 6)
  mean, expected = dense.condition(params.mean, covariance, x, seen)
  first = sparse_precision.given_last_rows(params, x.at[:2].set(jnp.nan), 2)
  assert_close(np.ravel(first.mean), mean, 1e-10, 1e-4)
  assert_close(gaussian.covariance(chosen, first), expected, 1e-10, 1e-4)
  with pytest.raises(ValueError, match=r'rows must be from 1 to .*3; got'):
    sparse_precision.given_last_rows(params, x, 4)


@pytest.mark.x64
def test_exploding_marginal_variances_are_found():
  """Pixels that double what they are given have a harmless density and useless samples."""
  chosen = family('sparse_precision', filter_size=3)
  outputs = {n: jnp.zeros(s) for n, s in chosen.outputs(ImageShape(1, 30, 1)).items()}
  outputs['off_diag'] = outputs['off_diag'].at[..., 0].set(2.0)
  inflation_of = jax.jit(functools.partial(gaussian.variance_inflation, chosen))
  inflation = inflation_of(chosen.from_outputs(outputs))
  assert inflation == pytest.approx((4.0**30 - 1) / 3, rel=1e-3)
  white = chosen.from_outputs({n: jnp.zeros_like(v) for n, v in outputs.items()})
  assert inflation_of(white) == pytest.approx(1)


@pytest.mark.x64
def test_a_family_without_an_order_has_no_inflation():
  low_rank = family('low_rank', rank=2)
  zeros = {n: jnp.zeros(s) for n, s in low_rank.outputs(ImageShape(2, 2, 1)).items()}
  params = low_rank.from_outputs(zeros)
  with pytest.raises(ValueError, match='one after the other'):
    gaussian.variance_inflation(low_rank, params)


@pytest.mark.x64
def test_the_normal_prior_is_one_of_each_number():
  chosen, params = _random((3, 4, 2), filter_size=3, channels='full', prior='normal', prior_scale=0.7)
  assert chosen.log_prior is not None
  factor = _dense_factor(params)
  coefficients = -np.tril(factor, -1) / np.diag(factor)
  centred = np.ravel(params.log_diag) + np.log(0.5)
  count = params.log_diag.size + params.off_diag.size + params.cross.size
  squares = np.sum(coefficients**2) + np.sum(centred**2)
  expected = -0.5 * squares / 0.49 - count * np.log(0.7 * np.sqrt(2 * np.pi))
  assert chosen.log_prior(params) == pytest.approx(expected, rel=1e-12)


@pytest.mark.x64
def test_the_wishart_prior_is_that_of_the_precision():
  """Its differences, between factors with the full pattern, are those of the density of L."""
  import scipy.stats

  values = []
  for seed in range(2):
    chosen, params = _random((2, 2, 1), seed, filter_size=3, prior='wishart', prior_scale=3.0)
    assert chosen.log_prior is not None
    factor = _dense_factor(params)
    degrees = 4 - 1 + 3.0
    wishart = scipy.stats.wishart(degrees, np.eye(4) / (degrees * 0.25))
    jacobian = np.sum((4 - np.arange(4)) * np.log(np.diag(factor)))
    exact = wishart.logpdf(np.asarray(factor @ factor.T)) + jacobian
    values.append(float(chosen.log_prior(params)) - exact)
  assert values[0] == pytest.approx(values[1], abs=1e-10)


@pytest.mark.x64
def test_sizes_that_no_pattern_has_are_told():
  _, params = _random((3, 4, 2), filter_size=3)
  with pytest.raises(ValueError, match='neighbours'):
    sparse_precision.log_det(params._replace(off_diag=params.off_diag[..., :3]))
  with pytest.raises(ValueError, match='cross must hold'):
    sparse_precision.log_det(params._replace(cross=jnp.zeros((3, 4, 2, 2))))


@pytest.mark.x64
@pytest.mark.parametrize('image', [(64, 64, 1), (24, 24, 3)])
@pytest.mark.slow
def test_float32_is_close_to_float64_on_large_images(image):
  channels = 'none' if image[-1] == 1 else 'full'
  size = 7 if image[-1] == 1 else 3
  _, params = _random(image, scale=0.15, filter_size=size, channels=channels)
  single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
  exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), single)
  noise = jax.random.normal(jax.random.key(0), image, jnp.float32)
  drawn = sparse_precision.reparameterize(single, noise).astype(jnp.float64)
  expected = sparse_precision.reparameterize(exact, noise.astype(jnp.float64))
  scale = np.sqrt(np.max(sparse_precision.variance(exact)))
  assert np.max(np.abs(drawn - expected)) < 1e-5 * scale
  same = expected.astype(jnp.float32)
  actual = float(sparse_precision.log_prob(single, same))
  reference = float(sparse_precision.log_prob(exact, same.astype(jnp.float64)))
  assert actual == pytest.approx(reference, abs=5e-3)
