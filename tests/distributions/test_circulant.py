"""Blurred noise against dense covariances built tap by tap, and at the sizes it is meant for."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import base, blur_kernels, circulant, gaussian, kl
from structured_obs.distributions.blur_kernels import Spectrum
from structured_obs.linalg import dense
from tests.linalg.test_spectral import mirrored_blur, periodic_blur, symmetric_part

IMAGES = ((4, 5, 1), (5, 4, 2), (1, 6, 3))
KERNELS = ((11, 11), (4, 3, 0), (41, 41))  # odd, even with one for each channel, far too large
SPECTRA = (Spectrum(), Spectrum('wiener'), Spectrum('inverse_eps'))
FAMILY = circulant.family()


def _bound(float64: float, float32: float) -> float:
  return float64 if jnp.zeros(()).dtype == jnp.float64 else float32


def _array(values: Any) -> jax.Array:
  return jnp.asarray(values, jnp.zeros(()).dtype)


def _kernel(*shape: int, seed: int = 0) -> np.ndarray:
  """Positive taps of unit sum, most of it around the centre; different in each channel."""
  taps = np.random.default_rng(seed).exponential(size=shape)
  taps *= 0.4 / taps.sum((0, 1))
  taps[shape[0] // 2, shape[1] // 2] += 0.5
  taps[shape[0] // 2, 0] += 0.1
  return taps


def _dense_channel(kernel: np.ndarray, grid: tuple[int, int], spectrum: Spectrum, reflect: bool) -> Any:
  """Covariance [H W, H W] of one channel, from the blur's matrix K and products of matrices alone."""
  blur = mirrored_blur(symmetric_part(kernel), grid) if reflect else periodic_blur(kernel, grid)
  identity = np.eye(len(blur))
  if spectrum.parametrization == 'inverse_eps':
    return (blur + spectrum.epsilon * identity) @ (blur + spectrum.epsilon * identity).T
  regularised = blur @ blur.T + spectrum.noise * identity
  if spectrum.parametrization == 'regularised':
    return regularised
  return regularised @ np.linalg.inv(blur @ blur.T) @ regularised


def _dense(kernel: np.ndarray, image: tuple[int, ...], spectrum: Spectrum, reflect: bool) -> Any:
  """Covariance of the whole image, pixels in C order. [D, D]."""
  each = [kernel] * image[2] if kernel.ndim == 2 else np.moveaxis(kernel, -1, 0)
  cov = np.zeros((image[0] * image[1], image[2]) * 2)
  for channel, one in enumerate(each):
    cov[:, channel, :, channel] = _dense_channel(one, (image[0], image[1]), spectrum, reflect)
  return cov.reshape(math.prod(image), -1)


def _random(image: tuple[int, ...], shape: tuple[int, ...], spectrum: Spectrum, reflect: bool) -> Any:
  """Parameters, the dense covariance, and an image."""
  rng = np.random.default_rng(1)
  kernel = _kernel(*shape[:2], *(image[2:] if len(shape) > 2 else ()))
  mean, x = rng.normal(size=image), rng.normal(size=image)
  params = circulant.from_kernel(_array(mean), _array(kernel), spectrum, reflect)
  return params, _dense(kernel, image, spectrum, reflect), _array(x)


