"""Laws of squared distances and pixels against scipy: F, chi-square, Student's t and the normal."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from structured_obs.distributions import diagonal, elliptical, radial

STATS: Any = stats  # distributions, whose stubs are of other types

IMAGE = (2, 3, 2)


def _bound(float64: float, float32: float) -> float:
  return float64 if jnp.zeros(()).dtype == jnp.float64 else float32


@pytest.mark.parametrize('size', [1, 12288])
def test_laws_of_distance_and_pixels_are_scipys(size: int):
  probability, z = np.array([1e-4, 0.1, 0.5, 0.97]), np.array([-1e9, -3.0, -0.1, 0.0, 2.0, np.inf])
  dofs = np.array([0.7, 10.0, 1e6])
  expected = size * STATS.f(size, dofs[:, None]).ppf(probability)

  @jax.jit
  def found(dof, distance):
    return (
      radial.distance_quantile(size, dof, jnp.asarray(probability, dof.dtype)),
      radial.distance_cdf(size, dof, distance),
      radial.pixel_cdf(dof, jnp.asarray(z, dof.dtype)),
    )

  for dof, distance in zip(dofs, expected, strict=True):
    quantile, below, pixel = found(jnp.asarray(dof), jnp.asarray(distance))
    np.testing.assert_allclose(quantile, distance, rtol=_bound(1e-9, 1e-3))
    np.testing.assert_allclose(below, probability, atol=_bound(1e-10, 3e-5))
    np.testing.assert_allclose(pixel, STATS.t(dof).cdf(z), atol=_bound(1e-12, 1e-6))


@pytest.mark.x64
def test_the_law_of_a_gaussians_distances():
  """Chi-square by the same functions, at the ends as well."""
  family = diagonal.family()
  params = diagonal.Diagonal(jnp.zeros(IMAGE), jnp.ones(IMAGE))
  probability = jnp.asarray([0.0, 1e-4, 0.5, 0.999, 1.0, jnp.nan, 1.5])
  found = jax.jit(functools.partial(elliptical.distance_quantile, family))(params, probability)
  expected = STATS.chi2(12).ppf(np.asarray(probability, np.float64))
  np.testing.assert_allclose(found, expected, rtol=_bound(1e-9, 1e-4))
  back = jax.jit(functools.partial(elliptical.distance_cdf, family))(params, found)
  np.testing.assert_allclose(back[:5], probability[:5], atol=_bound(1e-12, 1e-5))
  assert np.isnan(back[5:]).all()
  middle = elliptical.pixel_cdf(family, params, params.mean)
  np.testing.assert_allclose(middle, np.full(IMAGE, 0.5), rtol=1e-6)


@pytest.mark.x64
def test_laws_have_their_derivatives():
  law = STATS.f(12, 7.0)

  @jax.jit
  def found(nu, q, z):
    density, q_of = jax.grad(radial.distance_cdf, argnums=2), radial.distance_quantile
    p = radial.distance_cdf(12, nu, q)
    quantile = jax.grad(q_of, argnums=(1, 2))(12, nu, p)
    return density(12, nu, q), p, *quantile, jax.grad(radial.pixel_cdf, argnums=1)(nu, z)

  density, p, by_nu, by_p, pixel = map(float, found(*map(jnp.asarray, (7.0, 11.0, 0.3))))
  assert density == pytest.approx(law.pdf(11 / 12) / 12, rel=1e-9)
  assert by_p == pytest.approx(1 / density, rel=1e-9)
  above, below = (12 * STATS.f(12, 7 + step).ppf(p) for step in (1e-4, -1e-4))
  assert by_nu == pytest.approx((above - below) / 2e-4, rel=1e-6)
  assert pixel == pytest.approx(STATS.t(7).pdf(0.3), rel=1e-9)


@pytest.mark.float32
@pytest.mark.parametrize('dof', [2.5, 20.0, 1e5])
@pytest.mark.parametrize('distance', [0.1, 1.0, 30.0])
def test_float32_is_accurate_for_large_images(dof: float, distance: float):
  """Within a few roundings of the result, which has 1e4 nats; and its derivatives."""
  size = 12288
  nu, q = np.float32(dof), np.float32(distance * size)
  a, b, zero = float(nu) / 2, size / 2, jnp.zeros(())
  ratio = np.log1p(float(q) / float(nu))
  expected = special.gammaln(a + b) - special.gammaln(a) - b * np.log(2 * a * np.pi) - (a + b) * ratio
  density = functools.partial(radial.log_density, size)
  value, (by_dof, by_distance) = jax.jit(jax.value_and_grad(density, argnums=(0, 1)))(nu, q, zero)
  assert float(value) == pytest.approx(expected, abs=5e-3)
  slope = (
    special.digamma(a + b)
    - special.digamma(a)
    - b / a
    - ratio
    + (a + b) * 2 * float(q) / (2 * a) / (2 * a + float(q))
  )
  assert float(by_dof) == pytest.approx(slope / 2, rel=1e-4, abs=1e-5)
  assert float(by_distance) == pytest.approx(-(a + b) / (2 * a + float(q)), rel=1e-6)
  entropy = b * np.log(2 * a * np.pi) + special.gammaln(a) - special.gammaln(a + b)
  entropy += (a + b) * (special.digamma(a + b) - special.digamma(a))
  assert float(radial.entropy(size, jnp.asarray(nu), zero)) == pytest.approx(entropy, abs=5e-3)
