"""Conditionals and posteriors of any Gaussian family, from products with its precision Q.

An image is seen through independent noise of variance N at each pixel, 0 where it is seen exactly and
infinite where it is not seen. With s^2 = 1 / (1 + N), t^2 = 1 - s^2 and r the residual of what was seen,

  E[image] = mean + r - t k,   (t Q t + s^2) k = t Q r,   cov = t (t Q t + s^2)^-1 t

holds from N = 0 to infinity, for a conditional (only those two) as for denoising. The system is solved
by conjugate gradients; its log-determinant and the diagonal of its inverse are the family's own
(`regularized`) or come from a dense matrix up to `MAX_DENSE_SIZE` pixels.

Letters: H W C image height, width, channels; D = H W C.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.linalg import iterative

Array = jax.Array
Family = base.Family

MAX_DENSE_SIZE = 4096  # pixels up to which a dense [D, D] matrix is formed unasked: 64 MiB in float32
WORST_RESIDUAL = 1e-2  # relative; a mean from a worse solve is NaN


class _Given(NamedTuple):
  """What a conditional of the generic kind remembers. `log_det` is None where it is too large."""

  params: Any
  observed: Array  # [H, W, C]
  mean: Array  # [H, W, C]  conditional mean; observed pixels as observed
  log_det: Array | None  # []  of the unobserved block of the precision


def condition(family: Family, params: Any, x: Array, observed: Array) -> base.Conditional:
  """Distribution of the unobserved pixels given the observed ones; see `gaussian.condition`."""
  filled, solution = _fill_in(family, params, observed, x)
  log_det = variance = None
  hidden = (~observed).astype(filled.dtype)
  regular = _regularized(family, params, hidden, 1 - hidden)
  if regular is not None:
    log_det, inverse = regular
    variance = jnp.where(observed, 0, inverse)
  given = _Given(params, observed, filled, log_det)
  partial = jax.tree_util.Partial
  return base.Conditional(
    mean=filled,
    variance=variance,
    sample=partial(functools.partial(_sample_given, family), given),
    log_prob=partial(functools.partial(_log_prob_given, family), given),
    residual=solution.residual,
    iterations=solution.iterations,
  )


def posterior_mean(
  family: Family, params: Any, noisy: Array, noise_variance: Array
) -> tuple[Array, Array | None]:
  """Posterior mean and variance under added noise; see `gaussian.posterior_mean`."""
  mean = family.mean(params)
  noise = jnp.broadcast_to(noise_variance, mean.shape)
  seen = 1 / (1 + noise)
  # 1 - seen without cancellation; 1 where the noise is infinite.
  hidden = jnp.where(noise < jnp.inf, noise * seen, 1)
  residual = jnp.where(seen > 0, noisy - mean, 0)
  scale = jnp.sqrt(hidden)
  moved, solution = _solve(family, params, scale, seen, residual, None)
  moved = jnp.where(solution.residual < WORST_RESIDUAL, moved, jnp.nan)
  regular = _regularized(family, params, scale, seen)
  return mean + moved, None if regular is None else hidden * regular[1]


def too_dense(operation: str, size: int, max_size: int) -> ValueError:
  """The error of an operation that would need a dense matrix of too many pixels."""
  return ValueError(
    f'{operation} would form a dense {size} x {size} matrix, {4e-9 * size**2:.2g} GB in float32; '
    f'the limit is {max_size} pixels. Use covariance_column, variance or the products of the family '
    'instead.'
  )


def _fill_in(family, params, observed, x) -> tuple[Array, iterative.Solution]:
  """Conditional mean at the unobserved pixels, and the solve behind it.

  The covariance's own product, masked, is an approximate inverse of the precision's block.
  """
  mean, multiply = family.mean(params), _primitives(family).covariance_matvec
  hidden = (~observed).astype(mean.dtype)

  def covariance(v: Array) -> Array:
    return jnp.where(observed, v, multiply(params, hidden * v))

  residual = jnp.where(observed, x - mean, 0)
  moved, solution = _solve(family, params, hidden, 1 - hidden, residual, covariance)
  # The iteration ends at once where something is NaN, with what it began with.
  moved = jnp.where(solution.residual < WORST_RESIDUAL, moved, jnp.nan)
  return jnp.where(observed, x, mean + moved), solution


def _solve(family, params, scale, ridge, residual, precondition) -> tuple[Array, iterative.Solution]:
  """r - t k with (t Q t + ridge) k = t Q r."""
  multiply = _primitives(family).precision_matvec

  def flat(operation):
    return lambda v: operation(v.reshape(residual.shape)).reshape(-1)

  solution = iterative.conjugate_gradient(
    flat(lambda v: scale * multiply(params, scale * v) + ridge * v),
    (scale * multiply(params, residual)).reshape(-1),
    None if precondition is None else flat(precondition),
  )
  return residual - scale * solution.value.reshape(residual.shape), solution


def _regularized(family, params, scale, ridge) -> tuple[Array, Array] | None:
  """log |t Q t + ridge| [] and the diagonal of its inverse [H, W, C]; None for too large an image."""
  primitives, shape = _primitives(family), scale.shape
  if primitives.regularized is not None:
    return primitives.regularized(params, scale, ridge)
  if scale.size > MAX_DENSE_SIZE:
    return None
  basis = jnp.eye(scale.size, dtype=scale.dtype).reshape(scale.size, *shape)
  matrix = jax.vmap(lambda v: scale * primitives.precision_matvec(params, scale * v) + ridge * v)(basis)
  chol = jnp.linalg.cholesky(matrix.reshape(scale.size, scale.size))
  identity = jnp.eye(scale.size, dtype=scale.dtype)
  root = jax.scipy.linalg.solve_triangular(chol, identity, lower=True)
  inverse = jnp.sum(jnp.square(root), axis=0).reshape(shape)
  return 2 * jnp.sum(jnp.log(jnp.diag(chol))), inverse


def _sample_given(family, given: _Given, key: Array) -> Array:
  # Matheron's rule: move a sample of the whole image onto the observed pixels.
  drawn = family.sample(key, given.params)
  moved, _ = _fill_in(family, given.params, given.observed, drawn)
  return jnp.where(given.observed, given.mean, drawn + given.mean - moved)


def _log_prob_given(family, given: _Given, x: Array) -> Array:
  if given.log_det is None:
    raise too_dense('log_prob of a conditional of this family', given.mean.size, MAX_DENSE_SIZE)
  rest = jnp.where(given.observed, 0, x - given.mean)
  quadratic = jnp.sum(rest * _primitives(family).precision_matvec(given.params, rest))
  unobserved = jnp.sum(~given.observed, dtype=rest.dtype)
  return -0.5 * (unobserved * base.LOG_2PI - given.log_det + quadratic)


def _primitives(family: Family) -> base.Gaussian:
  if family.gaussian is None:
    raise ValueError('This operation needs a Gaussian family; this family has no Gaussian record.')
  return family.gaussian
