"""What families of Gaussians and of Student t distributions have in common: both are elliptical.

Their densities depend on the squared distance q = r^T S^-1 r alone, with the covariance or scale matrix
S (`primitives`). The law of q, chi-square or F, tells whether S is as large as the errors of a model,
and by how much these vary.

Letters: H W C image height, width, channels; D = H W C; r = x - mean; nu degrees of freedom.
"""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, radial

Array = jax.Array
Family = base.Family
P = TypeVar('P')  # a family's parameters, as in `base`


def has_covariance(family: Family[Any]) -> bool:
  """Returns whether a family is Gaussian or a Student t, so that these operations serve it."""
  return family.gaussian is not None or family.student is not None


def mean(family: Family[P], params: P) -> Array:
  """Returns the mean, [H, W, C]; raises TypeError unless the first argument is a family."""
  base.check_family(family)
  return family.mean(params)


def primitives(family: Family[P]) -> base.Gaussian[P]:
  """Returns the primitives of a Gaussian family, or of the scale matrix of a Student t.

  Raises:
    ValueError: the family is neither.
  """
  base.check_family(family)
  if family.student is not None:
    return family.student.scale
  if family.gaussian is None:
    raise ValueError('This operation needs a Gaussian family; this family has no Gaussian record.')
  return family.gaussian


@functools.cache
def scale_family(family: Family[P]) -> Family[P]:
  """Returns the Gaussian family whose covariance is the scale matrix of a Student t, on its parameters.

  A Gaussian family is returned as it is.

  Raises:
    ValueError: the family is neither.
  """
  record = primitives(family)
  if family.gaussian is not None:
    return family

  def log_density(params: P, x: Array) -> Array:
    distance = base.squared_norm(record.whiten(params, residual(family, params, x)))
    log_det = record.log_det(params)
    return base.nan_unless_finite(radial.log_density(x.size, None, distance, log_det))

  def draw(key: Array, params: P) -> Array:
    return record.reparameterize(params, record.noise(key, params))

  return family._replace(
    log_prob=log_density, sample=draw, gaussian=record, student=None, sample_without_pixel_noise=None
  )


def degrees_of_freedom(family: Family[P], params: P) -> Array | None:
  """Returns nu of a Student t, []; None for a Gaussian family.

  Raises:
    ValueError: the family is neither.
  """
  primitives(family)
  return None if family.student is None else family.student.dof(params)


def inverse_dof(family: Family[P], params: P) -> Array:
  """Returns 1 / nu of a Student t, and 0 for a Gaussian family. []."""
  dof = degrees_of_freedom(family, params)
  return jnp.zeros_like(family.mean(params), shape=()) if dof is None else 1 / dof


def distance_cdf(family: Family[P], params: P, distance: Array | float) -> Array:
  """Returns the probability, under the model, of a `mahalanobis` below this one. Of its shape, any.

  Args:
    family: a Gaussian family.
    params: of one image.
    distance: q, of any shape.
  """
  like, dof = mean(family, params), degrees_of_freedom(family, params)
  return radial.distance_cdf(like.size, dof, jnp.asarray(distance, like.dtype))


def distance_quantile(family: Family[P], params: P, probability: Array | float) -> Array:
  """Returns the `mahalanobis` with this `distance_cdf`. Of the shape of the probability, any.

  Args:
    family: a Gaussian family.
    params: of one image.
    probability: from 0 to 1, of any shape; outside, the result is NaN.
  """
  like, dof = mean(family, params), degrees_of_freedom(family, params)
  return radial.distance_quantile(like.size, dof, jnp.asarray(probability, like.dtype))


def pixel_cdf(family: Family[P], params: P, x: Array) -> Array:
  """Returns the probability, under the model, of a value below that of each pixel. [H, W, C].

  A pixel of a Gaussian is normal, and one of a Student t has Student's t with nu degrees of freedom.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C].
  """
  scale = jnp.sqrt(primitives(family).variance(params))
  return radial.pixel_cdf(degrees_of_freedom(family, params), residual(family, params, x) / scale)


def inflated(family: Family[P], params: P, scale: Array) -> Array:
  """Returns entries of the covariance, given those of the covariance or scale matrix. Of any shape.

  Args:
    family: a Gaussian family.
    params: of one image.
    scale: entries of `primitives`.
  """
  if family.student is None:
    return scale
  return scale * radial.inflation(family.student.dof(params))


def residual(family: Family[P], params: P, x: Array) -> Array:
  """Returns x - mean, [H, W, C], of an image of the right shape."""
  middle = mean(family, params)
  return base.check_shape('x', x, middle.shape) - middle
