"""Denoising against dense float64 linear algebra, with models whose p(x|z) is known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.applications import denoise, linear_filter
from structured_obs.distributions import base, gaussian, low_rank
from structured_obs.models.base import Bound, Traits
from structured_obs.objectives.terms import Terms

IMAGE = base.ImageShape(3, 4, 1)
SIGMA = 0.3


class Shrinking(nn.Module):
  """p(x|z) with the mean `slope` times what was encoded, and a covariance of its own."""

  family: base.Family
  slope: float
  image: base.ImageShape = IMAGE
  label_classes = None
  masked = False
  traits = Traits()

  def __call__(self, keys: jax.Array, x: jax.Array, train: bool = False) -> Terms:
    raise NotImplementedError

  def reconstruct(self, keys: None, x: jax.Array) -> low_rank.LowRank:
    params = self.variables['params']
    return jax.vmap(lambda image: low_rank.LowRank(self.slope * image, **params))(x)


MODEL = Shrinking(low_rank.family(rank=3, learn_diag=True, noise_variance=0.1), 0.5)
RNG = np.random.default_rng(0)
VARIABLES = {
  'cov_factor': jnp.asarray(RNG.normal(size=(*IMAGE, 3))),
  'cov_diag': jnp.asarray(0.05 + RNG.uniform(size=IMAGE)),
}
CLEAN = jnp.asarray(RNG.normal(size=(2, *IMAGE)))
BOUND = Bound(MODEL, {'params': VARIABLES})
NOISY = denoise.add_noise(jax.random.key(0), CLEAN, SIGMA)


def covariance() -> np.ndarray:
  """The covariance of p(x|z), dense."""
  params = low_rank.LowRank(jnp.zeros(IMAGE), **VARIABLES)
  return np.asarray(gaussian.covariance(MODEL.family, params), np.float64)


def guess(seen: np.ndarray) -> np.ndarray:
  """Posterior mean of every image by definition, the prior's mean from the image that is seen."""
  cov = covariance()
  gain = cov @ np.linalg.inv(cov + SIGMA**2 * np.eye(len(cov)))
  mean = MODEL.slope * seen.reshape(2, -1)
  return (mean + (np.asarray(NOISY).reshape(2, -1) - mean) @ gain.T).reshape(2, *IMAGE)


def test_the_posterior_mean_and_its_variance():
  found = denoise.posterior_mean(BOUND, NOISY, SIGMA)
  np.testing.assert_allclose(found.mean, guess(np.asarray(NOISY)), rtol=1e-5, atol=1e-6)
  variance = np.diag(np.linalg.inv(np.linalg.inv(covariance()) + np.eye(12) / SIGMA**2))
  assert found.variance is not None
  np.testing.assert_allclose(found.variance[1].reshape(-1), variance, rtol=1e-5)
  np.testing.assert_allclose(found.reconstruction, 0.5 * NOISY, rtol=1e-6)


def test_a_refinement_encodes_the_guess():
  found = denoise.posterior_mean(BOUND, NOISY, SIGMA, refinements=2)
  expected = guess(guess(guess(np.asarray(NOISY))))
  np.testing.assert_allclose(found.mean, expected, rtol=1e-5, atol=1e-6)


def test_the_projection_and_its_error_for_every_number_of_eigenvectors():
  found = denoise.projection(BOUND, NOISY, 5, CLEAN)
  _, vectors = np.linalg.eigh(covariance())
  mean = 0.5 * np.asarray(NOISY).reshape(2, -1)
  residual = np.asarray(NOISY).reshape(2, -1) - mean
  assert found.errors is not None
  expected = mean
  for k in range(1, 6):
    leading = vectors[:, -k:]
    expected = mean + residual @ leading @ leading.T
    error = np.mean(np.square(expected - np.asarray(CLEAN).reshape(2, -1)), axis=1)
    np.testing.assert_allclose(found.errors[:, k - 1], error, rtol=1e-4)
  np.testing.assert_allclose(found.mean.reshape(2, -1), expected, rtol=1e-4, atol=1e-5)
  again = denoise.projection(BOUND, NOISY, 5)
  assert again.errors is None
  np.testing.assert_allclose(again.mean, found.mean, rtol=1e-6)


def test_in_expectation_the_posterior_mean_is_the_best():
  """Images drawn from the very p(x|z) that they are denoised with."""
  fixed = Bound(MODEL.clone(slope=0.0), BOUND.variables)
  params = low_rank.LowRank(jnp.zeros(IMAGE), **VARIABLES)
  clean = jax.vmap(lambda key: low_rank.sample(key, params))(jax.random.split(jax.random.key(1), 200))
  noisy = denoise.add_noise(jax.random.key(2), clean, SIGMA)
  errors = denoise.projection(fixed, noisy, 12, clean).errors
  assert errors is not None
  best = denoise.posterior_mean(fixed, noisy, SIGMA).mean
  assert np.mean(np.square(best - clean)) < errors.mean(axis=0).min()
  np.testing.assert_allclose(errors.mean(axis=0)[-1], SIGMA**2, rtol=0.1)


def test_noise_is_one_draw_an_image():
  more = denoise.add_noise(jax.random.key(0), jnp.concatenate([CLEAN, CLEAN]), SIGMA)
  np.testing.assert_allclose(more[:2], NOISY)
  assert np.abs(more[2:] - NOISY).max() > 0.1


def test_the_papers_number_of_eigenvectors():
  assert [denoise.paper_components(n) for n in (4096, 1024, 1)] == [1000, 250, 1]


def test_what_cannot_be_is_refused():
  with pytest.raises(ValueError, match=r'of pixels in .* must be positive'):
    denoise.posterior_mean(BOUND, NOISY, 0.0)
  with pytest.raises(ValueError, match='refinements must not be negative'):
    denoise.posterior_mean(BOUND, NOISY, 1.0, -1)
  with pytest.raises(ValueError, match='needs a family with a covariance'):
    denoise.check(MODEL.family._replace(gaussian=None))


def test_the_linear_filter_is_the_best_one_in_expectation():
  """Its matrix minimises the mean squared error, whose gradient is 0 there; by dense algebra."""
  images = np.random.default_rng(1).normal(size=(30, *IMAGE)) @ np.diag([2.0])
  images[..., 0] += images[:, ::-1, :, 0]
  moments = linear_filter.moments(images.astype(np.float32), lambda x: x.astype(np.float64) / 2)
  flat = images.astype(np.float32).reshape(30, -1).astype(np.float64) / 2
  covariance = np.cov(flat.T, bias=True)
  np.testing.assert_allclose(moments.covariance, covariance, rtol=1e-9, atol=1e-12)
  gain = covariance @ np.linalg.inv(covariance + SIGMA**2 * np.eye(12))
  mean, noisy = flat.mean(axis=0), np.asarray(NOISY, np.float64)
  expected = mean + (noisy.reshape(2, -1) - mean) @ gain.T
  found = linear_filter.denoise(moments, noisy, SIGMA)
  np.testing.assert_allclose(found.reshape(2, -1), expected, rtol=1e-9)
  assert moments.parameters == 12 + 12 * 13 // 2
  # E|x - G y|^2 = tr((I - G) C (I - G)^T) + s^2 tr(G G^T): its gradient by G.
  gradient = -2 * (np.eye(12) - gain) @ covariance + 2 * SIGMA**2 * gain
  np.testing.assert_allclose(gradient, 0, atol=1e-12)
  with pytest.raises(ValueError, match='at least 2 images of at most 8192 values; got 1 of 12'):
    linear_filter.moments(images[:1], lambda x: x)
