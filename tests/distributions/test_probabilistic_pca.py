"""Probabilistic PCA against eigendecompositions, dense densities and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from structured_obs.distributions import low_rank, probabilistic_pca
from structured_obs.distributions.low_rank import LowRank
from structured_obs.distributions.probabilistic_pca import Moments

IMAGE = (5, 3, 2)  # D = 30
RANK = 4


def make_images(count: int = 50, image: tuple[int, int, int] = IMAGE) -> np.ndarray:
  """Correlated images, float64."""
  rng = np.random.default_rng(0)
  size = int(np.prod(image))
  factor = rng.normal(size=(size, 6)) * [3.0, 2.0, 1.0, 0.7, 0.4, 0.2]
  noise = 0.3 * rng.normal(size=(count, size))
  x = rng.normal(size=(count, 6)) @ factor.T + noise + rng.normal(size=size)
  return x.reshape(count, *image)


def spectrum(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues [D], largest first, and eigenvectors [D, D] of the images' covariance."""
  values, vectors = np.linalg.eigh(np.cov(x.reshape(len(x), -1).T, bias=True))
  return values[::-1], vectors[:, ::-1]


def dense(params: LowRank) -> np.ndarray:
  """The covariance [D, D], float64."""
  factor = np.asarray(params.cov_factor, np.float64).reshape(params.mean.size, -1)
  return factor @ factor.T + float(params.cov_diag) * np.eye(len(factor))


def mean_log_prob(params: LowRank, x: np.ndarray) -> float:
  """Mean log density of the images, by a dense normal distribution."""
  mean = np.asarray(params.mean, np.float64).ravel()
  covariance: Any = dense(params)  # which scipy's stubs take for a number
  density = scipy.stats.multivariate_normal(mean, covariance)
  return float(np.mean(density.logpdf(x.reshape(len(x), -1))))


# Exact where all directions are in the subspace (D = 30, 28 in reach); iterated where they are not;
# of lower rank than the subspace where images are few.
@pytest.mark.parametrize(('count', 'image'), [(50, IMAGE), (80, (10, 11, 1)), (7, (9, 8, 1))])
@pytest.mark.parametrize('entries', [1, 2**24])
def test_moments_by_an_eigendecomposition(monkeypatch, count, image, entries):
  monkeypatch.setattr(probabilistic_pca, 'ENTRIES', entries)
  x = make_images(count, image)
  found = probabilistic_pca.moments(x, RANK)
  values, vectors = spectrum(x)
  np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12, atol=1e-12)
  np.testing.assert_allclose(found.variances, values[:RANK], rtol=1e-6)
  np.testing.assert_allclose(found.total, values.sum(), rtol=1e-12)
  flat = found.directions.reshape(RANK, -1)
  np.testing.assert_allclose(flat @ flat.T, np.eye(RANK), atol=1e-12)
  np.testing.assert_allclose(np.abs(np.diag(flat @ vectors[:, :RANK])), 1, atol=1e-5)


def test_moments_of_levels_are_of_what_they_stand_for():
  levels = np.random.default_rng(1).integers(0, 17, (40, *IMAGE)).astype(np.uint8)
  found = probabilistic_pca.moments(levels, 2, lambda batch: batch / np.float32(8) - 1)
  expected = probabilistic_pca.moments(levels / 8 - 1, 2)
  np.testing.assert_allclose(found.mean, expected.mean, atol=1e-7)
  np.testing.assert_allclose(found.variances, expected.variances, rtol=1e-6)


def test_the_optimum_is_tipping_and_bishops():
  x = make_images()
  values, vectors = spectrum(x)
  noise = values[RANK:].mean()
  factor = vectors[:, :RANK] * np.sqrt(values[:RANK] - noise)
  images = probabilistic_pca.moments(x, RANK)
  found = probabilistic_pca.optimum(images, RANK)
  np.testing.assert_allclose(found.cov_diag, noise, rtol=1e-5)
  np.testing.assert_allclose(dense(found), factor @ factor.T + noise * np.eye(30), atol=1e-4)
  np.testing.assert_allclose(
    probabilistic_pca.mean_log_prob(images, found), mean_log_prob(found, x), rtol=1e-5
  )


