"""Densities of some of the pixels of an image: the exact marginal distribution of those that count.

With O the pixels that count, A the others, r the residual and Q the precision of a Gaussian,

  log |cov_OO| = log |cov| + log |Q_AA|,    r_O^T cov_OO^-1 r_O = min over u_A of u^T Q u,  u_O = r_O,

where the minimum is at the conditional mean of A, so that an error of the solve enters squared. Families
whose marginals have a closed form give it in their record. Pixels that do not count are not read; a
parameter that is not finite gives NaN wherever it is.

Letters: H W C image height, width, channels; D = H W C.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, posterior, radial

Array = jax.Array


class Marginal(NamedTuple):
  """What the density of the pixels that count is made of."""

  distance: Array  # []  q, their squared Mahalanobis distance; `size` on average under the model
  log_det: Array  # []  log |cov_OO|, nats
  size: Array  # []  number of pixels, every channel one


def checked_mask(mask: Array, shape: tuple[int, ...]) -> Array:
  """Returns a mask of the pixels that count, [H, W, C], or [H, W, 1] for all channels of a pixel.

  Raises at trace time unless it is boolean and of one of these shapes (TypeError, ValueError).

  Args:
    mask: of any type.
    shape: of the image.
  """
  whole = (*shape[:2], 1)
  base.check_mask('mask', mask, whole if jnp.shape(mask) == whole else shape)
  return jnp.asarray(mask)


def number(mask: Array, like: Array) -> Array:
  """Returns how many pixels count, every channel one, in the type of the image. [].

  Args:
    mask: [H, W, C] or [H, W, 1].
    like: the image.
  """
  return jnp.sum(mask, dtype=like.dtype) * (like.shape[-1] // mask.shape[-1])


def masked(mask: Array, x: Array, mean: Array) -> Array:
  """Returns the image with the mean at the pixels that do not count, which are not read. [H, W, C].

  Args:
    mask: [H, W, C] or [H, W, 1].
    x: [H, W, C].
    mean: [H, W, C].
  """
  return jnp.where(mask, base.check_shape('x', x, mean.shape), mean)


def zero_for_none(mask: Array, value: Array) -> Array:
  """Returns a log density, exactly 0 where no pixel counts; NaN for an infinite one. []."""
  return base.nan_unless_finite(jnp.where(jnp.any(mask), value, 0 * value))


def log_prob(
  primitives: base.Gaussian[Any],
  params: Any,
  mean: Array,
  x: Array,
  mask: Array,
  dof: Array | None = None,
) -> Array:
  """Returns the log density of the pixels that count. [], nats.

  Args:
    primitives: of the family.
    params: of one image.
    mean: [H, W, C].
    x: [H, W, C].
    mask: [H, W, C] or [H, W, 1], bool.
    dof: [], degrees of freedom of a Student t with this scale matrix; None for a Gaussian.

  Raises:
    ValueError: a shape is wrong, or the image is too large for this family.
  """
  distance, log_det, count = of_image(primitives, params, mean, x, mask)
  return zero_for_none(mask, radial.log_density(count, dof, distance, log_det))


def of_image(
  primitives: base.Gaussian[Any], params: Any, mean: Array, x: Array, mask: Array
) -> Marginal:
  """Returns the distance and log-determinant of the pixels that count; arguments as of `log_prob`."""
  mask = checked_mask(mask, mean.shape)
  residual = masked(mask, x, mean) - mean  # 0, not read, where the mask is False; NaN for a NaN mean
  return Marginal(*of_residual(primitives, params, residual, mask), number(mask, mean))


def of_residual(
  primitives: base.Gaussian[Any], params: Any, residual: Array, mask: Array
) -> tuple[Array, Array]:
  """Returns r_O^T cov_OO^-1 r_O [] and log |cov_OO| [], by the family's closed form where it has one.

  Args:
    primitives: of the family.
    params: of one image.
    residual: [H, W, C], 0 at the pixels that do not count.
    mask: [H, W, C] or [H, W, 1], bool.
  """
  if primitives.marginal is not None:
    return primitives.marginal(params, residual, mask)
  return by_conditionals(primitives, params, residual, mask)


def by_conditionals(
  primitives: base.Gaussian[Any], params: Any, residual: Array, mask: Array
) -> tuple[Array, Array]:
  """Returns the same from products with the precision; arguments as of `of_residual`.

  Raises:
    ValueError: the image is too large for a dense matrix, and the family has no `regularized`.
  """
  seen = jnp.broadcast_to(mask, residual.shape).astype(residual.dtype)
  regular = posterior.log_det_and_inverse(primitives, params, 1 - seen, seen)
  if regular is None:
    size = residual.size
    raise posterior.too_dense(
      'The density of some pixels of this family', size, posterior.MAX_DENSE_SIZE
    )
  return _distance(primitives, params, residual, seen), primitives.log_det(params) + regular[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _distance(primitives: base.Gaussian[Any], params: Any, residual: Array, seen: Array) -> Array:
  filled = _filled(primitives, params, residual, seen)
  return base.squared_norm(primitives.whiten(params, filled))


@_distance.defjvp
def _distance_jvp(primitives: base.Gaussian[Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]):
  params, residual, seen = primals
  moved = _filled(primitives, params, residual, seen) - residual

  def at_the_minimum(params: Any, residual: Array) -> Array:
    # The derivative by the other pixels is 0 here; derivatives of higher order are those of `moved`.
    return base.squared_norm(primitives.whiten(params, seen * residual + moved))

  return jax.jvp(at_the_minimum, (params, residual), tangents[:2])


def _filled(primitives: base.Gaussian[Any], params: Any, residual: Array, seen: Array) -> Array:
  """Returns the residual with the conditional mean of the pixels that do not count. [H, W, C]."""
  filled, solution = posterior.solve(primitives, params, 1 - seen, seen, residual, masked=True)
  filled = jnp.where(solution.residual < posterior.WORST_RESIDUAL, filled, jnp.nan)
  return filled + jnp.sum(0 * residual)  # a compiler may take False times NaN for 0
