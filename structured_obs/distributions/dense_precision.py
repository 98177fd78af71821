"""Dense precision, inv(cov) = L L^T with L lower triangular: every Gaussian, for small images.

Letters: H W C image height, width, channels; D = H W C, at most about a thousand.

Pixels are in raster order. Column j of L belongs to pixel j and says that given all later pixels, it
is normal with variance L_jj^-2 and the mean

  mean_j + sum_(i > j) b_ij r_i,    b_ij = -L_ij / L_jj,

as in `sparse_precision`, of which this is the case without zeros. A network emits D (D - 1) / 2
numbers for the strictly lower triangle, column by column.

Cost: D^2 for a density, a sample, a covariance column; D^3 for exact variances.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, section 4, "Cholesky
Decomposition".
"""

import functools
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import option_values
from structured_obs.distributions import base, fits, marginals
from structured_obs.linalg import products, triangular
from structured_obs.option_values import Choice, Scale

Array = jax.Array

PARAMETRIZATIONS = ('autoregressive', 'raw')


class DensePrecision(NamedTuple):
  """Parameters of a Gaussian with any covariance."""

  mean: Array  # [H, W, C]
  chol: Array  # [D, D]  L, lower triangular with a positive diagonal; its upper part is not read


@option_values.checked('dense_precision')
def family(
  parametrization: Annotated[str, Choice(PARAMETRIZATIONS)] = 'autoregressive',
  min_scale: Scale = 1e-3,
  max_scale: Scale = 10.0,
  initial_scale: Scale = 0.5,
) -> base.Family[DensePrecision]:
  """Returns the family of Gaussians with any covariance.

  Args:
    parametrization: 'autoregressive', where a network predicts b, or 'raw', the entries of L.
    min_scale: smallest standard deviation of a pixel given all later ones that a network can predict, in
      units of the data.
    max_scale: largest such standard deviation.
    initial_scale: the one for network outputs of 0, which mean independent pixels.

  Raises:
    TypeError, ValueError: an option is of another type or out of range.
  """
  base.check_scales('dense_precision', min_scale, initial_scale, max_scale)
  bounds = -math.log(max_scale), -math.log(min_scale)
  offset = base.inverse_soft_clip(-math.log(initial_scale), *bounds)

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    shapes: dict[str, base.Shape] = {'mean': tuple(image), 'log_diag': tuple(image)}
    if image.size > 1:
      shapes['off_diag'] = (image.size * (image.size - 1) // 2,)
    return shapes

  def from_outputs(emitted: dict[str, Array]) -> DensePrecision:
    image = base.image_of_outputs(emitted)
    emitted = base.check_outputs(emitted, outputs(image))
    log_diag = base.soft_clip(emitted['log_diag'] + offset, *bounds)
    diag = jnp.exp(log_diag).reshape(-1)
    if image.size == 1:
      return DensePrecision(emitted['mean'], diag[:, None])
    column, row = np.triu_indices(image.size, 1)  # of L, whose transpose NumPy walks along
    lower = jnp.diag(diag).at[row, column].set(emitted['off_diag'], unique_indices=True)
    if parametrization == 'autoregressive':
      lower = jnp.where(np.tri(image.size, k=-1, dtype=bool), -lower * diag[None, :], lower)
    return DensePrecision(emitted['mean'], lower)

  raw, bounded = parametrization == 'raw', fits.Bounded(*bounds, offset)
  fit = functools.partial(fits.dense_precision, raw=raw, log_diag=bounded)
  return base.Family(outputs, from_outputs, log_prob, sample, mean, GAUSSIAN, fit=fit)


def log_prob(params: DensePrecision, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats.

  Args:
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.
  """
  params = _checked(params)
  if mask is not None:
    return marginals.log_prob(GAUSSIAN, params, params.mean, x, mask)
  constant = jnp.size(params.mean) * base.LOG_2PI + log_det(params)
  x = base.check_shape('x', x, params.mean.shape)
  quadratic = base.squared_norm(whiten(params, x - params.mean))
  return base.nan_unless_finite(-0.5 * (constant + quadratic))


def sample(key: Array, params: DensePrecision) -> Array:
  """Draws one image. [H, W, C]."""
  return reparameterize(params, noise(key, params))


def mean(params: DensePrecision) -> Array:
  """Returns the mean. [H, W, C]."""
  return _checked(params).mean


def noise(key: Array, params: DensePrecision) -> Array:
  """Returns white noise for `reparameterize`. [H, W, C]."""
  params = _checked(params)
  return base.white_noise(key, params.mean)


def reparameterize(params: DensePrecision, noise: Array) -> Array:
  """Returns the image that this noise stands for: mean + L^-T u. [H, W, C]."""
  return mean(params) + _apply(params, noise, triangular.solve_transposed)


def whiten(params: DensePrecision, residual: Array) -> Array:
  """Returns L^T r, white under the model. [H, W, C]."""
  return _apply(params, residual, lambda lower, r: products.matmul(lower.T, r))


def log_det(params: DensePrecision) -> Array:
  """Returns log |cov|. [], nats."""
  return base.nan_unless_finite(-2 * jnp.sum(jnp.log(jnp.diag(_lower(params)))))


def variance(params: DensePrecision) -> Array:
  """Returns the marginal variances, from the whole of L^-1. [H, W, C]."""
  lower = _lower(params)
  inverse = triangular.solve(lower, jnp.eye(lower.shape[0], dtype=lower.dtype))
  variances = jnp.sum(jnp.square(inverse), axis=0).reshape(jnp.shape(params.mean))
  return base.all_or_nan(variances)


def channel_covariance(params: DensePrecision) -> Array:
  """Returns the covariance of the channels of each pixel, from the whole of L^-1. [H, W, C, C]."""
  lower, image = _lower(params), jnp.shape(params.mean)
  inverse = triangular.solve(lower, jnp.eye(lower.shape[0], dtype=lower.dtype)).reshape(-1, *image)
  return base.all_or_nan(products.einsum('khwc,khwd->hwcd', inverse, inverse))


def innovation_variance(params: DensePrecision) -> Array:
  """Returns the variance of each pixel given all later ones, L_jj^-2. [H, W, C]."""
  variances = jnp.square(1 / jnp.diag(_lower(params))).reshape(jnp.shape(params.mean))
  return base.all_or_nan(variances)


def covariance_matvec(params: DensePrecision, v: Array) -> Array:
  """Returns cov v, by two triangular solves. [H, W, C]."""
  return _apply(params, _apply(params, v, triangular.solve), triangular.solve_transposed)


def precision_matvec(params: DensePrecision, v: Array) -> Array:
  """Returns cov^-1 v. [H, W, C]."""
  return _apply(params, whiten(params, v), products.matmul)


def temper(params: DensePrecision, temperature: Array) -> DensePrecision:
  """Scales the covariance by temperature^2."""
  params = _checked(params)
  return params._replace(chol=params.chol / base.checked_temperature(temperature, params.mean))


def _lower(params: DensePrecision) -> Array:
  """Returns L, with NaN for infinite entries and for all of an invalid diagonal. [D, D]."""
  lower = jnp.tril(base.nan_unless_finite(_checked(params).chol))
  diag = base.positive_or_nan(jnp.diag(lower))
  return jnp.where(jnp.eye(len(lower), dtype=bool), diag[None], lower)


def _checked(params: DensePrecision) -> DensePrecision:
  """Checks the shapes."""
  size = math.prod(getattr(getattr(params, 'mean', None), 'shape', ()))
  return base.checked(params, chol=(size, size))


def _apply(params: DensePrecision, v: Array, operation: Callable[[Array, Array], Array]) -> Array:
  """Applies an operation (L [D, D], columns [D, 1]) -> [D, 1] to an image [H, W, C]."""
  lower, shape = _lower(params), jnp.shape(params.mean)
  v = base.check_shape('image', v, shape)
  return base.all_or_nan(operation(lower, v.reshape(-1)[:, None])[:, 0].reshape(shape))


_REQUIRED = base.in_order(
  noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
)
GAUSSIAN: base.Gaussian[DensePrecision] = base.Gaussian(
  *_REQUIRED,
  innovation_variance=innovation_variance,
  channel_covariance=channel_covariance,
)
