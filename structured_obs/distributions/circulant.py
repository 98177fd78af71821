# One file of more than 300 lines: a family and all its operations.
"""Blurred noise: covariances that a Fourier or a cosine basis makes diagonal (Blur-VAE).

The eigenvalues are those of a blur kernel (`blur_kernels.Spectrum` has the formulas) times scale^2.
`Circulant` images are periodic: all pixels have one variance, and a covariance depends on the shift
between two pixels alone. `Reflective` images are mirrored at their borders, for kernels symmetric in
both axes: no pixel is a neighbour of the opposite border. Channels are independent, with one spectrum
for all or one per channel. Cost: D log D for every operation but conditionals, which take conjugate
gradients.

Letters: H W C image height, width, channels; D = H W C; F columns of a spectrum (`linalg.spectral`).

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023.
"""

import functools
import math
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, blur_kernels, fits, marginals, posterior
from structured_obs.linalg import spectral

Array = jax.Array
LEARNED = option_values.When('scale', ('learned',))


class Circulant(NamedTuple):
  """Parameters of a periodic Gaussian."""

  mean: Array  # [H, W, C]
  # [H, W // 2 + 1] or [H, W // 2 + 1, C], log eigenvalues in the layout of rfft2. In columns 0 and, for
  # an even W, W / 2, rows u and H - u are one frequency: only the first is read.
  log_spectrum: Array


class Reflective(NamedTuple):
  """Parameters of a Gaussian mirrored at the image's borders."""

  mean: Array  # [H, W, C]
  log_spectrum: Array  # [H, W] or [H, W, C], log eigenvalues in the layout of the cosine transform


Params: TypeAlias = Circulant | Reflective
BASES: dict[type, spectral.Basis] = {Circulant: spectral.PERIODIC, Reflective: spectral.REFLECTING}


@option_values.checked('circulant')
def family(
  kernel_size: blur_kernels.KernelSize = 11,
  *,
  parametrization: blur_kernels.Parametrization = 'regularised',
  noise: blur_kernels.Noise = 0.025,
  epsilon: blur_kernels.Epsilon = 0.5,
  floor: blur_kernels.Floor = 1e-3,
  taps: blur_kernels.Taps = 'softmax',
  per_channel: blur_kernels.PerChannel = False,
  reflect: bool = False,
  gaussian_variance: blur_kernels.GaussianVariance = 0.0,
  scale: Annotated[str, option_values.Choice(('learned', 'fixed'))] = 'learned',
  min_scale: Annotated[option_values.Scale, LEARNED] = 1e-3,
  initial_scale: option_values.Scale = 0.1,
  max_scale: Annotated[option_values.Scale, LEARNED] = 10.0,
) -> base.Family[Any]:
  """Returns the family of blurred noise.

  Args:
    kernel_size: k of the k x k kernel; may be even, and larger than the image.
    parametrization: 'regularised', 'wiener' or 'inverse_eps'; see `blur_kernels.Spectrum`.
    noise: constant of the spectra 'regularised' and 'wiener'.
    epsilon: constant of the spectrum 'inverse_eps'.
    floor: smallest |F| in the spectrum 'wiener'.
    taps: 'softmax' for positive taps of sum 1, with a central tap of 0.9 for outputs of 0; 'raw' to add
      the outputs to a central tap of 1.
    per_channel: whether each channel has its own kernel.
    reflect: whether images are mirrored at their borders instead of periodic.
    gaussian_variance: variance in pixels^2 of a fixed Gaussian kernel; 0 for a predicted kernel.
    scale: 'learned' for one standard deviation that a network predicts, 'fixed' for `initial_scale`.
    min_scale: smallest scale a network can predict, in units of the data.
    initial_scale: the scale for a network output of 0.
    max_scale: largest scale.

  Raises:
    TypeError, ValueError: an option is of another type or out of range.
  """
  spectrum = blur_kernels.Spectrum(parametrization, noise, epsilon, floor)
  base.check_scales('circulant', min_scale, initial_scale, max_scale)
  bounds = math.log(min_scale), math.log(max_scale)
  offset = base.inverse_soft_clip(math.log(initial_scale), *bounds)
  fixed = blur_kernels.gaussian(kernel_size, gaussian_variance)

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    shapes: dict[str, base.Shape] = {'mean': tuple(image)}
    if fixed is None:
      shapes['kernel'] = (kernel_size, kernel_size, *((image.channels,) if per_channel else ()))
    return shapes | ({'log_scale': ()} if scale == 'learned' else {})

  def kernel(emitted: dict[str, Array]) -> Array:
    if fixed is not None:
      return jnp.asarray(fixed, base.upcast(emitted['mean']).dtype)
    return blur_kernels.from_output(emitted['kernel'], taps)

  def from_outputs(emitted: dict[str, Array]) -> Params:
    emitted = base.check_outputs(emitted, outputs(base.image_of_outputs(emitted)))
    log_scale = math.log(initial_scale)
    if scale == 'learned':
      log_scale = base.soft_clip(emitted['log_scale'] + offset, *bounds)
    params = from_kernel(emitted['mean'], kernel(emitted), spectrum, reflect)
    return params._replace(log_spectrum=params.log_spectrum + 2 * log_scale)

  # |F|^2 + noise is white noise on top of blurred noise; taps of sum 1 have F = 1 at frequency 0.
  has_floor = parametrization == 'regularised' and (fixed is not None or taps == 'softmax')
  gaussian = GAUSSIAN._replace(pixel_noise=_pixel_noise(noise)) if has_floor else GAUSSIAN
  family = base.Family(outputs, from_outputs, log_prob, sample, mean, gaussian, kernel=kernel)
  basis = BASES[Reflective if reflect else Circulant]
  return family._replace(fit=functools.partial(fits.blurred_noise, family=family, basis=basis))


