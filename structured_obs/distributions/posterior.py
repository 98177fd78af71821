"""Conditionals and posteriors of any Gaussian family, from products with its precision Q.

An image is seen through independent noise of variance N at each pixel, 0 where it is seen exactly and
infinite where it is not seen. With s^2 = 1 / (1 + N), t^2 = 1 - s^2 and r the residual of what was seen,

  E[image] = mean + u,   | Q    s  | |u|   | 0 |
                         | s  -t^2 | |y| = |s r|,   cov = t M^-1 t,   M = t Q t + s^2

holds from N = 0 to infinity, for a conditional (only those two) as for denoising. For any right-hand
sides a and b of this system, the solution is

  u = s b + t k,   M k = t (a + s b - Q s b),   y = s (a - Q u) + s u - b,

and k comes from conjugate gradients. It is differentiated as the solution of the system, which is smooth
in N at both ends, where t is not. The log-determinant of M and the diagonal of its inverse are the
family's own (`regularized`) or come from a dense matrix up to `MAX_DENSE_SIZE` pixels; a
compiled program computes only what it uses.

Letters: H W C image height, width, channels; D = H W C.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.linalg import iterative, regularized, spectral

Array = jax.Array
Family = base.Family

MAX_DENSE_SIZE = 4096  # pixels up to which a dense [D, D] matrix is formed unasked: 64 MiB in float32
WORST_RESIDUAL = 1e-2  # relative; a mean from a worse solve is NaN
SMALL = 1e-24  # added to t^2 under a root: variances are even in t and have a derivative by t^2 at 0

# A product occurs several times in each of several systems: as a separate program it is traced only
# once per shape.
_traced_once = functools.cache(jax.jit)


class Shares(NamedTuple):
  """Weights of a prior and of a noisy observation in a posterior mean. They sum to 1."""

  prior: Array  # noise / (prior + noise), of the variances
  observed: Array  # prior / (prior + noise); 0 where the noise is infinite


def shares(prior: Array, noise: Array) -> Shares:
  """Returns the shares by the variances, with their derivatives, from noise 0 to infinity. Any shape."""
  unseen = jnp.isinf(noise)
  finite = jnp.where(unseen, 1, noise)
  total = prior + finite
  return Shares(jnp.where(unseen, 1, finite / total), jnp.where(unseen, 0, prior / total))


def in_basis(
  basis: spectral.Basis, prior: Array, noise_variance: Array, residual: Array
) -> tuple[Array, Array]:
  """Returns the posterior of an image with a covariance that is diagonal in a basis, under equal noise.

  Args:
    basis: in which the covariance is diagonal.
    prior: its eigenvalues.
    noise_variance: [], from 0 to infinity.
    residual: [H, W, C], of the noisy image.

  Returns:
    The posterior mean less the prior one [H, W, C], and the eigenvalues of the posterior covariance.
  """
  share = shares(prior, noise_variance)
  residual = jnp.where(jnp.isinf(noise_variance), 0, residual)
  # Computed from the nearer end, so that rounding is small relative to the remaining variance.
  near = noise_variance < jnp.exp(jnp.mean(jnp.log(prior)))
  moved = spectral.multiply(basis, jnp.where(near, -share.prior, share.observed), residual)
  return moved + jnp.where(near, residual, 0), prior * share.prior


def regularized_in_basis(
  precision: Array, basis: spectral.Basis, scale: Array, ridge: Array
) -> tuple[Array, Array] | None:
  """Returns log |t Q t + s| and the diagonal of its inverse for a Q that is diagonal in a basis.

  Args:
    precision: [H, F, C] or [H, F, 1], its eigenvalues.
    basis: in which it is diagonal, channel by channel.
    scale: [H, W, C], t.
    ridge: [H, W, C], s, positive where t is 0.

  Returns:
    [] and [H, W, C]; None for an image of more than `MAX_DENSE_SIZE` pixels in a channel.
  """
  height, width, channels = scale.shape
  if height * width > MAX_DENSE_SIZE:
    return None
  values = jnp.broadcast_to(precision, (*precision.shape[:2], channels))
  flat = (jnp.moveaxis(a, -1, 0).reshape(channels, -1) for a in (scale, ridge))
  log_dets, inverse = regularized.log_det_and_inverse_diagonal(
    basis.entries, basis.table(values, width), *flat
  )
  bad = jnp.sum(0 * precision)  # NaN for all of an image, seen pixels included
  inverse = jnp.moveaxis(inverse.reshape(channels, height, width), 0, -1)
  return jnp.sum(log_dets) + bad, inverse + bad


class _Given(NamedTuple):
  """State of a generic conditional. `log_det` is None for images that are too large."""

  params: Any
  observed: Array  # [H, W, C]
  mean: Array  # [H, W, C]  conditional mean; observed pixels as observed
  log_det: Array | None  # []  of the unobserved block of the precision


def condition(family: Family, params: Any, x: Array, observed: Array) -> base.Conditional:
  """Returns the distribution of the unobserved pixels given the observed ones.

  See `gaussian.condition`.

  Args:
    family: a Gaussian family.
    params: of one image.
    x: [H, W, C].
    observed: [H, W, C], bool.
  """
  filled, solution = _fill_in(family, params, observed, x)
  log_det = variance = None
  hidden = (~observed).astype(filled.dtype)
  regular = log_det_and_inverse(_primitives(family), params, hidden, 1 - hidden)
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
  """Returns the posterior mean and variance under added noise; see `gaussian.posterior_mean`.

  Args:
    family: a Gaussian family.
    params: of one image.
    noisy: [H, W, C].
    noise_variance: [] or [H, W, C]; infinite where a pixel was not observed.
  """
  mean = family.mean(params)
  noisy = base.check_shape('noisy', noisy, mean.shape)
  noise = jnp.broadcast_to(base.checked_noise_variance(noise_variance, mean), mean.shape)
  unseen = jnp.isinf(noise)
  seen = jnp.where(unseen, 0, jax.lax.rsqrt(1 + jnp.where(unseen, 0, noise)))
  hidden = shares(jnp.ones_like(mean), noise).prior
  residual = jnp.where(unseen, 0, noisy - mean)
  moved, solution = solve(_primitives(family), params, hidden, seen, residual, masked=False)
  moved = jnp.where(solution.residual < WORST_RESIDUAL, moved, jnp.nan)
  scale = jnp.sqrt(hidden + SMALL)
  regular = log_det_and_inverse(_primitives(family), params, scale, jnp.square(seen))
  return mean + moved, None if regular is None else base.all_or_nan(hidden * regular[1])


def too_dense(operation: str, size: int, max_size: int) -> ValueError:
  """Returns the error of an operation that would need a dense matrix of too many pixels.

  Args:
    operation: name of the operation.
    size: pixels of the image.
    max_size: largest number of pixels.
  """
  return ValueError(
    f'{operation} would form a dense {size} x {size} matrix, {4e-9 * size**2:.2g} GB in float32; '
    f'the limit is {max_size} pixels. Use covariance_column, variance or products of the family instead.'
  )


def _fill_in(family: Family, params: Any, observed: Array, x: Array) -> tuple[Array, iterative.Solution]:
  """Returns the conditional mean at the unobserved pixels, and the solve behind it."""
  mean = family.mean(params)
  hidden = (~observed).astype(mean.dtype)
  residual = jnp.where(observed, x - mean, 0)
  moved, solution = solve(_primitives(family), params, hidden, 1 - hidden, residual, masked=True)
  # The iteration ends at once where something is NaN, with what it began with.
  moved = jnp.where(solution.residual < WORST_RESIDUAL, moved, jnp.nan)
  return jnp.where(observed, x, mean + moved), solution


@functools.partial(jax.jit, static_argnames=('primitives', 'masked'))
def solve(
  primitives: base.Gaussian[Any],
  params: Any,
  hidden: Array,
  seen: Array,
  residual: Array,
  *,
  masked: bool,
) -> tuple[Array, iterative.Solution]:
  """Returns E[image] - mean for t^2 = hidden and s = seen, and the solve behind it.

  If `masked`, the covariance's own product, masked, approximates the inverse of the precision's block.

  Args:
    primitives: of the family.
    params: of one image.
    hidden: [H, W, C], t^2.
    seen: [H, W, C], s.
    residual: [H, W, C], of what was seen.
    masked: whether t and s are 0 and 1.
  """
  multiply = functools.partial(_traced_once(primitives.precision_matvec), params)
  covariance = functools.partial(_traced_once(primitives.covariance_matvec), params)
  root = jnp.sqrt(hidden)

  def precondition(v: Array) -> Array:
    return jnp.where(hidden > 0, covariance(hidden * v), v)

  def flat(operation: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda v: operation(v.reshape(residual.shape)).reshape(-1)

  def system(pair: tuple[Array, Array]) -> tuple[Array, Array]:
    u, y = pair
    return multiply(u) + seen * y, seen * u - hidden * y

  def exact(_, right: tuple[Array, Array]) -> tuple[tuple[Array, Array], iterative.Solution]:
    a, b = right
    solution = iterative.conjugate_gradient(
      flat(lambda v: root * multiply(root * v) + jnp.square(seen) * v),
      (root * (a + seen * b - multiply(seen * b))).reshape(-1),
      flat(precondition) if masked else None,
    )
    u = seen * b + root * solution.value.reshape(b.shape)
    return (u, seen * (a - multiply(u)) + seen * u - b), solution

  right = jnp.zeros_like(residual), seen * residual
  (u, _), solution = jax.lax.custom_linear_solve(system, right, exact, symmetric=True, has_aux=True)
  return u, solution


def log_det_and_inverse(
  primitives: base.Gaussian[Any], params: Any, scale: Array, ridge: Array
) -> tuple[Array, Array] | None:
  """Returns log |t Q t + ridge| [] and the diagonal of its inverse [H, W, C].

  Args:
    primitives: of the family.
    params: of one image.
    scale: [H, W, C], t.
    ridge: [H, W, C], positive where t is 0.

  Returns:
    None for too large an image.
  """
  shape = scale.shape
  if primitives.regularized is not None:
    return primitives.regularized(params, scale, ridge)
  if scale.size > MAX_DENSE_SIZE:
    return None
  basis = jnp.eye(scale.size, dtype=scale.dtype).reshape(scale.size, *shape)
  product = functools.partial(primitives.precision_matvec, params)
  precision = jax.vmap(product)(basis).reshape(scale.size, scale.size)[None]
  log_det, inverse = regularized.log_det_and_inverse_diagonal(
    _rows, precision, scale.reshape(-1)[None], ridge.reshape(-1)[None]
  )
  return log_det[0], inverse[0].reshape(shape)


def _rows(matrix: Array, places: Array) -> Array:
  return matrix[places]


def _sample_given(family: Family, given: _Given, key: Array) -> Array:
  # Matheron's rule: move a sample of the whole image onto the observed pixels.
  drawn = family.sample(key, given.params)
  moved, _ = _fill_in(family, given.params, given.observed, drawn)
  return jnp.where(given.observed, given.mean, drawn + given.mean - moved)


def _log_prob_given(family: Family, given: _Given, x: Array) -> Array:
  if given.log_det is None:
    raise too_dense('log_prob of a conditional of this family', given.mean.size, MAX_DENSE_SIZE)
  rest = jnp.where(given.observed, 0, base.check_shape('x', x, given.mean.shape) - given.mean)
  quadratic = jnp.sum(rest * _primitives(family).precision_matvec(given.params, rest))
  unobserved = jnp.sum(~given.observed, dtype=rest.dtype)
  return -0.5 * (unobserved * base.LOG_2PI - given.log_det + quadratic)


def _primitives(family: Family) -> base.Gaussian[Any]:
  if family.gaussian is None:
    raise ValueError('This operation needs a Gaussian family; this family has no Gaussian record.')
  return family.gaussian