@pytest.mark.parametrize('reflect', [False, True], ids=['periodic', 'reflecting'])
@pytest.mark.parametrize('spectrum', SPECTRA, ids=lambda spectrum: spectrum.parametrization)
@pytest.mark.parametrize(('image', 'shape'), [*zip(IMAGES, KERNELS, strict=True)], ids=str)
@pytest.mark.few(5)
def test_densities_are_the_dense_gaussians(image: Any, shape: Any, spectrum: Spectrum, reflect: bool):
  params, cov, x = _random(image, shape, spectrum, reflect)
  assert isinstance(params, circulant.Reflective if reflect else circulant.Circulant)

  @jax.jit
  def found(params, x):
    operations = circulant.variance, circulant.precision_diagonal
    return (
      circulant.log_prob(params, x), circulant.log_det(params), gaussian.covariance(FAMILY, params),
      *(operation(params).ravel() for operation in operations),
    )  # fmt: skip

  log_prob, log_det, covariance, variance, precision_diagonal = found(params, x)
  expected = dense.log_prob(params.mean, cov, x)
  assert float(log_prob) == pytest.approx(expected, rel=_bound(1e-11, 1e-4))
  assert float(log_det) == pytest.approx(dense.log_det(cov), rel=_bound(1e-11, 1e-4))
  assert np.max(np.abs(covariance - cov)) < _bound(1e-12, 1e-5) * np.max(cov)
  np.testing.assert_allclose(variance, np.diag(cov), rtol=_bound(1e-11, 1e-4))
  precision = np.diag(np.linalg.inv(cov))
  np.testing.assert_allclose(precision_diagonal, precision, rtol=_bound(1e-10, 1e-3))


@pytest.mark.parametrize('reflect', [False, True], ids=['periodic', 'reflecting'])
def test_samples_come_from_the_symmetric_root(reflect: bool):
  params, cov, _ = _random(IMAGES[1], KERNELS[1], SPECTRA[0], reflect)
  unit = jnp.eye(params.mean.size).reshape(-1, *params.mean.shape)
  images = jax.vmap(functools.partial(circulant.reparameterize, params))(unit)
  root = np.asarray(images - params.mean[None], np.float64).reshape(len(unit), -1)
  np.testing.assert_allclose(root, root.T, atol=_bound(1e-14, 1e-6))
  np.testing.assert_allclose(root @ root.T, cov, atol=_bound(1e-13, 2e-6))
  white = jax.vmap(functools.partial(circulant.whiten, params))(images - params.mean[None])
  np.testing.assert_allclose(white, unit, atol=_bound(1e-13, 1e-5))


@pytest.mark.parametrize('reflect', [False, True], ids=['periodic', 'reflecting'])
def test_posterior_mean_with_one_noise_variance(reflect: bool):
  params, cov, x = _random(IMAGES[1], KERNELS[1], SPECTRA[0], reflect)
  posterior = jax.jit(functools.partial(gaussian.posterior_mean, FAMILY, params))
  expected, spread = dense.posterior(params.mean, cov, x, 0.1)
  for noise in (_array(0.1), jnp.full_like(x, 0.1)):  # the closed form, and conjugate gradients
    mean, variance = posterior(x, noise)
    np.testing.assert_allclose(np.ravel(mean), expected, atol=_bound(1e-10, 1e-5))
    np.testing.assert_allclose(np.ravel(variance), np.diag(spread), atol=_bound(1e-10, 1e-5))
  mean, variance = posterior(jnp.full_like(x, jnp.nan), _array(np.inf))
  np.testing.assert_allclose(mean, params.mean, atol=1e-6)
  np.testing.assert_allclose(variance, circulant.variance(params), rtol=1e-6)
  assert np.isnan(posterior(x, _array(-1))[0]).all()


def test_conditional_on_half_an_image():
  params, cov, x = _random((6, 8, 1), (5, 5), SPECTRA[0], False)
  observed = np.zeros(x.shape, bool)
  observed[:, :4] = True
  given = jax.jit(functools.partial(gaussian.condition, FAMILY))(params, x, observed)
  mean, spread = dense.condition(params.mean, cov, x, observed)
  np.testing.assert_allclose(np.asarray(given.mean)[~observed], mean, atol=_bound(1e-9, 1e-4))
  variance = np.asarray(given.variance)[~observed]
  np.testing.assert_allclose(variance, np.diag(spread), atol=_bound(1e-9, 1e-4))


def test_kullback_leibler_between_shared_and_own_spectra():
  p, cov_p, _ = _random(IMAGES[1], KERNELS[0], SPECTRA[0], False)
  q, cov_q, _ = _random(IMAGES[1], KERNELS[1], SPECTRA[1], False)
  q = q._replace(mean=q.mean + 0.1)
  for (a, cov_a), (b, cov_b) in (((p, cov_p), (q, cov_q)), ((q, cov_q), (p, cov_p))):
    expected = dense.kl_divergence(a.mean, cov_a, b.mean, cov_b)
    actual = float(kl.kl_divergence(FAMILY, a, FAMILY, b))
    assert actual == pytest.approx(expected, rel=_bound(1e-10, 1e-4))


