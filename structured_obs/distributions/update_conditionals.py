"""Conditionals and posteriors of a low-rank update whose base has closed forms of its own.

The image is m + b + P w, with b of the base's covariance S and w ~ N(0, I). Given w, what was seen is
the base's, so that everything follows from the posterior of w and the base's own answers for residuals
of a centred distribution: those of r and of the columns of P. Both are whitened as what was seen is:

  observed pixels     v -> A F v,  F v the base's conditional mean of all pixels given those of v
  noise of variance N v -> A u and N^-1/2 (v - u),  u the base's posterior mean of v

whose squared norms are v^T cov^-1 v, with the covariance of what was seen of m + b.

Letters: H W C image height, width, channels; D = H W C; R columns of P; A the base's whitening.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, posterior
from structured_obs.linalg import update_density, woodbury
from structured_obs.linalg.products import matmul, subtract_product

Array = jax.Array
White = update_density.White


class Base(NamedTuple):
  """The base family, and its whitening as a function of columns of pixels. Hashable."""

  mean: Callable[[Any], Array]
  primitives: base.Gaussian[Any]
  white: White


def whitener(mean: Callable[[Any], Array], whiten: Callable[[Any, Array], Any]) -> White:
  """Returns the whitening of columns [D] or [D, k] by parameters of the base; [m] or [m, k]."""

  def one(params: Any, image: Array) -> Array:
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(whiten(params, image))]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves)

  def white(params: Any, columns: Array) -> Array:
    shape = jax.eval_shape(mean, params).shape
    images = columns.reshape(*shape, *columns.shape[1:])
    if columns.ndim == 1:
      return one(params, images)
    if not columns.shape[1]:
      size = jax.eval_shape(one, params, jnp.zeros_like(columns, shape=shape)).shape
      return jnp.zeros_like(columns, shape=(*size, 0))
    return jax.vmap(one, in_axes=(None, -1), out_axes=-1)(params, images)

  return white


class Update(NamedTuple):
  """Checked parameters of an update."""

  base: Any  # parameters of the base
  mean: Array  # [H, W, C]
  factor: Array  # [D, R]


class _Given(NamedTuple):
  """State of a conditional: a low-rank update of the base's."""

  params: Any  # of the centred base
  base: base.Conditional  # of the centred base given zeros
  mean: Array  # [H, W, C]
  factor: Array  # [D, R]  0 at observed pixels
  observed: Array  # [H, W, C]


def condition(of: Base, update: Update, x: Array, observed: Array) -> base.Conditional:
  """Returns the distribution of the unobserved pixels given the observed ones.

  With C_O the capacitance of the observed pixels and G = P - F P, it is the base's conditional with a
  low-rank update by G C_O^-1/2.

  Args:
    of: the base, with a conditional of its own.
    update: parameters.
    x: [H, W, C]; unobserved pixels are not read.
    observed: [H, W, C], bool.
  """
  assert of.primitives.condition is not None
  mean, factor, seen = update.mean, update.factor, observed.reshape(-1)
  centred = _centred(update.base)
  rows = jnp.where(seen[:, None], factor, 0)
  residual = jnp.where(observed, x - mean, 0).reshape(-1)
  whitening = jax.tree_util.Partial(_of_observed(of), (centred, observed))
  cap = woodbury.capacitance(rows, whitening)
  coefficients = woodbury.whiten(cap, residual).coefficients

  left = subtract_product(residual, rows, coefficients).reshape(mean.shape)
  moved = of.primitives.condition(centred, left, observed)
  expected = mean + matmul(factor, coefficients).reshape(mean.shape) + moved.mean
  filled = _fill_in(of, centred, rows, observed)
  rest = matmul(jnp.where(seen[:, None], 0, factor - filled), cap.root.T)
  given = of.primitives.condition(centred, jnp.zeros_like(mean), observed)
  variance = None
  if given.variance is not None:
    added = jnp.sum(jnp.square(rest), axis=-1).reshape(mean.shape)
    variance = jnp.where(observed, 0, base.all_or_nan(given.variance + added))
  state = _Given(centred, given, jnp.where(observed, x, base.all_or_nan(expected)), rest, observed)
  return base.Conditional(
    mean=state.mean,
    variance=variance,
    sample=jax.tree_util.Partial(_sample_unobserved, state),
    log_prob=jax.tree_util.Partial(_log_prob_unobserved(of), state),
    residual=moved.residual,
    iterations=moved.iterations,
  )


def marginal(of: Base, update: Update, residual: Array, mask: Array) -> tuple[Array, Array]:
  """Returns r_O^T cov_OO^-1 r_O [] and log |cov_OO| [] of the pixels in a mask.

  Args:
    of: the base, with conditionals and marginals of its own.
    update: parameters.
    residual: [H, W, C], 0 outside the mask.
    mask: [H, W, C] or [H, W, 1], bool.
  """
  assert of.primitives.marginal is not None
  observed = jnp.broadcast_to(mask, update.mean.shape)
  rows = jnp.where(observed.reshape(-1)[:, None], update.factor, 0)
  whitening = jax.tree_util.Partial(_of_observed(of), (_centred(update.base), observed))
  cap = woodbury.capacitance(rows, whitening)
  distance = base.squared_norm(woodbury.whiten(cap, residual.reshape(-1)))
  _, log_det = of.primitives.marginal(update.base, jnp.zeros_like(residual), mask)
  return distance, log_det + cap.log_det + jnp.sum(0 * update.factor)


def _sample_unobserved(given: _Given, key: Array) -> Array:
  key_base, key_factor = jax.random.split(key)
  noise = base.white_noise(key_factor, jnp.zeros_like(given.factor[0]))
  drawn = given.base.sample(key_base) + matmul(given.factor, noise).reshape(given.mean.shape)
  return jnp.where(given.observed, given.mean, given.mean + drawn)


