"""Independent pixels: cov = diag(exp(2 log_scale)).

This is the distribution of almost every VAE, the baseline of every comparison, and the one of latents.
The operations take any event shape, written [H, W, C] for images. Every operation costs D.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, fits, marginals, posterior
from structured_obs.option_values import Scale

Array = jax.Array


class Diagonal(NamedTuple):
  """Parameters of independent normal pixels."""

  mean: Array  # [H, W, C]
  log_scale: Array  # [H, W, C]  log of the standard deviation


@option_values.checked('diagonal')
def family(
  min_scale: Scale = 1e-3,
  max_scale: Scale = 10.0,
  initial_scale: Scale = 0.5,
  learn_scale: bool = True,
) -> base.Family[Diagonal]:
  """Returns the family of independent normal pixels.

  Args:
    min_scale: smallest standard deviation a network can predict, in units of the data.
    max_scale: largest standard deviation.
    initial_scale: the standard deviation for a network output of 0.
    learn_scale: whether a network predicts the standard deviation of each pixel. Otherwise it is
      `initial_scale`, and the mean is the only output.

  Raises:
    TypeError, ValueError: an option is of another type or out of range, or not
      min_scale < initial_scale < max_scale.
  """
  base.check_scales('diagonal', min_scale, initial_scale, max_scale)
  bounds = math.log(min_scale), math.log(max_scale)
  names = ('mean', 'log_scale') if learn_scale else ('mean',)

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    return dict.fromkeys(names, tuple(base.image_shape(image)))

  def from_outputs(outputs: dict[str, Array]) -> Diagonal:
    base.check_names(outputs)
    shape = getattr(outputs.get('mean'), 'shape', ())
    outputs = base.check_outputs(outputs, dict.fromkeys(names, shape))
    if not learn_scale:
      return Diagonal(outputs['mean'], jnp.full_like(outputs['mean'], math.log(initial_scale)))
    log_scale = base.soft_clip(outputs['log_scale'] + math.log(initial_scale), *bounds)
    return Diagonal(outputs['mean'], log_scale)

  required = base.in_order(
    noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
  )
  gaussian = base.Gaussian(
    *required,
    excess_entropy=excess_entropy,
    condition=condition,
    posterior_mean=posterior_mean,
    principal_components=principal_components,
    channel_covariance=channel_covariance,
    marginal=marginal,
    independent=True,
    pixel_noise=base.PixelNoise(_without_noise, _draw_noise, covariance_matvec),
  )
  bounded = fits.Bounded(*bounds, math.log(initial_scale)) if learn_scale else None
  fit = functools.partial(fits.diagonal, log_scale=bounded)
  return base.Family(outputs, from_outputs, log_prob, sample, mean, gaussian, fit=fit)


def log_prob(params: Diagonal, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, summed over the pixels that count. [], nats.

  Args:
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.
  """
  if mask is not None:
    params = _checked(params)
    mask = marginals.checked_mask(mask, params.mean.shape)
    each = log_prob_by_pixel(params, marginals.masked(mask, x, params.mean))
    return base.nan_unless_finite(jnp.sum(jnp.where(mask, each, 0 * each)))
  return base.nan_unless_finite(jnp.sum(log_prob_by_pixel(params, x)))


def log_prob_by_pixel(params: Diagonal, x: Array) -> Array:
  """Returns the log density of each pixel. [H, W, C], nats."""
  params = _checked(params)
  x = base.check_shape('x', x, params.mean.shape)
  z = (x - params.mean) * jnp.exp(-params.log_scale)
  return -params.log_scale - 0.5 * jnp.square(z) - 0.5 * base.LOG_2PI


def marginal(params: Diagonal, residual: Array, mask: Array) -> tuple[Array, Array]:
  """Returns r_O^T cov_OO^-1 r_O [] and log |cov_OO| [] of the pixels in a mask; see `base.Gaussian`."""
  log_scale = _checked(params).log_scale
  log_det = 2 * jnp.sum(jnp.where(mask, log_scale, 0 * log_scale))
  return base.squared_norm(whiten(params, residual)), log_det


def sample(key: Array, params: Diagonal) -> Array:
  """Draws one image. [H, W, C]."""
  return reparameterize(params, noise(key, params))


def mean(params: Diagonal) -> Array:
  """Returns the mean. [H, W, C]."""
  return _checked(params).mean


def noise(key: Array, params: Diagonal) -> Array:
  """Returns white noise for `reparameterize`. [H, W, C]."""
  params = _checked(params)
  return base.white_noise(key, params.mean)


def reparameterize(params: Diagonal, noise: Array) -> Array:
  """Returns the image that this noise stands for. [H, W, C]."""
  params = _checked(params)
  noise = base.check_shape('noise', noise, params.mean.shape)
  return params.mean + jnp.exp(params.log_scale) * noise


def whiten(params: Diagonal, residual: Array) -> Array:
  """Returns the residual in units of standard deviations. [H, W, C]."""
  params = _checked(params)
  residual = base.check_shape('residual', residual, params.mean.shape)
  return residual * jnp.exp(-params.log_scale)