def from_kernel(
  mean: Array, kernel: Array, spectrum: blur_kernels.Spectrum, reflect: bool = False
) -> Params:
  """Returns blurred noise of scale 1 from a kernel: `Circulant`, or `Reflective` with `reflect`.

  Args:
    mean: [H, W, C].
    kernel: [k1, k2] or [k1, k2, C], centre [k1 // 2, k2 // 2]; may be larger than the image.
    spectrum: how it becomes eigenvalues.
    reflect: whether images are mirrored at their borders; this takes the kernel's symmetric part.
  """
  if not isinstance(spectrum, blur_kernels.Spectrum):
    got = type(spectrum).__name__
    raise TypeError(f'spectrum must be a blur_kernels.Spectrum; got {got}.')
  mean = base.check_shape('mean', mean, (None, None, None))
  own = (mean.shape[-1],) if jnp.ndim(kernel) == 3 else ()
  kernel = base.check_shape('kernel', kernel, (None, None, *own))
  kind = Reflective if reflect else Circulant

  transfer = lambda one: BASES[kind].transfer(one, *mean.shape[:2])  # noqa: E731
  parts = jax.vmap(transfer, in_axes=-1, out_axes=-1)(kernel) if own else transfer(kernel)
  return kind(mean, blur_kernels.log_eigenvalues(parts, spectrum))