@pytest.mark.parametrize('reflect', [False, True], ids=['periodic', 'reflecting'])
def test_the_optimal_scale(reflect: bool):
  params, _, x = _random(IMAGES[1], KERNELS[1], SPECTRA[0], reflect)

  @jax.jit
  def slope_at_the_best(params, x):
    best = circulant.optimal_scale(params, x)
    return jax.grad(lambda scale: circulant.log_prob(circulant.temper(params, scale), x))(best)

  slope = slope_at_the_best(params, x)
  assert abs(float(slope)) < _bound(1e-10, 1e-3)


@pytest.mark.x64
def test_a_delta_kernel_is_white():
  delta, mean = _array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]), jnp.zeros((4, 5, 2))
  for spectrum, value in zip(SPECTRA, (1.025, 1.025**2, 1.5**2), strict=True):
    for reflect in (False, True):
      params = circulant.from_kernel(mean, delta, spectrum, reflect)
      np.testing.assert_allclose(params.log_spectrum, np.log(value), atol=1e-6)


@pytest.mark.x64
def test_what_a_kernel_removes():
  """A box of two pixels has no alternating image: F = 0 there, and a kernel of -epsilon F = -epsilon."""
  box, mean = _array([[0.5, 0.5]]), jnp.zeros((1, 4, 1))
  powers = {'regularised': 0.025, 'wiener': (0.025 / 1e-3) ** 2, 'inverse_eps': 0.25}
  for spectrum in SPECTRA:
    params = circulant.from_kernel(mean, box, spectrum)
    power = np.exp(params.log_spectrum)[0, -1]
    assert power == pytest.approx(powers[spectrum.parametrization], rel=1e-6)
    gradient = jax.grad(lambda k, s=spectrum: circulant.log_det(circulant.from_kernel(mean, k, s)))
    assert np.isfinite(gradient(box)).all()
  none = circulant.from_kernel(mean, _array([[-0.5]]), SPECTRA[2])
  for function in (circulant.log_prob, circulant.whiten, circulant.reparameterize):
    assert np.isnan(jax.jit(function)(none, mean)).all()


@pytest.mark.x64
def test_the_second_row_of_one_frequency_is_not_read():
  params, _, x = _random(IMAGES[1], KERNELS[0], SPECTRA[0], False)
  other = params.log_spectrum.at[-1, 0].set(9).at[-2, -1].set(9)
  for name in ('log_prob', 'reparameterize', 'variance', 'principal_components'):
    function, more = getattr(circulant, name), {'log_prob': (x,), 'reparameterize': (x,)}
    more = more | {'principal_components': (5,)}
    results = [function(params._replace(log_spectrum=s), *more.get(name, ())) for s in (
      params.log_spectrum, other
    )]  # fmt: skip
    for one, same in zip(*map(jax.tree.leaves, results), strict=True):
      np.testing.assert_allclose(one, same, rtol=1e-5, atol=1e-6)


def _zeros(family: base.Family[Any], image: base.ImageShape) -> dict[str, jax.Array]:
  return {name: jnp.zeros(shape) for name, shape in family.outputs(image).items()}