def log_det(params: Diagonal) -> Array:
  """Returns log |cov|. [], nats."""
  return 2 * jnp.sum(_checked(params).log_scale)


def variance(params: Diagonal) -> Array:
  """Returns the marginal variances. [H, W, C]."""
  return jnp.exp(2 * _checked(params).log_scale)


def channel_covariance(params: Diagonal) -> Array:
  """Returns the covariance of the channels of each pixel. [H, W, C, C]."""
  return base.independent_channels(variance(params))


def covariance_matvec(params: Diagonal, v: Array) -> Array:
  """Returns cov v. [H, W, C]."""
  params = _checked(params)
  return variance(params) * base.check_shape('v', v, params.mean.shape)


def precision_matvec(params: Diagonal, v: Array) -> Array:
  """Returns cov^-1 v. [H, W, C]."""
  params = _checked(params)
  return jnp.exp(-2 * params.log_scale) * base.check_shape('v', v, params.mean.shape)


def temper(params: Diagonal, temperature: Array) -> Diagonal:
  """Scales every standard deviation by the temperature."""
  params = _checked(params)
  temperature = base.checked_temperature(temperature, params.mean)
  return params._replace(log_scale=params.log_scale + jnp.log(temperature))


def excess_entropy(params: Diagonal) -> Array:
  """Returns 0, the entropy above that of the independent pixel noise. [], nats."""
  return 0 * jnp.sum(_checked(params).log_scale)


def condition(params: Diagonal, x: Array, observed: Array) -> base.Conditional:
  """Returns the distribution of the unobserved pixels.

  It is what it was before, since pixels are independent.

  Args:
    params: of one image.
    x: [H, W, C].
    observed: [H, W, C], bool.
  """
  params = _checked(params)
  x = base.check_shape('x', x, params.mean.shape)
  base.check_mask('observed', observed, params.mean.shape)
  conditional_mean = jnp.where(observed, x, params.mean + 0 * params.log_scale)
  return base.Conditional(
    mean=conditional_mean,
    variance=jnp.where(observed, 0, variance(params)),
    sample=jax.tree_util.Partial(_sample_unobserved, params, conditional_mean, observed),
    log_prob=jax.tree_util.Partial(_log_prob_unobserved, params, observed),
    residual=jnp.zeros_like(conditional_mean, shape=()),
    iterations=jnp.zeros_like(conditional_mean, jnp.int32, shape=()),
  )


def _sample_unobserved(params: Diagonal, conditional_mean: Array, observed: Array, key: Array) -> Array:
  return jnp.where(observed, conditional_mean, sample(key, params))


def _log_prob_unobserved(params: Diagonal, observed: Array, x: Array) -> Array:
  x = jnp.where(observed, params.mean, base.check_shape('x', x, params.mean.shape))
  return base.nan_unless_finite(jnp.sum(jnp.where(observed, 0, log_prob_by_pixel(params, x))))


def posterior_mean(params: Diagonal, noisy: Array, noise_variance: Array) -> tuple[Array, Array]:
  """Returns the mean and variance of the clean image given one with added noise. [H, W, C] each.

  Args:
    params: of one image.
    noisy: [H, W, C].
    noise_variance: [] or [H, W, C]; infinite where a pixel was not observed.
  """
  params, prior = _checked(params), variance(params)
  noisy = base.check_shape('noisy', noisy, params.mean.shape)
  shares = posterior.shares(prior, base.checked_noise_variance(noise_variance, params.mean))
  noisy = jnp.where(shares.observed > 0, noisy, params.mean)
  return shares.prior * params.mean + shares.observed * noisy, prior * shares.prior


def principal_components(params: Diagonal, k: int) -> base.PrincipalComponents:
  """Returns the leading eigenpairs: the k pixels of largest variance."""
  params = _checked(params)
  base.check_count('k', k, 1, params.mean.size, 'the number of pixels')
  values, pixels = jax.lax.top_k(variance(params).reshape(-1), k)
  vectors = jax.nn.one_hot(pixels, params.mean.size, dtype=values.dtype)
  return base.PrincipalComponents(values, vectors.reshape(k, *params.mean.shape), jnp.zeros_like(values))


def _without_noise(params: Diagonal, _: Array) -> Array:
  """Returns the mean: all noise is that of pixels. [H, W, C]."""
  params = _checked(params)
  return params.mean + 0 * params.log_scale


def _draw_noise(params: Diagonal, white: Array) -> Array:
  return jnp.exp(_checked(params).log_scale) * white


def _checked(params: Diagonal) -> Diagonal:
  """Checks the shapes; turns scales into NaN unless all are finite."""
  params = base.as_arrays(params, Diagonal._fields)
  base.check_shape('mean', params.mean, params.mean.shape)
  base.check_shape('log_scale', params.log_scale, params.mean.shape)
  return params._replace(log_scale=base.all_or_nan(params.log_scale))
