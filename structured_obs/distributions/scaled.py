"""A standard deviation per pixel, around any Gaussian family: cov = S R S.

R is the covariance of the base family and S a diagonal matrix of positive scales. Every operation is
the base's, on pixels divided by their scale. A family built here divides the base's marginal variances
out, so that a network predicts standard deviations of pixels, exactly, and the base their correlations:
with `circulant`, the tractable form of a stationary covariance whose variances differ.

Letters: H W C image height, width, channels; m mean, s scales; r = x - m.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, blur_kernels, circulant, fits, fitting, gaussian, linear
from structured_obs.option_values import Scale

Array = jax.Array
Family = base.Family

NAME = 'pixel_log_scale'  # name of the network output


class Scaled(NamedTuple):
  """Parameters of a Gaussian with scaled pixels."""

  base: Any  # parameters of the base family; its mean is the mean
  log_scale: Array  # [H, W, C], log s: a pixel's log standard deviation, less that of the base


class _Checked(NamedTuple):
  """Mean and scale of each pixel."""

  mean: Array  # [H, W, C]
  log_scale: Array  # [H, W, C]


@option_values.checked('scaled')
def family(
  inner: Family[Any],
  min_scale: Scale = 1e-3,
  initial_scale: Scale = 0.1,
  max_scale: Scale = 10.0,
) -> Family[Scaled]:
  """Returns a base family's correlations with a standard deviation per pixel, as a family.

  Args:
    inner: the base, a Gaussian family. Its own scale is divided out: choose one without a learned scale.
    min_scale: smallest standard deviation of a pixel that a network can predict, in units of the data.
    initial_scale: the standard deviation for a network output of 0.
    max_scale: largest standard deviation.

  Raises:
    TypeError, ValueError: the base is not Gaussian, or a scale is not a number or out of range.
  """
  base.check_family(inner)
  base.check_scales('scaled', min_scale, initial_scale, max_scale)
  if inner.gaussian is None:
    raise ValueError('scaled needs a Gaussian family as its base; this one has no Gaussian record.')
  bounds = math.log(min_scale), math.log(max_scale)
  offset = base.inverse_soft_clip(math.log(initial_scale), *bounds)
  variance = inner.gaussian.variance

  def outputs(image: base.ImageShape) -> dict[str, base.Shape]:
    return {NAME: tuple(image)}

  def parameters(params: Any, own: dict[str, Array]) -> Scaled:
    log_scale = base.soft_clip(own[NAME] + offset, *bounds)
    return Scaled(params, log_scale - 0.5 * jnp.log(variance(params)))

  def start(sample: Any) -> dict[str, Any]:
    return {NAME: fits.Bounded(*bounds, offset).output(fitting.log(sample.scales()))}

  added = linear.Outputs(outputs, parameters, start=start)
  made = linear.family(inner, _map(inner), added)
  assert made.gaussian is not None
  closed_forms = {
    'condition': functools.partial(_condition, inner),
    'posterior_mean': functools.partial(_posterior_mean, inner),
  }
  return made._replace(gaussian=made.gaussian._replace(**closed_forms))


@option_values.checked('scaled_circulant')
def circulant_family(
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
  min_scale: Scale = 1e-3,
  initial_scale: Scale = 0.1,
  max_scale: Scale = 10.0,
) -> Family[Scaled]:
  """Returns the family of blurred noise with a standard deviation per pixel.

  The three scales are those of `family`; all other options are those of `circulant.family`.
  """
  base.check_scales('scaled_circulant', min_scale, initial_scale, max_scale)
  inner = circulant.family(
    kernel_size=kernel_size,
    parametrization=parametrization,
    noise=noise,
    epsilon=epsilon,
    floor=floor,
    taps=taps,
    per_channel=per_channel,
    reflect=reflect,
    gaussian_variance=gaussian_variance,
    scale='fixed',
    initial_scale=1.0,
  )
  return family(inner, min_scale, initial_scale, max_scale)


def _map(inner: Family[Any]) -> linear.Map[Scaled]:
  """Returns the map that multiplies each pixel by its scale."""

  def multiply(params: Scaled, v: Array) -> Array:
    return base.upcast(v) * _scale(inner, params, v)

  def divide(params: Scaled, v: Array) -> Array:
    return base.upcast(v) / _scale(inner, params, v)

  def log_det(params: Scaled, _: Array) -> Array:
    return jnp.sum(_log_scale(inner, params))

  def by_pixel(params: Scaled, _: Array) -> Array:
    return base.independent_channels(_scale(inner, params))

  def multiply_squared(params: Scaled, v: Array) -> Array:
    return base.upcast(v) * jnp.square(_scale(inner, params, v))

  def check(params: Scaled, _: Array) -> None:
    _checked(inner, params)

  return linear.Map(
    multiply, divide, multiply, divide, log_det, check, by_pixel, multiply_squared, diagonal=True
  )


def _condition(inner: Family[Any], params: Scaled, x: Array, observed: Array) -> base.Conditional:
  """Returns the base's conditional distribution, scaled."""
  mean = _checked(inner, params).mean
  x = base.check_shape('x', x, mean.shape)
  base.check_mask('observed', observed, mean.shape)
  seen = jnp.where(observed, x, mean)
  given = gaussian.condition(inner, params.base, _inner(inner, params, seen), observed)
  variance = None if given.variance is None else given.variance * jnp.square(_scale(inner, params))
  partial, arguments = jax.tree_util.Partial, (params, x, observed)
  return given._replace(
    mean=jnp.where(observed, x, _outer(inner, params, given.mean)),
    variance=variance,
    sample=partial(functools.partial(_sample_unobserved, inner), given, *arguments),
    log_prob=partial(functools.partial(_log_prob_unobserved, inner), given, *arguments),
  )