@pytest.mark.x64
def test_outputs_and_what_zeros_stand_for():
  image = base.ImageShape(4, 4, 3)
  assert circulant.family(5).outputs(image)['kernel'] == (5, 5)
  family = circulant.family(4, per_channel=True, initial_scale=0.3)
  outputs = _zeros(family, image)
  assert outputs['kernel'].shape == (4, 4, 3)
  assert family.kernel is not None
  kernel = np.asarray(family.kernel(outputs))
  np.testing.assert_allclose(kernel[2, 2], blur_kernels.CENTRAL_TAP, rtol=1e-6)
  np.testing.assert_allclose(kernel.sum((0, 1)), 1, rtol=1e-6)
  expected = circulant.from_kernel(outputs['mean'], jnp.asarray(kernel), Spectrum()).log_spectrum
  actual = family.from_outputs(outputs).log_spectrum
  np.testing.assert_allclose(actual, expected + 2 * math.log(0.3), atol=1e-5)
  raw = circulant.family(3, taps='raw', parametrization='wiener')
  np.testing.assert_allclose(
    raw.from_outputs(_zeros(raw, image)).log_spectrum, 2 * math.log(1.025 * 0.1), atol=1e-5
  )
  one = circulant.family(1)
  np.testing.assert_allclose(one.from_outputs(_zeros(one, image)).log_spectrum, np.log(0.01025), 1e-5)


@pytest.mark.x64
def test_a_fixed_gaussian_kernel_and_scale():
  family = circulant.family(31, gaussian_variance=4.0, scale='fixed', initial_scale=2.0)
  outputs = _zeros(family, base.ImageShape(40, 40, 1))
  assert list(outputs) == ['mean']
  assert family.kernel is not None
  kernel, distance = np.asarray(family.kernel(outputs)), np.arange(31) - 15
  assert kernel.sum() == pytest.approx(1, rel=1e-6)
  assert np.sum(kernel * np.square(distance)) == pytest.approx(4, rel=1e-5)
  log_spectrum = family.from_outputs(outputs).log_spectrum
  assert float(log_spectrum[0, 0]) == pytest.approx(math.log(4 * 1.025), rel=1e-5)
  frequency = 2 * np.pi * np.arange(21) / 40  # of columns; F = exp(-variance frequency^2 / 2)
  expected = np.log(4 * (np.exp(-4 * np.square(frequency)) + 0.025))
  np.testing.assert_allclose(log_spectrum[0], expected, atol=1e-4)


@pytest.mark.x64
@pytest.mark.parametrize(('noise', 'epsilon', 'log_integral'), [
  (0.025, 0.5, 2675), (0.025, 0.05, 9086), (0.005, 0.5, -1545)
])  # fmt: skip
def test_the_pairing_of_the_paper_is_no_density(noise: float, epsilon: float, log_integral: float):
  """Its quadratic form is that of 'wiener', and so its integral exp(1/2 log |cov| - log |K + eps I|)."""
  kernel = jnp.asarray(blur_kernels.gaussian(11, 1.0))
  settings = {'noise': noise, 'epsilon': epsilon, 'floor': 1e-4}
  log_dets = [
    circulant.log_det(circulant.from_kernel(jnp.zeros((64, 64, 1)), kernel, Spectrum(name, **settings)))
    for name in ('wiener', 'inverse_eps')
  ]
  assert float(0.5 * (log_dets[0] - log_dets[1])) == pytest.approx(log_integral, abs=1)


@pytest.mark.x64
@pytest.mark.parametrize('spectrum', SPECTRA, ids=lambda spectrum: spectrum.parametrization)
def test_float32_at_256_pixels_with_a_41_by_41_kernel(spectrum: Spectrum):
  """Value within a few units in its last place, a gradient within 1e-4 of its largest entry."""
  rng, shape = np.random.default_rng(0), (256, 256, 3)
  arrays = 0.3 * rng.normal(size=shape), rng.normal(size=shape), blur_kernels.gaussian(41, 16.0)

  def log_prob(mean, x, kernel):
    return circulant.log_prob(circulant.from_kernel(mean, kernel, spectrum), x)

  function = jax.jit(jax.value_and_grad(log_prob, argnums=(0, 1, 2)))
  single = [np.asarray(array, np.float32) for array in arrays]
  value, gradients = function(*single)
  expected, exact = function(*(array.astype(np.float64) for array in single))
  assert value.dtype == np.float32
  assert abs(float(value) - float(expected)) < 1e-6 * max(abs(float(expected)), 1e5)
  for one, other in zip(gradients, exact, strict=True):
    assert np.isfinite(one).all()
    assert np.max(np.abs(np.asarray(one, np.float64) - other)) < 1e-4 * np.max(np.abs(other))
