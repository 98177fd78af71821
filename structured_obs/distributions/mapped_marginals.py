"""Densities of some of the pixels, of images after a linear map; see `linear` and `marginals`.

A map that keeps the pixels of a mask apart from the others maps the base's own marginal; any other takes
the conditionals of the mapped Gaussian.

Letters: H W C image height, width, channels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, elliptical, marginals

Array = jax.Array


def log_prob(
  made: base.Family[Any], inner: base.Family[Any], of: Any, params: Any, image: tuple[Array, Array]
) -> Array:
  """Returns the log density of the pixels in a mask, for an image and a mask; see `base.Family`."""
  mean, (x, mask) = made.mean(params), image
  mask = marginals.checked_mask(mask, mean.shape)
  if keeps(of, mask):
    moved = mean + of.invert(params, marginals.masked(mask, x, mean) - mean)
    density = inner.log_prob(params.base, moved, mask)
    return marginals.zero_for_none(mask, density - log_det_inside(of, params, mean, mask))
  if not elliptical.has_covariance(made):
    raise ValueError(
      'The density of some pixels needs a Gaussian base where a linear map mixes these with the others.'
    )
  dof = elliptical.degrees_of_freedom(made, params)
  return marginals.log_prob(elliptical.primitives(made), params, mean, x, mask, dof)


def of_map(
  made: base.Gaussian[Any], inner: base.Gaussian[Any], mean: Callable[[Any], Array], of: Any
) -> Callable[[Any, Array, Array], tuple[Array, Array]]:
  """Returns the `marginal` of a mapped Gaussian; see `base.Gaussian`.

  Args:
    made: its other primitives.
    inner: those of the base.
    mean: of the wrapper's parameters.
    of: the map.
  """

  def marginal(params: Any, residual: Array, mask: Array) -> tuple[Array, Array]:
    if not keeps(of, mask):
      return marginals.by_conditionals(made, params, residual, mask)
    moved = of.invert(params, residual)
    distance, log_det = marginals.of_residual(inner, params.base, moved, mask)
    return distance, log_det + 2 * log_det_inside(of, params, mean(params), mask)

  return marginal


def keeps(of: Any, mask: Array) -> bool:
  """Returns whether a map mixes no pixels of a mask with others: known by the mask's shape alone."""
  return of.diagonal or (of.by_pixel is not None and mask.shape[-1] == 1)


def log_det_inside(of: Any, params: Any, mean: Array, mask: Array) -> Array:
  """Returns log |det T_OO| for a mask that `keeps`. []."""
  if of.diagonal:
    each = jnp.log(jnp.abs(of.apply(params, jnp.ones_like(mean))))
    return jnp.sum(jnp.where(mask, each, 0 * each))
  assert of.by_pixel is not None
  matrix = of.by_pixel(params, mean)
  if matrix.ndim == 2:
    return jnp.sum(mask, dtype=mean.dtype) * of.log_det(params, mean[:1, :1])  # equal in all pixels
  each = jnp.linalg.slogdet(matrix)[1][..., None]
  return jnp.sum(jnp.where(mask, each, 0 * each))