def _sample_unobserved(
  inner: Family[Any], given: base.Conditional, params: Scaled, x: Array, observed: Array, key: Array
) -> Array:
  return jnp.where(observed, x, _outer(inner, params, given.sample(key)))


def _log_prob_unobserved(
  inner: Family[Any], given: base.Conditional, params: Scaled, _: Array, observed: Array, x: Array
) -> Array:
  log_scales = jnp.sum(jnp.where(observed, 0, _log_scale(inner, params)))
  mean = _mean(inner, params)
  x = jnp.where(observed, mean, base.check_shape('x', x, mean.shape))
  return given.log_prob(_inner(inner, params, x)) - log_scales


def _posterior_mean(
  inner: Family[Any], params: Scaled, noisy: Array, noise_variance: Array
) -> tuple[Array, Array | None]:
  """Returns the base's posterior mean and variance under noise divided by the scales. [H, W, C] each."""
  scale, mean = _scale(inner, params), _mean(inner, params)
  noisy = base.check_shape('noisy', noisy, mean.shape)
  noise_variance = base.checked_noise_variance(noise_variance, mean)
  unseen = jnp.isinf(noise_variance)
  # Infinite numbers have no part in a derivative.
  scaled = jnp.where(unseen, 0, noise_variance) / jnp.square(scale)
  seen = _inner(inner, params, jnp.where(unseen, mean, noisy))
  mean, variance = gaussian.posterior_mean(inner, params.base, seen, jnp.where(unseen, jnp.inf, scaled))
  return _outer(inner, params, mean), None if variance is None else variance * jnp.square(scale)


def _outer(inner: Family[Any], params: Scaled, image: Array) -> Array:
  """Returns the image of the base's distribution as one of the scaled: m + s r. [H, W, C]."""
  mean = _mean(inner, params)
  return mean + _scale(inner, params) * (image - mean)


def _inner(inner: Family[Any], params: Scaled, image: Array) -> Array:
  """Returns the image of the scaled distribution as one of the base's: m + r / s. [H, W, C]."""
  mean = _mean(inner, params)
  return mean + (base.check_shape('image', image, mean.shape) - mean) / _scale(inner, params)


def _scale(inner: Family[Any], params: Scaled, image: Array | None = None) -> Array:
  return jnp.exp(_checked(inner, params, image).log_scale)


def _log_scale(inner: Family[Any], params: Scaled) -> Array:
  return _checked(inner, params).log_scale


def _mean(inner: Family[Any], params: Scaled) -> Array:
  return _checked(inner, params).mean


def _checked(inner: Family[Any], params: Scaled, image: Array | None = None) -> _Checked:
  """Returns the mean and log scales, NaN unless all are finite.

  Checks their shapes, and that of an image.
  """
  base.check_fields(params, Scaled._fields)
  mean = inner.mean(params.base)
  log_scale = base.check_shape('log_scale', params.log_scale, mean.shape)
  if image is not None:
    base.check_shape('image', image, mean.shape)
  return _Checked(mean, base.all_or_nan(log_scale))
