"""Reconstruction losses against their definitions in float64, which share no code with them."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
from skimage import metrics

from structured_obs.objectives import reconstruction

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (16, 13, 3))
MEAN = np.clip(X + 0.3 * RNG.normal(size=X.shape), -1.3, 1.3)
PLAIN = ('l2', 'l1', 'ssim', 'cross_entropy', 'focal_frequency')
DTYPE = jnp.zeros(()).dtype
RTOL = 1e-9 if DTYPE.itemsize == 8 else 2e-5


def _arrays(*images: np.ndarray) -> Any:
  return [jnp.asarray(image, DTYPE) for image in images]


def _kernel(*shape: int) -> np.ndarray:
  kernel = np.random.default_rng(shape).uniform(size=shape)
  return kernel / kernel.sum(axis=(0, 1), keepdims=True)


def _cross_entropy(x: np.ndarray, mean: np.ndarray) -> float:
  p, q = (1 + x) / 2, np.clip((1 + mean) / 2, 0.5 / 255, 254.5 / 255)
  distance = np.maximum(np.abs(mean) - 1, 0)
  own, other = scipy.special.xlogy(p, q), scipy.special.xlog1py(1 - p, -q)
  return float(np.sum(-own - other + distance**2 / 2))


def _structural_similarity(x: np.ndarray, mean: np.ndarray) -> float:
  found: Any = metrics.structural_similarity(
    (1 + x) / 2, (1 + mean) / 2, data_range=1, gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, channel_axis=2,
  )  # fmt: skip
  return found


def _focal_frequency(x: np.ndarray, mean: np.ndarray) -> float:
  total = 0.0
  for channel in range(x.shape[2]):
    rows, columns = (scipy.linalg.dft(size, scale='sqrtn') for size in x.shape[:2])
    size = np.abs(rows @ (x - mean)[..., channel] @ columns.T)
    total += np.sum(size / size.max() * size**2) / 2
  return total


DEFINITIONS = {
  'l2': lambda x, mean: np.sum((x - mean) ** 2) / 2,
  'l1': lambda x, mean: np.sum(np.abs(x - mean)),
  'ssim': lambda x, mean: x.size * (1 - _structural_similarity(x, mean)),
  'cross_entropy': _cross_entropy,
  'focal_frequency': _focal_frequency,
}


@pytest.mark.parametrize('name', PLAIN)
def test_loss_is_its_definition(name: str):
  found = jax.jit(reconstruction.make(name))(*_arrays(X, MEAN))
  assert found.shape == ()
  np.testing.assert_allclose(found, DEFINITIONS[name](X, MEAN), rtol=RTOL)


@pytest.mark.parametrize('name', PLAIN)
def test_gradients_are_finite_without_an_error_and_nan_is_passed_on(name: str):
  loss = jax.jit(reconstruction.make(name))
  derivative = jax.jit(jax.value_and_grad(loss, (0, 1)))
  flat = np.full_like(X, -1.0)
  for x, mean in ((X, X), (X, MEAN), (flat, flat), (flat, -flat), (flat, 3 * flat)):
    value, gradients = derivative(*_arrays(x, mean))
    assert np.isfinite(value)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
  assert np.isnan(loss(*_arrays(X, np.where(MEAN > 1, np.nan, MEAN))))


@pytest.mark.parametrize('name', ['l2', 'l1', 'ssim', 'focal_frequency'])
def test_no_error_costs_nothing(name: str):
  np.testing.assert_allclose(reconstruction.make(name)(*_arrays(X, X)), 0, atol=1e-3)


def test_cross_entropy_is_least_at_the_image_and_leads_back_to_the_pixels_range():
  gradient = jax.grad(reconstruction.cross_entropy, 1)
  inside = _arrays(np.clip(X, -0.9, 0.9))[0]
  np.testing.assert_allclose(gradient(inside, inside), 0, atol=1e-5)
  outside = gradient(*_arrays(X, np.full_like(X, 1.5)))
  np.testing.assert_allclose(outside, 0.5, rtol=1e-6)


def test_focal_frequency_without_focus_is_l2():
  found = reconstruction.focal_frequency(*_arrays(X, MEAN), alpha=0.0)
  np.testing.assert_allclose(found, DEFINITIONS['l2'](X, MEAN), rtol=RTOL)


@pytest.mark.x64
def test_the_focus_has_no_gradient():
  x, mean = _arrays(X, MEAN)
  spectrum = np.fft.fft2(X - MEAN, axes=(0, 1), norm='ortho')
  weight = np.abs(spectrum) / np.abs(spectrum).max(axis=(0, 1))
  expected = -np.fft.ifft2(weight * spectrum, axes=(0, 1), norm='ortho').real
  np.testing.assert_allclose(jax.grad(reconstruction.focal_frequency, 1)(x, mean), expected, atol=1e-12)


def test_the_window_of_ssim_shrinks_with_the_image():
  x, mean = _arrays(X[:5], MEAN[:5])
  assert reconstruction.structural_similarity(x, mean).shape == (1, 3, 3)
  weights = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / 1.5) ** 2) for n in (5, 11)]
  window = np.outer(*(w / w.sum() for w in weights))
  a, b = 1 + X[:5, 1:12, 1], 1 + MEAN[:5, 1:12, 1]
  means = [np.sum(window * image) for image in (a, b)]
  moments = [np.sum(window * one * other) for one, other in ((a, a), (b, b), (a, b))]
  variances = moments[0] - means[0] ** 2, moments[1] - means[1] ** 2
  covariance = moments[2] - means[0] * means[1]
  c1, c2 = 0.02**2, 0.06**2
  expected = (2 * means[0] * means[1] + c1) * (2 * covariance + c2)
  expected /= (means[0] ** 2 + means[1] ** 2 + c1) * (sum(variances) + c2)
  found = reconstruction.structural_similarity(x, mean)[0, 1, 1]
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def _circulant(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
  """Matrix [H W, H W] of the periodic convolution with a kernel centred at pixel k // 2, tap by tap."""
  matrix = np.zeros((height * width,) * 2)
  for a in range(kernel.shape[0]):
    for b in range(kernel.shape[1]):
      for i in range(height):
        for j in range(width):
          source = (i - a + kernel.shape[0] // 2) % height, (j - b + kernel.shape[1] // 2) % width
          matrix[i * width + j, source[0] * width + source[1]] += kernel[a, b]
  return matrix


@pytest.mark.parametrize('shape', [(3, 3), (4, 4), (9, 9), (3, 3, 2), (1, 1)])
@pytest.mark.parametrize('size', [(5, 6), (4, 7)])
@pytest.mark.few(3)
def test_paper_loss_is_that_of_dense_matrices(shape: tuple[int, ...], size: tuple[int, int]):
  x, mean, kernel = X[: size[0], : size[1], :2], MEAN[: size[0], : size[1], :2], _kernel(*shape)
  noise, epsilon = 0.07, 0.3
  quadratic = determinant = 0.0
  for channel in range(2):
    matrix = _circulant(kernel if kernel.ndim == 2 else kernel[..., channel], *size)
    filtered = matrix.T @ np.linalg.inv(matrix @ matrix.T + noise * np.eye(len(matrix)))
    quadratic += np.sum((filtered @ (x - mean)[..., channel].reshape(-1)) ** 2) / 2
    determinant += np.linalg.slogdet(matrix + epsilon * np.eye(len(matrix)))[1]
  arrays = _arrays(kernel, x, mean)
  loss = functools.partial(reconstruction.paper_loss, noise=noise)
  found = jax.jit(loss)(*arrays)
  np.testing.assert_allclose(found, quadratic, rtol=RTOL)
  found = jax.jit(functools.partial(loss, epsilon=epsilon))(*arrays)
  np.testing.assert_allclose(found, quadratic + determinant, rtol=RTOL)


def test_paper_loss_of_no_blur_is_a_scaled_l2():
  found = reconstruction.paper_loss(*_arrays(np.ones((1, 1)), X, MEAN))
  np.testing.assert_allclose(found, DEFINITIONS['l2'](X, MEAN) / 1.025**2, rtol=RTOL)


def test_paper_loss_does_not_normalise():
  """With one covariance, 1/2 log|cov| and the quadratic's Gaussian integral would cancel."""
  taps = np.exp(-0.5 * np.arange(-5, 6) ** 2)
  kernel = np.outer(taps, taps) / taps.sum() ** 2
  zero = np.zeros((64, 64, 1))
  own = reconstruction.paper_loss(*_arrays(kernel, zero, zero), epsilon=0.5)
  placed = np.zeros((64, 64))
  placed[:11, :11] = kernel
  power = np.abs(np.fft.fft2(placed)) ** 2
  log_integral = 0.5 * np.sum(2 * np.log(power + 0.025) - np.log(power)) - float(own)
  assert math.isclose(log_integral, 2675.17, abs_tol=0.5), log_integral


@pytest.mark.parametrize('epsilon', [None, 0.5])
def test_gradients_of_paper_loss_are_finite(epsilon: float | None):
  uniform = np.full((4, 4, 3), 1 / 16)  # suppresses frequencies completely
  loss = lambda *arrays: reconstruction.paper_loss(*arrays, epsilon=epsilon)  # noqa: E731
  for mean in (X, MEAN):
    gradients = jax.grad(loss, (0, 1, 2))(*_arrays(uniform, X, mean))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_arguments_that_cannot_be():
  x, mean, kernel = _arrays(X, MEAN, _kernel(3, 3))
  for noise in (0.0, -1.0, math.inf, math.nan):
    with pytest.raises(ValueError, match='noise must be a positive number'):
      reconstruction.paper_loss(kernel, x, mean, noise)
  with pytest.raises(ValueError, match='kernel must have shape'):
    reconstruction.paper_loss(kernel[..., None], x, mean)
  for name in PLAIN:
    with pytest.raises(ValueError, match='mean must have shape'):
      reconstruction.make(name)(x, mean[..., :1])
    with pytest.raises(ValueError, match='x must have shape'):
      reconstruction.make(name)(x[None], mean[None])


def test_names():
  assert {*PLAIN, 'vgg', 'watson'} <= set(reconstruction.LOSSES)
  with pytest.raises(ValueError, match=r"l2, l1, .*got 'l3'"):
    reconstruction.make('l3')
