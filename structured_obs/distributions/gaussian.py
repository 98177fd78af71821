"""Operations of every Gaussian family, written once in terms of its primitives.

Each function takes the family's record and the parameters of one image; map them over a batch with
`jax.vmap`. A family that has a closed form for an operation gives it in its record, and the functions
here use it.

Letters: H W C image height, width, channels; D = H W C. Log densities and entropies in nats.
"""

import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from structured_obs.distributions import base, marginals, posterior
from structured_obs.linalg import iterative

Array = jax.Array
Family = base.Family
P = TypeVar('P')  # a family's parameters, as in `base`


def log_prob(family: Family[P], params: P, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or the exact marginal one of its pixels in a mask. [], nats.

  Args:
    family: any family.
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] bool, or [H, W, 1] for all channels of a pixel: the pixels that count. None for all.
      Its shape is static and its values may be traced.

  Raises:
    TypeError, ValueError: the mask is not boolean, or a shape is wrong.
    ValueError: the family has no marginal density of an image of this size.
  """
  return family.log_prob(params, x) if mask is None else family.log_prob(params, x, mask)


def sample(key: Array, family: Family[P], params: P) -> Array:
  """Draws one image. [H, W, C].

  Args:
    key: one jax.random.key.
    family: any family.
    params: of one image.
  """
  return family.sample(key, params)


def mahalanobis(family: Family[P], params: P, x: Array) -> Array:
  """Returns the squared Mahalanobis distance of an image from the mean, r^T cov^-1 r. [].

  Under the model it is chi-square with D degrees of freedom: D on average, with variance 2 D.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C].
  """
  return base.squared_norm(_gaussian(family).whiten(params, _residual(family, params, x)))


def marginal(family: Family[P], params: P, x: Array, mask: Array) -> marginals.Marginal:
  """Returns the squared Mahalanobis distance, log |cov| and number of the pixels in a mask, [] each.

  Under the model the distance is chi-square with as many degrees of freedom as there are pixels.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count.
  """
  return marginals.of_image(_gaussian(family), params, family.mean(params), x, mask)


def white_image(family: Family[P], params: P, x: Array) -> Array:
  """Returns the whitened image: white noise if x is of this distribution. [H, W, C].

  The family chooses the transformation, so only statistics that no rotation explains away, such as
  correlations between neighbours, say something about the model.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C].

  Raises:
    ValueError: the family is not Gaussian, or whitens into something else than an image.
  """
  primitives = _gaussian(family)
  white = (primitives.white_image or primitives.whiten)(params, _residual(family, params, x))
  if not hasattr(white, 'shape') or white.size != x.size:
    raise ValueError('This family does not whiten into an image: it has no `white_image`.')
  return white.reshape(x.shape)


def entropy(family: Family[P], params: P) -> Array:
  """Returns the differential entropy, 1/2 (D (1 + log 2 pi) + log |cov|). [], nats."""
  size = family.mean(params).size
  return 0.5 * (size * (1 + base.LOG_2PI) + _gaussian(family).log_det(params))


def excess_entropy(family: Family[P], params: P) -> Array:
  """Returns the entropy above that of the family's own independent pixel noise. [], nats.

  It is computed separately, so that it is accurate where the whole entropy is a large number in float32.

  Raises:
    ValueError: the family has no such noise floor.
  """
  excess = _gaussian(family).excess_entropy
  if excess is None:
    raise ValueError('excess_entropy needs a family with a floor of independent pixel noise.')
  return excess(params)


def variance(family: Family[P], params: P) -> Array:
  """Returns the marginal variance of every pixel, exact. [H, W, C]."""
  return _gaussian(family).variance(params)


def channel_covariance(family: Family[P], params: P) -> Array:
  """Returns the covariance of the channels of every pixel, exact. [H, W, C, C].

  Raises:
    ValueError: the family is not Gaussian, or has no closed form for an image of this size.
  """
  return channel_covariance_of(_gaussian(family), params, family.mean(params))


def channel_covariance_of(primitives: base.Gaussian[P], params: P, mean: Array) -> Array:
  """Returns `channel_covariance`, given the primitives and the mean [H, W, C]. [H, W, C, C]."""
  if primitives.channel_covariance is not None:
    return primitives.channel_covariance(params)
  return channel_covariance_by_columns(lambda v: primitives.covariance_matvec(params, v), mean)


def channel_covariance_by_columns(matvec: Callable[[Array], Array], like: Array) -> Array:
  """Returns the covariance of the channels of every pixel, from D products with the covariance.

  Args:
    matvec: product with the covariance, of images [H, W, C].
    like: an image.

  Returns:
    [H, W, C, C].

  Raises:
    ValueError: the image has more than `posterior.MAX_DENSE_SIZE` pixels.
  """
  if like.size > posterior.MAX_DENSE_SIZE:
    raise posterior.too_dense('channel_covariance', like.size, posterior.MAX_DENSE_SIZE)
  height, width, channels = like.shape
  basis = jnp.eye(like.size, dtype=like.dtype).reshape(height * width, channels, height, width, channels)

  def pixel(place: Array, vectors: Array) -> Array:
    columns = jax.vmap(matvec)(vectors).reshape(channels, -1, channels)
    return columns[:, place]

  places = jnp.arange(height * width, dtype=jnp.int32)
  found = jax.lax.map(lambda pair: pixel(*pair), (places, basis))
  return found.reshape(height, width, channels, channels)


def variance_inflation(family: Family[P], params: P) -> Array:
  """Returns the largest marginal variance over the largest innovation variance. [], >= 1.

  A model fitted by maximum likelihood can be good at predicting pixels from their neighbours and still
  have marginal variances that grow without bound along the image; its samples are then worthless.

  Raises:
    ValueError: the family generates its pixels in no order.
  """
  innovation = _gaussian(family).innovation_variance
  if innovation is None:
    raise ValueError('variance_inflation needs a family that generates pixels one after the other.')
  return jnp.max(variance(family, params)) / jnp.max(innovation(params))


def covariance_column(family: Family[P], params: P, pixel: tuple[int, int, int]) -> Array:
  """Returns the covariance of every pixel with one pixel. [H, W, C].

  Args:
    family: a Gaussian family.
    params: of one image.
    pixel: (row, column, channel), integers; negative ones count from the end.

  Raises:
    TypeError: the pixel is not three integers.
    ValueError: it is outside the image. A traced index that is outside gives NaN.
  """
  one = _one_pixel(family.mean(params), pixel)
  return _gaussian(family).covariance_matvec(params, one)


def correlation(family: Family[P], params: P, pixel: tuple[int, int, int]) -> Array:
  """Returns the correlation of every pixel with one pixel. [H, W, C], in [-1, 1].

  Args:
    family: a Gaussian family.
    params: of one image.
    pixel: (row, column, channel), as of `covariance_column`.
  """
  scale = jnp.sqrt(variance(family, params))
  own = jnp.sum(scale * _one_pixel(scale, pixel))
  return covariance_column(family, params, pixel) / (scale * own)


def covariance(family: Family[P], params: P, max_size: int = posterior.MAX_DENSE_SIZE) -> Array:
  """Returns the dense covariance matrix, pixels in C order. [D, D].

  Args:
    family: a Gaussian family.
    params: of one image.
    max_size: largest number of pixels.

  Raises:
    ValueError: the image has more than `max_size` pixels.
  """
  mean = family.mean(params)
  if mean.size > max_size:
    raise posterior.too_dense('covariance', mean.size, max_size)
  basis = jnp.eye(mean.size, dtype=mean.dtype).reshape(mean.size, *mean.shape)
  columns = jax.vmap(lambda v: _gaussian(family).covariance_matvec(params, v))(basis)
  return columns.reshape(mean.size, mean.size).T


def temper(family: Family[P], params: P, temperature: Array | float) -> P:
  """Returns the parameters of the same distribution with its covariance scaled by temperature^2.

  A temperature, [], that is not positive or infinite gives NaN.

  Args:
    family: a Gaussian family.
    params: of one image.
    temperature: [], factor of all standard deviations.
  """
  temperature = base.checked_temperature(temperature, family.mean(params))
  return _gaussian(family).temper(params, temperature)


def principal_components(family: Family[P], params: P, k: int) -> base.PrincipalComponents:
  """Returns the largest k eigenvalues of the covariance and their eigenvectors.

  Args:
    family: a Gaussian family.
    params: of one image.
    k: number of eigenpairs.

  Raises:
    TypeError, ValueError: unless k is a whole number and 1 <= k <= D.
  """
  mean, gaussian = family.mean(params), _gaussian(family)
  base.check_count('k', k, 1, mean.size, 'the number of pixels')
  if gaussian.principal_components is not None:
    return gaussian.principal_components(params, k)
  return leading_components(lambda v: gaussian.covariance_matvec(params, v), mean, k)


def condition(family: Family[P], params: P, x: Array, observed: Array) -> base.Conditional:
  """Returns the distribution of the unobserved pixels of an image, given the observed ones.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C]; unobserved pixels are not read.
    observed: [H, W, C] bool. Its shape is static and its values may be traced.

  Raises:
    TypeError, ValueError: a mask that is not boolean, or shapes that do not match.
  """
  mean, gaussian = family.mean(params), _gaussian(family)
  base.check_shape('x', x, mean.shape)
  base.check_mask('observed', observed, mean.shape)
  if gaussian.condition is not None:
    return gaussian.condition(params, x, observed)
  return posterior.condition(family, params, x, observed)


def posterior_mean(
  family: Family[P], params: P, noisy: Array, noise_variance: Array | float
) -> tuple[Array, Array | None]:
  """Returns the posterior mean and variance of a clean image from one with independent noise added.

  Args:
    family: a Gaussian family, the prior of the clean image.
    params: of one image.
    noisy: [H, W, C].
    noise_variance: [] or [H, W, C]; infinite at a pixel that was not observed, which is not read. Unless
      all are at least 0, the result is NaN.

  Returns:
    The mean and the marginal variance, [H, W, C] each. The variance is None where the family has no
    exact one at this size.
  """
  mean, gaussian = family.mean(params), _gaussian(family)
  base.check_shape('noisy', noisy, mean.shape)
  noise_variance = base.checked_noise_variance(noise_variance, mean)
  if gaussian.posterior_mean is not None:
    closed_form = gaussian.posterior_mean(params, noisy, noise_variance)
    if closed_form is not None:
      return closed_form
  return posterior.posterior_mean(family, params, noisy, noise_variance)


def leading_components(
  matvec: Callable[[Array], Array], like: Array, k: int
) -> base.PrincipalComponents:
  """Returns the eigenpairs of a covariance given by its products with images like this one [H, W, C].

  Args:
    matvec: product with the covariance, of images.
    like: an image.
    k: number of eigenpairs.
  """

  def flat(v: Array) -> Array:
    return matvec(v.reshape(like.shape)).reshape(-1)

  pairs = iterative.top_eigenpairs(flat, like.size, k, like.dtype)
  vectors = pairs.vectors.reshape(k, *like.shape)
  return base.PrincipalComponents(pairs.values, vectors, pairs.residual)


def _gaussian(family: Family[P]) -> base.Gaussian[P]:
  if family.gaussian is None:
    raise ValueError('This operation needs a Gaussian family; this family has no Gaussian record.')
  return family.gaussian


def _residual(family: Family[P], params: P, x: Array) -> Array:
  mean = family.mean(params)
  base.check_shape('x', x, mean.shape)
  return x - mean


def _one_pixel(like: Array, pixel: Sequence[int | Array]) -> Array:
  """Returns 1 at a pixel and 0 elsewhere, of the shape of an image.

  NaN where a traced index is outside.
  """
  if len(pixel) != 3 or not all(map(_is_integer, pixel)):
    raise TypeError(f'pixel must be three integers (row, column, channel); got {pixel}.')
  found = jnp.ones_like(like)
  for axis, (index, size) in enumerate(zip(pixel, like.shape, strict=True)):
    if not isinstance(index, Tracer) and not -size <= index < size:
      raise ValueError(f'pixel must lie in the image of shape {like.shape}; got {pixel}.')
    places = jax.lax.broadcasted_iota(jnp.int32, like.shape, axis)
    inside = (index >= -size) & (index < size)
    here = places == jnp.asarray(index % size, jnp.int32)
    found = found * jnp.where(inside, here.astype(like.dtype), jnp.nan)
  return found


def _is_integer(index: Any) -> bool:
  if isinstance(index, jax.Array):
    return not index.ndim and jnp.issubdtype(index.dtype, jnp.integer)
  return not isinstance(index, bool) and isinstance(index, numbers.Integral)
