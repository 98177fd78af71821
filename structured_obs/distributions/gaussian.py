# One file of more than 300 lines: the one place of every generic operation.
"""Operations of every Gaussian family, written once in terms of its primitives.

They serve a family of the multivariate Student t as well (`Family.student`), with the primitives of its
scale matrix: its covariance is the scale matrix times nu / (nu - 2), with nu degrees of freedom, and
infinite for nu <= 2. What is called a Gaussian family here may be one of these.

Each function takes the family's record and the parameters of one image; map them over a batch with
`jax.vmap`. A family that has a closed form for an operation gives it in its record, and the functions
here use it.

Letters: H W C image height, width, channels; D = H W C. Log densities and entropies in nats.
"""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from structured_obs.distributions import (
  base,
  elliptical,
  marginals,
  posterior,
  radial,
  student_posterior,
)
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
  base.check_family(family)
  return family.log_prob(params, x) if mask is None else family.log_prob(params, x, mask)


def sample(key: Array, family: Family[P], params: P, pixel_noise: bool = True) -> Array:
  """Draws one image. [H, W, C].

  Args:
    key: one jax.random.key.
    family: any family.
    params: of one image.
    pixel_noise: whether with the family's floor of independent pixel noise.

  Raises:
    ValueError: without it, of a family that has no such floor.
  """
  return base.sampler(family, pixel_noise)(key, params)


def mahalanobis(family: Family[P], params: P, x: Array) -> Array:
  """Returns the squared Mahalanobis distance q of an image from the mean, r^T cov^-1 r. [].

  Under a Gaussian it is chi-square with D degrees of freedom: D on average, with variance 2 D. For a
  Student t it is that of the scale matrix, and q / D is F-distributed with D and nu degrees of freedom.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C].
  """
  return base.squared_norm(
    elliptical.primitives(family).whiten(params, elliptical.residual(family, params, x))
  )


def marginal(family: Family[P], params: P, x: Array, mask: Array) -> marginals.Marginal:
  """Returns the squared Mahalanobis distance, log |cov| and number of the pixels in a mask, [] each.

  Under the model the distance is chi-square with as many degrees of freedom as there are pixels.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count.
  """
  primitives = elliptical.primitives(family)
  return marginals.of_image(primitives, params, family.mean(params), x, mask)


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
  primitives = elliptical.primitives(family)
  white = (primitives.white_image or primitives.whiten)(params, elliptical.residual(family, params, x))
  if not hasattr(white, 'shape') or white.size != jnp.size(x):
    raise ValueError('This family does not whiten into an image: it has no `white_image`.')
  return white.reshape(jnp.shape(x))


def entropy(family: Family[P], params: P) -> Array:
  """Returns the differential entropy, for a Gaussian 1/2 (D (1 + log 2 pi) + log |cov|). [], nats."""
  size, log_det = elliptical.mean(family, params).size, elliptical.primitives(family).log_det(params)
  return radial.entropy(size, elliptical.degrees_of_freedom(family, params), log_det)


def excess_entropy(family: Family[P], params: P) -> Array:
  """Returns the entropy above that of the family's own independent pixel noise. [], nats.

  It is computed separately, so that it is accurate where the whole entropy is a large number in float32.

  Raises:
    ValueError: the family has no such noise floor.
  """
  excess = elliptical.primitives(family).excess_entropy
  if excess is None:
    raise ValueError('excess_entropy needs a family with a floor of independent pixel noise.')
  return excess(params)


def variance(family: Family[P], params: P) -> Array:
  """Returns the marginal variance of every pixel, exact. [H, W, C]."""
  return elliptical.inflated(family, params, elliptical.primitives(family).variance(params))


def channel_covariance(family: Family[P], params: P) -> Array:
  """Returns the covariance of the channels of every pixel, exact. [H, W, C, C].

  Raises:
    ValueError: the family is not Gaussian, or has no closed form for an image of this size.
  """
  found = channel_covariance_of(elliptical.primitives(family), params, elliptical.mean(family, params))
  return elliptical.inflated(family, params, found)


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
  primitives = elliptical.primitives(family)
  if primitives.innovation_variance is None:
    raise ValueError('variance_inflation needs a family that generates pixels one after the other.')
  return jnp.max(primitives.variance(params)) / jnp.max(primitives.innovation_variance(params))


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
  return elliptical.inflated(family, params, _scale_column(family, params, pixel))