@pytest.mark.x64
@pytest.mark.parametrize('noise', [None, 0.05, 2.0])
@pytest.mark.slow
def test_no_direction_leads_up_from_the_optimum(noise: float | None):
  """The gradient is 0, but for a noise variance that is given, and every other factor is worse."""
  x = jnp.asarray(make_images())
  images = probabilistic_pca.moments(np.asarray(x), 10)  # exact, by all 30 directions
  best = probabilistic_pca.optimum(images, 6, noise, jnp.float64)

  def likelihood(params: LowRank) -> jax.Array:
    return jnp.mean(jax.vmap(low_rank.log_prob, (None, 0))(params, x))

  value, gradient = jax.value_and_grad(likelihood)(best)
  np.testing.assert_allclose(value, probabilistic_pca.mean_log_prob(images, best), rtol=1e-10)
  np.testing.assert_allclose(gradient.mean, 0, atol=1e-10)
  np.testing.assert_allclose(gradient.cov_factor, 0, atol=1e-9)
  assert (abs(float(gradient.cov_diag)) < 1e-9) == (noise is None)
  rng = np.random.default_rng(2)
  for size in (1e-2, 0.3):
    for _ in range(5):
      other = LowRank(
        best.mean + size * rng.normal(size=best.mean.shape),
        best.cov_factor + size * rng.normal(size=best.cov_factor.shape),
        best.cov_diag * (np.exp(size * rng.normal()) if noise is None else 1.0),
      )
      assert likelihood(other) < value


def test_columns_below_the_noise_vanish():
  images = probabilistic_pca.moments(make_images(), 6)
  noise = float(images.variances[2] + images.variances[3]) / 2
  found = probabilistic_pca.optimum(images, 6, noise)
  norms = np.linalg.norm(np.asarray(found.cov_factor).reshape(30, 6), axis=0)
  np.testing.assert_allclose(norms[:3] ** 2, images.variances[:3] - noise, rtol=1e-4)
  np.testing.assert_array_equal(norms[3:], 0)
  np.testing.assert_allclose(
    probabilistic_pca.mean_log_prob(images, found), mean_log_prob(found, make_images()), rtol=1e-5
  )


def test_noise_of_every_pixel_is_part_of_the_optimum():
  """Of images with every combination of +-a added, whose covariance is known exactly."""
  x = make_images(30, (2, 2, 1))
  signs = np.array(np.meshgrid(*[[-0.7, 0.7]] * 4)).reshape(4, -1).T.reshape(-1, 1, 2, 2, 1)
  noisy = (x + signs).reshape(-1, 2, 2, 1)
  images = probabilistic_pca.with_noise(probabilistic_pca.moments(x, 2), 0.49)
  found = probabilistic_pca.optimum(images, 2)
  expected = probabilistic_pca.optimum(probabilistic_pca.moments(noisy, 2), 2)
  np.testing.assert_allclose(dense(found), dense(expected), atol=1e-5)


def test_rank_0_is_white():
  x = make_images()
  images = probabilistic_pca.moments(x, 1)
  found = probabilistic_pca.optimum(images, 0)
  assert found.cov_factor.shape == (*IMAGE, 0)
  np.testing.assert_allclose(found.cov_diag, np.var(x, axis=0).mean(), rtol=1e-6)


def test_what_cannot_be_is_refused():
  x = make_images(12)
  with pytest.raises(ValueError, match='k must be from 1'):
    probabilistic_pca.moments(x, 31)
  with pytest.raises(ValueError, match='at least two'):
    probabilistic_pca.moments(x[0], 1)
  images = probabilistic_pca.moments(x, 12)
  with pytest.raises(ValueError, match='rank must be'):
    probabilistic_pca.optimum(images, 13)
  with pytest.raises(ValueError, match='noise variance must be positive'):
    probabilistic_pca.optimum(images, 11)  # 12 images lie in 11 dimensions
  flat = Moments(np.zeros((1, 1, 2)), np.ones(1), np.ones((1, 1, 1, 2)) / np.sqrt(2), 2.0)
  with pytest.raises(ValueError, match='noise variance must be positive'):
    probabilistic_pca.optimum(flat, 1, np.nan)