def log_prob(params: Params, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats.

  Args:
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.
  """
  if mask is not None:
    return marginals.log_prob(GAUSSIAN, params, mean(params), x, mask)
  params, basis = checked(params)
  x = base.check_shape('x', x, params.mean.shape)
  power = spectral.power(basis.forward(x - params.mean))
  copies = params.mean.shape[-1] // params.log_spectrum.shape[-1]
  if copies > 1:  # one spectrum of all channels sees the sum of their powers
    power = jnp.sum(power, axis=-1, keepdims=True)
  # Any infinite eigenvalue makes the sum infinite: checks of each would cost a third of the time.
  terms = copies * (params.log_spectrum + base.LOG_2PI) + power * jnp.exp(-params.log_spectrum)
  return base.nan_unless_finite(-0.5 * spectral.total(basis, terms, x.shape[1]))


def total(params: Params, basis: spectral.Basis, values: Array) -> Array:
  """Returns the sum over all D dimensions of values by frequency. [].

  Args:
    params: of one image, whose size is read.
    basis: of the values.
    values: [H, F, C], or [H, F, 1] for all channels.
  """
  _, width, channels = jnp.shape(params.mean)
  return channels // values.shape[-1] * spectral.total(basis, values, width)


def sample(key: Array, params: Params) -> Array:
  """Draws one image. [H, W, C]."""
  return reparameterize(params, noise(key, params))


def mean(params: Params) -> Array:
  """Returns the mean. [H, W, C]."""
  return checked(params)[0].mean


def noise(key: Array, params: Params) -> Array:
  """Returns white noise for `reparameterize`. [H, W, C]."""
  return base.white_noise(key, mean(params))


def reparameterize(params: Params, noise: Array) -> Array:
  """Returns the image mean + cov^1/2 noise, with the symmetric root. [H, W, C]."""
  return mean(params) + _power(params, 0.5, noise)


def whiten(params: Params, residual: Array) -> Array:
  """Returns cov^-1/2 of a residual, by the symmetric root. [H, W, C]."""
  return _power(params, -0.5, residual)


def covariance_matvec(params: Params, v: Array) -> Array:
  """Returns cov v. [H, W, C]."""
  return _power(params, 1, v)


def precision_matvec(params: Params, v: Array) -> Array:
  """Returns cov^-1 v. [H, W, C]."""
  return _power(params, -1, v)


def _power(params: Params, exponent: float, v: Array) -> Array:
  values, basis = _eigenvalues(params, exponent)
  v = base.check_shape('v', v, jnp.shape(params.mean))
  return base.all_or_nan(spectral.multiply(basis, values, v))


def log_det(params: Params) -> Array:
  """Returns log |cov|. [], nats."""
  params, basis = checked(params)
  return base.nan_unless_finite(total(params, basis, params.log_spectrum))


def variance(params: Params) -> Array:
  """Returns the marginal variances; for `Circulant`, the mean of its eigenvalues. [H, W, C]."""
  return _diagonal(params, 1)


def channel_covariance(params: Params) -> Array:
  """Returns the covariance of the channels of each pixel, which are independent. [H, W, C, C]."""
  return base.independent_channels(variance(params))


def precision_diagonal(params: Params) -> Array:
  """Returns the diagonal of cov^-1: the reciprocal variance of a pixel given all others. [H, W, C]."""
  return _diagonal(params, -1)


def _diagonal(params: Params, exponent: int) -> Array:
  (values, basis), image = _eigenvalues(params, exponent), jnp.shape(params.mean)
  return base.all_or_nan(jnp.broadcast_to(basis.diagonal(values, image[1]), image))


def temper(params: Params, temperature: Array) -> Params:
  """Scales the covariance by temperature^2."""
  checked(params)
  params = base.as_arrays(params)
  temperature = base.checked_temperature(temperature, params.mean)
  return params._replace(log_spectrum=params.log_spectrum + 2 * jnp.log(temperature))


def posterior_mean(params: Params, noisy: Array, noise_variance: Array) -> tuple[Array, Array] | None:
  """Returns the mean and variance [H, W, C] of the clean image given clean + N(0, noise_variance).

  It is the Wiener filter for one noise variance [] of all pixels. For one per pixel there is no closed
  form, and the result is None.

  Args:
    params: of one image.
    noisy: [H, W, C].
    noise_variance: [] or [H, W, C]; infinite where a pixel was not observed.
  """
  (prior, basis), mean = _eigenvalues(params), checked(params)[0].mean
  noisy = base.check_shape('noisy', noisy, mean.shape)
  noise_variance = base.checked_noise_variance(noise_variance, mean)
  if noise_variance.ndim:
    return None
  moved, left = posterior.in_basis(basis, prior, noise_variance, noisy - mean)
  variances = jnp.broadcast_to(basis.diagonal(left, mean.shape[1]), mean.shape)
  return base.all_or_nan(mean + moved), base.all_or_nan(variances)


def principal_components(params: Params, k: int) -> base.PrincipalComponents:
  """Returns the leading eigenpairs: the k waves of largest variance, each of one channel."""
  values, basis = _eigenvalues(params)
  height, width, channels = image = jnp.shape(params.mean)
  base.check_count('k', k, 1, math.prod(image), 'the number of pixels')
  values = base.all_or_nan(jnp.broadcast_to(basis.unfold(values, width), image))
  leading, index = jax.lax.top_k(values.reshape(-1), k)
  row, column, channel = jnp.unravel_index(index, values.shape)
  waves = basis.modes(row, column, height, width).astype(leading.dtype)
  vectors = waves[..., None] * jax.nn.one_hot(channel, channels, dtype=leading.dtype)[:, None, None]
  return base.PrincipalComponents(leading, vectors, jnp.zeros_like(leading))


def optimal_scale(params: Params, x: Array) -> Array:
  """Returns the factor of all standard deviations that makes an image most likely.

  It is sqrt(r^T cov^-1 r / D). [].
  """
  image = mean(params)
  return base.root_mean_square(whiten(params, base.check_shape('x', x, image.shape) - image))


def checked(params: Any) -> tuple[Any, spectral.Basis]:
  """Checks the shapes, and gives the spectrum an axis of channels, 1 or C."""
  params = base.as_arrays(params, Circulant._fields)
  basis = BASES[type(params)]
  base.check_shape('mean', params.mean, (None, None, None))
  height, width, channels = params.mean.shape
  own = (channels,) if jnp.ndim(params.log_spectrum) == 3 else ()
  base.check_shape('log_spectrum', params.log_spectrum, (height, basis.columns(width), *own))
  log_spectrum = params.log_spectrum.reshape(height, -1, channels if own else 1)
  return params._replace(log_spectrum=log_spectrum), basis


def _pixel_noise(level: float) -> base.PixelNoise[Any]:
  """Returns the floor of eigenvalues scale^2 (|F|^2 + level) with F = 1 at frequency 0, at any scale."""

  def parts(params: Params) -> tuple[Array, Array, spectral.Basis]:
    values, basis = _eigenvalues(params)
    floor = level / (1 + level) * values[:1, :1]  # [1, 1, 1 or C]
    return jnp.maximum(values - floor, 0), base.all_or_nan(floor + 0 * jnp.sum(values)), basis

  def without(params: Params, noise: Array) -> Array:
    blurred, _, basis = parts(params)
    none = blurred == 0  # a root has no derivative there
    root = jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, blurred)))
    image = mean(params)
    noise = base.check_shape('noise', noise, image.shape)
    return image + base.all_or_nan(spectral.multiply(basis, root, noise))

  return base.PixelNoise(
    without,
    draw=lambda params, white: jnp.sqrt(parts(params)[1]) * white,
    covariance_matvec=lambda params, v: parts(params)[1] * v,
  )


def _eigenvalues(params: Params, exponent: float = 1) -> tuple[Array, spectral.Basis]:
  """Returns a power of the covariance's eigenvalues [H, F, 1 or C]; infinite ones have become NaN."""
  params, basis = checked(params)
  return jnp.exp(exponent * base.nan_unless_finite(params.log_spectrum)), basis


_REQUIRED = base.in_order(
  noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
)
GAUSSIAN: base.Gaussian[Any] = base.Gaussian(
  *_REQUIRED,
  posterior_mean=posterior_mean,
  regularized=lambda params, scale, ridge: posterior.regularized_in_basis(
    *_eigenvalues(params, -1), scale, ridge
  ),
  principal_components=principal_components,
  channel_covariance=channel_covariance,
)
