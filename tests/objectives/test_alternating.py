"""Blurred images against loops over taps, and which parameter learns from which loss, and when."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from structured_obs.objectives import alternating, bounds, reconstruction
from structured_obs.objectives.alternating import Fit, Phase
from structured_obs.objectives.terms import Images, Terms

MODES = {'circular': 'wrap', 'zero': 'constant', 'reflect': 'reflect'}


def draw(seed: int, *shape: int) -> Any:
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def make_images(kernel: Any = None) -> Images:
  return Images(draw(0, 3, 6, 5, 2), draw(1, 3, 6, 5, 2), kernel)


@pytest.mark.parametrize('boundary', alternating.BOUNDARIES)
@pytest.mark.parametrize('shape', [(3, 3), (5, 3), (9, 11)])
@pytest.mark.few(2)
def test_blur_is_a_convolution_with_this_boundary(boundary: str, shape: tuple[int, int]):
  kernel, x = draw(0, *shape), draw(1, 7, 6, 2)
  if boundary == 'reflect':
    kernel = (kernel + kernel[::-1] + kernel[:, ::-1] + kernel[::-1, ::-1]) / 4
  expected = np.stack(
    [ndimage.convolve(np.asarray(x[..., c]), np.asarray(kernel), mode=MODES[boundary]) for c in (0, 1)],
    axis=-1,
  )
  blurred = jax.jit(alternating.blur, static_argnums=2)(kernel, x, boundary)
  np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_each_channel_may_have_a_kernel_of_its_own():
  kernels, x = draw(0, 3, 3, 2), draw(1, 4, 5, 2)
  together = alternating.blur(kernels, x, 'zero')
  for c in range(2):
    alone = alternating.blur(kernels[..., c], x[..., c : c + 1], 'zero')
    np.testing.assert_allclose(together[..., c : c + 1], alone, atol=1e-6)


def test_kernels_of_channels_blur_the_channels_that_the_covariance_has():
  x, kernel, random = draw(0, 3, 6, 5, 2), draw(2, 3, 3, 3, 2), np.random.default_rng(3)
  axes = jnp.asarray(np.linalg.qr(random.normal(size=(3, 2, 2)))[0])
  turned = np.einsum('bhwc,bck->bhwk', x, axes)
  blurred = [
    [ndimage.convolve(turned[b, ..., k], np.asarray(kernel[b, ..., k]), mode='wrap') for k in (0, 1)]
    for b in range(3)
  ]
  mean = jnp.asarray(np.einsum('bkhw,bck->bhwc', blurred, axes))
  images = Images(x, mean, kernel, kernel_axes=axes)
  np.testing.assert_allclose(alternating.kernel_error(images), 0, atol=1e-6)
  assert np.all(alternating.kernel_error(images._replace(kernel_axes=None)) > 1)
  seen = alternating.of_kernels(lambda _, x, mean: jnp.sum(x * mean[..., :1]))(images)
  expected = np.einsum('bhwk,bhw->b', turned, np.stack(blurred)[:, 0])
  np.testing.assert_allclose(seen, expected, rtol=1e-5)
  shared = Images(x, mean, kernel[..., 0], kernel_axes=axes)
  alike = alternating.kernel_error(shared._replace(kernel_axes=None))
  np.testing.assert_array_equal(alternating.kernel_error(shared), alike)


def test_another_boundary_is_refused():
  with pytest.raises(ValueError, match="must be one of circular, zero, reflect; got 'wrap'"):
    alternating.blur(draw(0, 3, 3), draw(1, 4, 4, 1), 'wrap')


def test_the_kernel_error_has_a_derivative_by_the_kernel_alone():
  images = make_images(draw(2, 3, 3, 3))
  gradient = jax.grad(lambda images: jnp.sum(alternating.kernel_error(images)))(images)
  assert np.all(np.asarray(gradient.x) == 0)
  assert np.all(np.asarray(gradient.mean) == 0)
  assert np.all(np.abs(gradient.kernel).max(axis=(1, 2)) > 0)


def test_a_loss_of_kernels_has_none_by_the_kernel():
  loss = alternating.of_kernels(lambda kernel, x, mean: jnp.sum(kernel) * jnp.sum((x - mean) ** 2))
  gradient = jax.grad(lambda images: jnp.sum(loss(images)))(make_images(draw(2, 3, 3, 3)))
  assert np.all(np.asarray(gradient.kernel) == 0)
  assert np.any(np.asarray(gradient.mean) != 0)


def test_white_images_have_the_variance_that_is_best():
  images = make_images()
  residual = np.asarray(images.x - images.mean)
  scale = math.sqrt(np.mean(residual**2))
  expected = stats.norm.logpdf(residual, scale=scale).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(alternating.white_log_prob(images), expected, rtol=1e-6)
  others = [stats.norm.logpdf(residual, scale=scale * factor).sum() for factor in (0.9, 1.1)]
  assert max(others) < np.sum(alternating.white_log_prob(images))


IMAGES = make_images(draw(2, 3, 3, 3))


def make_terms() -> Terms:
  return Terms({'x': draw(3, 3)}, {}, {}, IMAGES)


def test_what_is_fitted_changes_at_its_step():
  terms = make_terms()
  white = alternating.white_log_prob(IMAGES)
  fit = Fit(phases=(Phase(0, 10, white=True),))
  np.testing.assert_array_equal(alternating.log_likelihood(fit, terms, 9), white)
  np.testing.assert_array_equal(alternating.log_likelihood(fit, terms, 10), terms.log_p['x'])
  np.testing.assert_array_equal(alternating.log_likelihood(Fit(), terms, 0), terms.log_p['x'])
  absolute = alternating.of_images(lambda x, mean: jnp.sum(jnp.abs(x - mean)))
  squares = alternating.of_images(reconstruction.l2)
  fit = Fit(reconstruction=absolute, weight=3.0, phases=(Phase(0, 10, squares, 3.0),))
  residual = np.asarray(IMAGES.x - IMAGES.mean)
  late = -3 * np.abs(residual).sum(axis=(1, 2, 3))
  early = -3 * (residual**2).sum(axis=(1, 2, 3)) / 2
  np.testing.assert_allclose(alternating.log_likelihood(fit, terms, 10), late, rtol=1e-6)
  np.testing.assert_allclose(alternating.log_likelihood(fit, terms, 9), early, rtol=1e-6)


def test_every_phase_has_its_loss_and_the_rest_the_fits_own():
  terms = make_terms()
  absolute = alternating.of_images(lambda x, mean: jnp.sum(jnp.abs(x - mean)))
  squares = alternating.of_images(reconstruction.l2)
  phases = (Phase(2, 4, white=True), Phase(4, 5), Phase(5, 7, squares, 5.0))
  residual = np.asarray(IMAGES.x - IMAGES.mean)
  own = -2 * np.abs(residual).sum(axis=(1, 2, 3))
  white = np.asarray(alternating.white_log_prob(IMAGES))
  scored = -5 * (residual**2).sum(axis=(1, 2, 3)) / 2
  expected = [own, own, white, white, terms.log_p['x'], scored, scored, own]
  fit = Fit(absolute, 2.0, phases)
  step = jax.jit(lambda step: alternating.log_likelihood(fit, terms, step))
  found = [step(jnp.int32(count)) for count in range(8)]
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  told = bounds.negative_elbo(fit=Fit(phases=phases))(terms, {}, 5)[1]
  np.testing.assert_allclose(told['reconstruction'], -np.mean(scored), rtol=1e-6)


def test_the_mean_learns_from_another_loss_that_leaves_the_value_as_it_is():
  terms, share = make_terms(), 0.75
  teachers = {
    None: alternating.white_log_prob,
    'l1': lambda images: -2.0 * jnp.sum(jnp.abs(images.x - images.mean), axis=(1, 2, 3)),
  }
  white = jax.grad(lambda mean: jnp.sum(teachers[None](IMAGES._replace(mean=mean))))(IMAGES.mean)
  for name, teacher in teachers.items():
    loss = None if name is None else lambda images, teacher=teacher: -teacher(images)
    fit = Fit(mean_gradient=share, mean_loss=loss)

    def fitted(mean: Any, fit: Fit = fit) -> Any:
      return alternating.log_likelihood(fit, terms._replace(images=IMAGES._replace(mean=mean)), 0)

    np.testing.assert_array_equal(fitted(IMAGES.mean), terms.log_p['x'])
    found = jax.grad(lambda mean, f=fitted: jnp.sum(f(mean)))(IMAGES.mean)
    alone = jax.grad(lambda mean, t=teacher: jnp.sum(t(IMAGES._replace(mean=mean))))(IMAGES.mean)
    np.testing.assert_allclose(found, share * alone, rtol=1e-6)
    assert np.any(np.asarray(found) != 0)
    # So it is in a phase of the density, and not in one of another loss.
    for phase, gradient in ((Phase(0, 1), share * alone), (Phase(0, 1, white=True), white)):
      phased = fit._replace(phases=(phase,))
      again = jax.grad(lambda mean, f=fitted, phased=phased: jnp.sum(f(mean, phased)))
      np.testing.assert_allclose(again(IMAGES.mean), gradient, rtol=1e-6)


def test_white_pixels_that_do_not_count_have_no_part():
  mask = np.random.default_rng(5).uniform(size=(3, 6, 5, 1)) > 0.4
  x, mean = (np.where(mask, part, 0) for part in IMAGES[:2])
  counted = jnp.asarray(2.0 * mask.sum(axis=(1, 2, 3)))
  kept = [(x[i] - mean[i])[np.broadcast_to(mask[i], x[i].shape)] for i in range(3)]
  scale = math.sqrt(np.mean(np.concatenate(kept) ** 2))
  expected = [stats.norm.logpdf(residual, scale=scale).sum() for residual in kept]
  images = Images(jnp.asarray(x), jnp.asarray(mean), counted=counted)
  np.testing.assert_allclose(alternating.white_log_prob(images), expected, rtol=1e-6)


def test_the_objective_adds_the_kernels_loss_and_tells_the_elbo_of_the_density():
  terms = make_terms()
  loss, told = bounds.negative_elbo(fit=Fit(boundary='zero'))(terms, {}, 0)
  error = np.mean(alternating.kernel_error(IMAGES, 'zero'))
  np.testing.assert_allclose(loss, error - np.mean(terms.log_p['x']), rtol=1e-6)
  np.testing.assert_allclose(told['kernel_error'], error, rtol=1e-6)
  absolute = alternating.of_images(lambda x, mean: jnp.sum(jnp.abs(x - mean)))
  loss, told = bounds.negative_elbo(fit=Fit(absolute))(terms, {}, 0)
  np.testing.assert_allclose(loss, told['reconstruction'])
  np.testing.assert_allclose(told['elbo'], np.mean(terms.log_p['x']))


def test_a_model_that_tells_no_images_is_refused():
  with pytest.raises(ValueError, match='needs a model whose terms hold its images'):
    alternating.log_likelihood(
      Fit(phases=(Phase(0, 1, white=True),)), make_terms()._replace(images=None), 0
    )
  with pytest.raises(ValueError, match='needs a model that predicts blur kernels'):
    alternating.kernel_error(make_images())
