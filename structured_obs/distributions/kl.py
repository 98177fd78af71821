"""Kullback-Leibler divergences between Gaussians, in nats: closed forms for pairs of families.

KL(p || q) = 1/2 [tr(cov_q^-1 cov_p) + d^T cov_q^-1 d - D + log |cov_q| - log |cov_p|]

with d the difference of the means. The table below holds the pairs with a closed form, by the types of
the two parameter records. Any other pair of Gaussians takes dense matrices, over images small enough;
`kl_monte_carlo` estimates any pair, with a standard error.

Letters: D = H W C pixels; R rank.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import (
  base,
  circulant,
  diagonal,
  gaussian,
  links,
  low_rank,
  posterior,
  sparse_precision,
)
from structured_obs.distributions.circulant import Circulant, Reflective
from structured_obs.distributions.diagonal import Diagonal
from structured_obs.distributions.low_rank import LowRank
from structured_obs.distributions.sparse_precision import SparsePrecision
from structured_obs.linalg import selected_inverse, sharding, sparse_triangular, woodbury

Array = jax.Array
Family = base.Family


class Estimate(NamedTuple):
  """A Monte Carlo estimate."""

  value: Array  # []
  standard_error: Array  # []


def kl_divergence(family_p: Family, p: Any, family_q: Family, q: Any) -> Array:
  """Returns KL(p || q) of two distributions over one image, in closed form. [], nats.

  Args:
    family_p: of p.
    p: parameters of one image.
    family_q: of q.
    q: parameters of one image.

  Raises:
    ValueError: the pair has no closed form here, or the images differ in shape.
  """
  _check_same_image(family_p, p, family_q, q)
  pair = type(p), type(q)
  if pair in CLOSED_FORMS:
    return CLOSED_FORMS[pair](base.as_arrays(p), base.as_arrays(q))
  if family_p.gaussian and family_q.gaussian and family_p.mean(p).size <= posterior.MAX_DENSE_SIZE:
    return _dense(family_p, p, family_q, q)
  known = ', '.join(f'{a.__name__} || {b.__name__}' for a, b in CLOSED_FORMS)
  raise ValueError(
    f'kl_divergence has no closed form for {pair[0].__name__} || {pair[1].__name__}; it has '
    f'{known}, and dense matrices for any two Gaussians of at most {posterior.MAX_DENSE_SIZE} pixels. '
    'kl_monte_carlo estimates any pair.'
  )


def kl_monte_carlo(
  key: Array, family_p: Family, p: Any, family_q: Family, q: Any, samples: int = 1000
) -> Estimate:
  """Estimates KL(p || q) of any two distributions by the mean of log p - log q over samples of p.

  Args:
    key: one jax.random.key.
    family_p: of p.
    p: parameters of one image.
    family_q: of q.
    q: parameters of one image.
    samples: at least 2.
  """
  _check_same_image(family_p, p, family_q, q)

  def difference(key: Array) -> Array:
    x = family_p.sample(key, p)
    return family_p.log_prob(p, x) - family_q.log_prob(q, x)

  return _average(difference, key, samples)


def entropy_monte_carlo(key: Array, family: Family, params: Any, samples: int = 1000) -> Estimate:
  """Estimates the entropy of any distribution by the mean of -log p over samples of it; nats.

  It is the Shannon entropy for gray levels, and the differential entropy for real values.

  Args:
    key: one jax.random.key.
    family: any family.
    params: of one image.
    samples: at least 2.
  """
  base.check_family(family)
  return _average(lambda key: -family.log_prob(params, family.sample(key, params)), key, samples)


def _average(function: Callable[[Array], Array], key: Array, samples: int) -> Estimate:
  """Returns the mean of a random number, given a key, and the standard error."""
  base.check_count('samples', samples, 2, 2**31 - 1, 'that of the largest int32')
  found = jax.lax.map(function, jax.random.split(key, samples))
  return Estimate(jnp.mean(found), jnp.std(found, ddof=1) / samples**0.5)


def _low_rank(p: LowRank, q: LowRank) -> Array:
  # tr(cov_q^-1 cov_p) splits into D_p and the columns of P_p. The columns go through the ridge
  # identity, and D_p is compared with D_q pixel by pixel, so that nothing large cancels.
  inverse_scale = jax.lax.rsqrt(q.cov_diag).reshape(-1)
  scale_p = jax.lax.rsqrt(p.cov_diag).reshape(-1)
  cap_p = woodbury.capacitance(_rows(p), woodbury.by_scale(scale_p))
  cap_q = woodbury.capacitance(_rows(q), woodbury.by_scale(inverse_scale))
  difference = (p.mean - q.mean).reshape(-1)
  columns = jnp.concatenate([_rows(p), difference[:, None]], axis=1)
  whitened = jax.vmap(woodbury.whiten, in_axes=(None, 1))(cap_q, columns)
  ratio = (p.cov_diag / q.cov_diag).reshape(-1)
  pixels = jnp.sum(ratio - 1 - jnp.log(ratio)) - jnp.sum(ratio * woodbury.leverage(cap_q))
  rest = base.squared_norm(whitened) + cap_q.log_det - cap_p.log_det
  return base.nan_unless_finite(0.5 * (pixels + rest))


def _rows(params: LowRank) -> Array:
  return params.cov_factor.reshape(params.mean.size, -1)


def _as_low_rank(params: Diagonal | LowRank) -> LowRank:
  """Returns the same distribution with one variance for every pixel, NaN unless all are positive."""
  if isinstance(params, Diagonal):
    empty = jnp.zeros_like(params.mean, shape=(*params.mean.shape, 0))
    return LowRank(params.mean, empty, jnp.exp(2 * params.log_scale))
  diag = base.positive_or_nan(params.cov_diag)
  return params._replace(cov_diag=jnp.broadcast_to(diag, params.mean.shape))


@sharding.on_own_mesh
def _diagonal_and_low_rank(p: Diagonal | LowRank, q: Diagonal | LowRank) -> Array:
  return _low_rank(_as_low_rank(p), _as_low_rank(q))


def _by_trace(trace: Callable[[Any, Any], Array]) -> Callable[[Any, Any], Array]:
  """Returns the divergence as a function of p and q, given the function tr(cov_q^-1 cov_p)."""

  def divergence(p: Any, q: Any) -> Array:
    ops_p, ops_q = MODULES[type(p)], MODULES[type(q)]
    distance = base.squared_norm(ops_q.whiten(q, p.mean - q.mean))
    log_dets = ops_q.log_det(q) - ops_p.log_det(p)
    return base.nan_unless_finite(0.5 * (trace(p, q) - p.mean.size + distance + log_dets))

  return divergence


def _any_diagonal(p: Any, q: Diagonal) -> Array:
  return jnp.sum(MODULES[type(p)].variance(p) * jnp.exp(-2 * q.log_scale))


def _diagonal_any(p: Diagonal, q: Any) -> Array:
  return jnp.sum(MODULES[type(q)].precision_diagonal(q) * jnp.exp(2 * p.log_scale))


def _low_rank_any(p: LowRank, q: Any) -> Array:
  own = jnp.sum(MODULES[type(q)].precision_diagonal(q) * _as_low_rank(p).cov_diag)
  columns = jax.vmap(MODULES[type(q)].whiten, in_axes=(None, -1))(q, p.cov_factor)
  return own + jnp.sum(jnp.square(columns))


def _sparse_low_rank(p: SparsePrecision, q: LowRank) -> Array:
  # cov_q^-1 = D^-1 - Z Z^T with Z = D^-1 P C^-1/2, so that R forward solves are enough. The two terms
  # nearly cancel where D is small: relative errors of 2e-4 in float32 at D = 1e-5.
  inverse_scale = jax.lax.rsqrt(_as_low_rank(q).cov_diag).reshape(-1)
  cap = woodbury.capacitance(_rows(q), woodbury.by_scale(inverse_scale))
  columns = cap.half * inverse_scale[:, None]
  images = columns.T.reshape(-1, *p.mean.shape)
  half = jax.vmap(sparse_precision.solve, in_axes=(None, 0))(p, images)
  own = sparse_precision.variance(p).reshape(-1) * jnp.square(inverse_scale)
  return jnp.sum(own) - jnp.sum(jnp.square(half))


def _sparse_sparse(p: SparsePrecision, q: SparsePrecision) -> Array:
  # tr(L^T cov_p L) takes cov_p between the neighbours of one pixel alone.
  (pattern_p, factor_p), (pattern_q, factor_q) = links.factor(p), links.factor(q)
  if pattern_p.split and pattern_q.split:
    offsets = pattern_p.offsets, pattern_q.offsets
    each = jax.vmap(lambda a, b: _quadratic(a, offsets[0], b, offsets[1]))(factor_p, factor_q)
    return jnp.sum(each)
  (offsets_p, factor_p), (offsets_q, factor_q) = links.joined(p), links.joined(q)
  return _quadratic(factor_p, offsets_p, factor_q, offsets_q)


def _quadratic(
  factor_p: links.Factor, offsets_p: links.Offsets, factor_q: links.Factor, offsets_q: links.Offsets
) -> Array:
  """Returns tr(L_q^T (L_p L_p^T)^-1 L_q) on one grid."""
  taps = ((0, 0), *offsets_q)
  rows, columns = (max(abs(tap[axis]) for tap in taps) for axis in (0, 1))
  cov = selected_inverse.covariances(factor_p, offsets_p, rows, 2 * columns)
  cov = jnp.pad(cov, ((0, rows), (columns, columns), (0, 0), (0, 0)))
  weights = sparse_triangular.mask(factor_q.weights, offsets_q)
  weights = jnp.concatenate([factor_q.diag[..., None], weights], axis=-1)
  height, width, count = weights.shape
  pairs = [(a, b) for a in range(count) for b in range(count) if taps[a] <= taps[b]]
  first, second = jnp.asarray(pairs, jnp.int32).T
  steps = jnp.asarray(taps, jnp.int32)

  def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
    a, b = pair
    (down, right), (between, across) = steps[a], steps[b] - steps[a]
    zero = jnp.zeros_like(down)
    start = (down, right + columns, between, across + 2 * columns)
    near = jax.lax.dynamic_slice(cov, start, (height, width, 1, 1))[..., 0, 0]
    ends = (jax.lax.dynamic_slice(weights, (zero, zero, i), (height, width, 1)) for i in (a, b))
    twice = jnp.where(a == b, 1, 2).astype(near.dtype)
    return total + twice * jnp.sum(math.prod(end[..., 0] for end in ends) * near), None

  nothing = jnp.sum(jnp.zeros_like(factor_q.diag))  # on its mesh, unlike a Python number
  return jax.lax.scan(add, nothing, (first, second))[0]


def _one_basis(p: Circulant | Reflective, q: Circulant | Reflective) -> Array:
  # Eigenvalue by eigenvalue, so that nothing cancels between near distributions.
  (own, basis), (other, _) = circulant.checked(p), circulant.checked(q)
  log_ratio = own.log_spectrum - other.log_spectrum
  spectra = circulant.total(p, basis, jnp.expm1(log_ratio) - log_ratio)
  distance = base.squared_norm(circulant.whiten(q, p.mean - q.mean))
  return base.nan_unless_finite(0.5 * (spectra + distance))


def _dense(family_p: Family, p: Any, family_q: Family, q: Any) -> Array:
  """Returns the divergence of any two Gaussians, over an image small enough for a dense covariance."""
  ops_p, ops_q = family_p.gaussian, family_q.gaussian
  assert ops_p is not None
  assert ops_q is not None
  columns = gaussian.covariance(family_p, p).T.reshape(-1, *family_p.mean(p).shape)
  products = jax.vmap(ops_q.precision_matvec, in_axes=(None, 0))(q, columns)
  size = len(columns)
  trace = jnp.trace(products.reshape(size, size))
  distance = gaussian.mahalanobis(family_q, q, family_p.mean(p))
  log_dets = ops_q.log_det(q) - ops_p.log_det(p)
  return base.nan_unless_finite(0.5 * (trace - size + distance + log_dets))


def _check_same_image(family_p: Family, p: Any, family_q: Family, q: Any) -> None:
  base.check_family(family_p)
  base.check_family(family_q)
  shape_p, shape_q = family_p.mean(p).shape, family_q.mean(q).shape
  if shape_p != shape_q:
    raise ValueError(f'p and q must be over images of one shape; got {shape_p} and {shape_q}.')


CLOSED_FORMS: dict[tuple[type, type], Callable[[Any, Any], Array]] = {
  (Diagonal, Diagonal): _diagonal_and_low_rank,
  (Diagonal, LowRank): _diagonal_and_low_rank,
  (LowRank, Diagonal): _diagonal_and_low_rank,
  (LowRank, LowRank): _diagonal_and_low_rank,
  (SparsePrecision, Diagonal): _by_trace(_any_diagonal),
  (Diagonal, SparsePrecision): _by_trace(_diagonal_any),
  (SparsePrecision, LowRank): _by_trace(_sparse_low_rank),
  (LowRank, SparsePrecision): _by_trace(_low_rank_any),
  (SparsePrecision, SparsePrecision): _by_trace(_sparse_sparse),
  (Circulant, Circulant): _one_basis,
  (Circulant, Diagonal): _by_trace(_any_diagonal),
  (Diagonal, Circulant): _by_trace(_diagonal_any),
  (LowRank, Circulant): _by_trace(_low_rank_any),
  (Reflective, Reflective): _one_basis,
  (Reflective, Diagonal): _by_trace(_any_diagonal),
  (Diagonal, Reflective): _by_trace(_diagonal_any),
  (LowRank, Reflective): _by_trace(_low_rank_any),
}
MODULES: dict[type, Any] = {
  Diagonal: diagonal,
  LowRank: low_rank,
  SparsePrecision: sparse_precision,
  Circulant: circulant,
  Reflective: circulant,
}
