"""Scaled components against the paper's formula by NumPy's SVD, and a dense eigendecomposition."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.applications import components
from structured_obs.distributions import FAMILIES, base, diagonal, low_rank
from tests.distributions import cases

FACTORS = (-5.0, 0.0, 1.0, 2.5)
RNG = np.random.default_rng(0)


def scaled_by_factors(family: Any, params: Any, sample: jax.Array, count: int) -> components.Scaled:
  """`components.scale` by the factors, as one program."""
  return jax.jit(lambda p, x: components.scale(family, p, x, count, FACTORS))(params, sample)


def test_the_papers_factors():
  assert len(components.FACTORS) == 21
  np.testing.assert_array_equal(components.FACTORS, np.arange(-10, 11) / 2)


def test_low_rank_is_the_papers_formula():
  """mu + U diag(s a) V^T w + sqrt(eps) u, but for the pixel noise along the component."""
  image, rank, variance = (4, 5, 2), 6, 0.01
  mean, factor = RNG.normal(size=image), RNG.normal(size=(*image, rank))
  w, u = RNG.normal(size=rank), RNG.normal(size=image)
  dtype = cases.default_dtype()
  params = low_rank.LowRank(*(jnp.asarray(a, dtype) for a in (mean, factor, variance)))
  noise = low_rank.Noise(jnp.asarray(w, dtype), jnp.asarray(u, dtype))
  sample = low_rank.reparameterize(params, noise)
  found = scaled_by_factors(low_rank.family(rank=rank), params, sample, 4)
  left, singular, right = np.linalg.svd(factor.reshape(-1, rank), full_matrices=False)
  for k in range(4):
    for i, a in enumerate(FACTORS):
      scale = np.ones(rank)
      scale[k] = a
      paper = mean.ravel() + left @ (scale * singular * (right @ w)) + np.sqrt(variance) * u.ravel()
      along = (a - 1) * np.sqrt(variance) * (left[:, k] @ u.ravel()) * left[:, k]
      cases.assert_close(np.ravel(found.samples[k, i]), paper + along, 1e-9, 5e-5)
  cases.assert_close(found.deviations, np.sqrt(np.square(singular[:4]) + variance), 1e-10, 1e-6)


@cases.each([cases.Case(name, (), (3, 4, 1)) for name in FAMILIES])
@pytest.mark.few(3)
def test_every_family_against_dense_eigenvectors(case: cases.Case):
  problem = cases.make_problem(case)
  if problem.family.gaussian is None:
    pytest.skip('is not Gaussian')
  found = scaled_by_factors(problem.family, problem.params, problem.x, 2)
  values, columns = np.linalg.eigh(problem.cov)
  gap = np.abs(values[-2] - values[-3]) / values[-1]
  assert found.samples.shape == found.alone.shape == (2, 4, *problem.image)
  x = np.asarray(problem.x, np.float64).ravel()
  if gap < 1e-6:  # equal variances: which vectors are taken is open
    cases.assert_close(np.ravel(found.samples[1, 2]), x, 1e-12, 1e-6)
    return
  for k in range(2):
    v, value = columns[:, -1 - k], values[-1 - k]
    v = v * np.sign(v[np.abs(v).argmax()])
    for i, a in enumerate(FACTORS):
      expected = x + (a - 1) * (v @ (x - problem.mean)) * v
      cases.assert_close(np.ravel(found.samples[k, i]), expected, 1e-6, 1e-3)
      cases.assert_close(np.ravel(found.alone[k, i]), problem.mean + a * np.sqrt(value) * v, 1e-6, 1e-3)


def test_a_sample_without_pixel_noise_is_of_the_factor_alone():
  case = cases.Case('low_rank', (('rank', 2), ('noise_variance', 0.1)), (3, 4, 1))
  problem, key = cases.make_problem(case), jax.random.key(0)
  full = components.draw(key, problem.family, problem.params)
  np.testing.assert_array_equal(full, problem.family.sample(key, problem.params))
  found = components.draw(key, problem.family, problem.params, pixel_noise=False)
  residual = np.asarray(found - problem.params.mean, np.float64).ravel()
  factor = np.asarray(problem.params.cov_factor, np.float64).reshape(-1, 2)
  w = np.linalg.lstsq(factor, residual)[0]
  np.testing.assert_allclose(factor @ w, residual, atol=1e-5)
  np.testing.assert_allclose(w, low_rank.noise(key, problem.params).factor, rtol=1e-3)


def test_how_many_to_look_at():
  image = base.ImageShape(4, 4, 1)
  params = low_rank.LowRank(jnp.zeros(image), jnp.zeros((*image, 3)), jnp.asarray(1.0))
  assert components.default_count(params, image) == 3
  none = params._replace(cov_factor=jnp.zeros((*image, 0)))
  assert components.default_count(none, image) == 1
  others = diagonal.Diagonal(jnp.zeros(image), jnp.zeros(image))
  assert components.default_count(others, image) == 10
  assert components.default_count(others, base.ImageShape(2, 2, 1)) == 4


def test_eigenvectors_that_did_not_converge_are_told():
  zeros = jnp.zeros(())
  scaled = components.Scaled(zeros, zeros, zeros, zeros, jnp.asarray([1e-6, 0.3, jnp.nan, 1e-3]))
  assert components.warning(scaled).startswith('Components 2, 3 did not converge')
  assert not components.warning(scaled._replace(residual=jnp.asarray([1e-6])))


def test_what_cannot_be_is_refused():
  family, image = low_rank.family(rank=2), base.ImageShape(2, 2, 1)
  with pytest.raises(ValueError, match=r'--components=5 is out of range: .* has 4 components'):
    components.check(family, image, 5)
  with pytest.raises(ValueError, match='need a family with a covariance'):
    components.check(family._replace(gaussian=None), image, 1)
  params = low_rank.LowRank(jnp.zeros(image), jnp.zeros((*image, 2)), jnp.asarray(1.0))
  with pytest.raises(ValueError, match='sample must have shape'):
    components.scale(family, params, jnp.zeros((3, 2, 1)), 1)
  with pytest.raises(ValueError, match='k must be from 1'):
    components.scale(family, params, jnp.zeros(image), 0)
  nan = components.scale(family, params, jnp.full(image, jnp.nan), 1)
  assert np.isnan(nan.samples).all()
  assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == jnp.zeros(()).dtype, nan))