@functools.cache
def _log_prob_unobserved(of: Base) -> Callable[[_Given, Array], Array]:
  def log_prob(given: _Given, x: Array) -> Array:
    zero = jnp.zeros_like(given.mean)
    x = base.check_shape('x', x, given.mean.shape)
    residual = jnp.where(given.observed, 0, x - given.mean).reshape(-1)
    # The block of the precision at the unobserved pixels is that of the base's conditional.
    density = update_density.log_density(of.white, given.params, residual, given.factor)
    return base.nan_unless_finite(given.base.log_prob(zero) + density)

  return log_prob


def posterior_mean(
  of: Base, update: Update, noisy: Array, noise_variance: Array
) -> tuple[Array, Array | None] | None:
  """Returns the mean and variance of the clean image given a noisy one; see `gaussian.posterior_mean`.

  Args:
    of: the base, with a posterior mean of its own.
    update: parameters.
    noisy: [H, W, C].
    noise_variance: [] or [H, W, C]; infinite where a pixel was not observed.

  Returns:
    None where the base has none.
  """
  assert of.primitives.posterior_mean is not None
  mean, factor, centred = update.mean, update.factor, _centred(update.base)
  noisy = base.check_shape('noisy', noisy, mean.shape)
  noise = base.checked_noise_variance(noise_variance, mean)
  unseen = jnp.broadcast_to(jnp.isinf(noise), mean.shape)
  residual = jnp.where(unseen, 0, noisy - mean).reshape(-1)
  if of.primitives.posterior_mean(centred, residual.reshape(mean.shape), noise) is None:
    return None
  rows = jnp.where(unseen.reshape(-1)[:, None], 0, factor)
  whitening = jax.tree_util.Partial(_of_noisy(of), (centred, noise))
  cap = woodbury.capacitance(rows, whitening)
  coefficients = woodbury.whiten(cap, residual).coefficients

  left = subtract_product(residual, rows, coefficients)
  moved, own = _posterior(of, centred, left.reshape(mean.shape), noise)
  expected = mean + matmul(factor, coefficients).reshape(mean.shape) + moved
  variance = None
  if own is not None:
    rest = matmul(
      factor - _columns(lambda v: _posterior(of, centred, v, noise)[0], rows, mean), cap.root.T
    )
    variance = base.all_or_nan(own + jnp.sum(jnp.square(rest), axis=-1).reshape(mean.shape))
  return base.all_or_nan(expected), variance


def _posterior(of: Base, centred: Any, residual: Array, noise: Array) -> tuple[Array, Array | None]:
  assert of.primitives.posterior_mean is not None
  found = of.primitives.posterior_mean(centred, residual, noise)
  assert found is not None
  return found


@functools.cache
def _of_observed(of: Base) -> White:
  """Returns the whitening of observed pixels, by a centred base and the mask."""

  def white(state: tuple[Any, Array], columns: Array) -> Array:
    centred, observed = state
    seen = observed.reshape(-1)
    masked = jnp.where(seen if columns.ndim == 1 else seen[:, None], columns, 0)
    return of.white(centred, _fill_in(of, centred, masked, observed))

  return white


@functools.cache
def _of_noisy(of: Base) -> White:
  """Returns the whitening of a noisy image, by a centred base and the variances of the noise."""

  def white(state: tuple[Any, Array], columns: Array) -> Array:
    centred, noise = state
    like = of.mean(centred)
    unseen = jnp.isinf(noise)
    # The same number two ways: the difference cancels where there is little noise.
    little = noise < jnp.finfo(like.dtype).eps ** 0.5 * of.primitives.variance(centred)
    finite = jnp.where(unseen, 1, noise) + posterior.SMALL

    def one(v: Array) -> Array:
      v = jnp.where(unseen, 0, v)
      moved = _posterior(of, centred, v, noise)[0]
      by_product = of.primitives.precision_matvec(centred, moved) * jnp.sqrt(finite)
      by_difference = (v - moved) / jnp.sqrt(jnp.where(little, 1, finite))
      rest = jnp.where(unseen, 0, jnp.where(little, by_product, by_difference))
      return jnp.concatenate([of.white(centred, moved.reshape(-1)), rest.reshape(-1)])

    if columns.ndim == 1:
      return one(columns.reshape(like.shape))
    if not columns.shape[1]:
      size = jax.eval_shape(one, like).shape
      return jnp.zeros_like(columns, shape=(*size, 0))
    return jax.vmap(one, in_axes=-1, out_axes=-1)(columns.reshape(*like.shape, -1))

  return white


def _fill_in(of: Base, centred: Any, columns: Array, observed: Array) -> Array:
  """Returns F of the columns [D] or [D, k], which are 0 at unobserved pixels."""
  condition = of.primitives.condition
  assert condition is not None
  return _columns(lambda v: condition(centred, v, observed).mean, columns, observed)


def _columns(function: Callable[[Array], Array], columns: Array, like: Array) -> Array:
  """Returns a function of images of the columns [D] or [D, k], as columns."""
  images = columns.reshape(*like.shape, *columns.shape[1:])
  if columns.ndim == 1:
    return function(images).reshape(-1)
  if not columns.shape[1]:
    return columns
  return jax.vmap(function, in_axes=-1, out_axes=-1)(images).reshape(columns.shape)


def _centred(params: Any) -> Any:
  """Returns parameters of the same distribution with a mean of zeros, which loses no digits."""
  if hasattr(params, 'base'):
    return params._replace(base=_centred(params.base))
  return params._replace(mean=jnp.zeros_like(params.mean))