def correlation(family: Family[P], params: P, pixel: tuple[int, int, int]) -> Array:
  """Returns the correlation of every pixel with one pixel. [H, W, C], in [-1, 1].

  Args:
    family: a Gaussian family.
    params: of one image.
    pixel: (row, column, channel), as of `covariance_column`.
  """
  scale = jnp.sqrt(elliptical.primitives(family).variance(params))
  own = jnp.sum(scale * _one_pixel(scale, pixel))
  return _scale_column(family, params, pixel) / (scale * own)


def covariance(family: Family[P], params: P, max_size: int = posterior.MAX_DENSE_SIZE) -> Array:
  """Returns the dense covariance matrix, pixels in C order. [D, D].

  Args:
    family: a Gaussian family.
    params: of one image.
    max_size: largest number of pixels.

  Raises:
    ValueError: the image has more than `max_size` pixels.
  """
  mean = elliptical.mean(family, params)
  if mean.size > max_size:
    raise posterior.too_dense('covariance', mean.size, max_size)
  basis = jnp.eye(mean.size, dtype=mean.dtype).reshape(mean.size, *mean.shape)
  columns = jax.vmap(lambda v: elliptical.primitives(family).covariance_matvec(params, v))(basis)
  return elliptical.inflated(family, params, columns.reshape(mean.size, mean.size).T)


def temper(family: Family[P], params: P, temperature: Array | float) -> P:
  """Returns the parameters of the same distribution with its covariance scaled by temperature^2.

  A temperature, [], that is not positive or infinite gives NaN.

  Args:
    family: a Gaussian family.
    params: of one image.
    temperature: [], factor of all standard deviations.
  """
  temperature = base.checked_temperature(temperature, elliptical.mean(family, params))
  return jax.tree.map(base.upcast, elliptical.primitives(family).temper(params, temperature))


def principal_components(family: Family[P], params: P, k: int) -> base.PrincipalComponents:
  """Returns the largest k eigenvalues of the covariance and their eigenvectors.

  Args:
    family: a Gaussian family.
    params: of one image.
    k: number of eigenpairs.

  Raises:
    TypeError, ValueError: unless k is a whole number and 1 <= k <= D.
  """
  mean, gaussian = elliptical.mean(family, params), elliptical.primitives(family)
  base.check_count('k', k, 1, mean.size, 'the number of pixels')
  if gaussian.principal_components is not None:
    found = gaussian.principal_components(params, k)
  else:
    found = leading_components(lambda v: gaussian.covariance_matvec(params, v), mean, k)
  return found._replace(values=elliptical.inflated(family, params, found.values))


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
  mean, gaussian = elliptical.mean(family, params), elliptical.primitives(family)
  x = base.check_shape('x', x, mean.shape)
  base.check_mask('observed', observed, mean.shape)
  if family.student is not None:
    given = condition(elliptical.scale_family(family), params, x, observed)
    whiten = jax.tree_util.Partial(gaussian.whiten, params)
    return student_posterior.condition(given, whiten, mean, observed, family.student.dof(params))
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
  mean, gaussian = elliptical.mean(family, params), elliptical.primitives(family)
  noisy = base.check_shape('noisy', noisy, mean.shape)
  noise_variance = base.checked_noise_variance(noise_variance, mean)
  if family.student is not None:
    problem = params, mean, family.student.dof(params), noisy, noise_variance
    solve = functools.partial(posterior_mean, elliptical.scale_family(family))
    return student_posterior.posterior_mean(solve, gaussian.whiten, student_posterior.Problem(*problem))
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


def _scale_column(family: Family[P], params: P, pixel: tuple[int, int, int]) -> Array:
  one = _one_pixel(elliptical.mean(family, params), pixel)
  return elliptical.primitives(family).covariance_matvec(params, one)


def _one_pixel(like: Array, pixel: Any) -> Array:
  """Returns 1 at a pixel and 0 elsewhere, of the shape of an image.

  NaN where a traced index is outside.
  """
  entries = tuple(pixel) if isinstance(pixel, Sequence) or getattr(pixel, 'ndim', 0) == 1 else ()
  if len(entries) != 3 or not all(map(_is_integer, entries)):
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
