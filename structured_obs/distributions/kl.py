"""Kullback-Leibler divergences between Gaussians, in closed form by pair; nats.

KL(p || q) = 1/2 [tr(cov_q^-1 cov_p) + d^T cov_q^-1 d - D + log |cov_q| - log |cov_p|]

with d the difference of the means. The table below holds the pairs with a closed form, by the types of
the two parameter records. `kl_monte_carlo` estimates any other pair, and says how well.

Letters: D = H W C pixels; R rank.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.distributions.diagonal import Diagonal
from structured_obs.distributions.low_rank import LowRank
from structured_obs.linalg import woodbury

Array = jax.Array
Family = base.Family


class Estimate(NamedTuple):
  """A Monte Carlo estimate."""

  value: Array  # []
  standard_error: Array  # []


def kl_divergence(family_p: Family, p: Any, family_q: Family, q: Any) -> Array:
  """KL(p || q) of two distributions over one image, in closed form. [], nats.

  Raises:
    ValueError: the pair has no closed form here, or the images differ in shape.
  """
  _check_same_image(family_p, p, family_q, q)
  pair = type(p), type(q)
  if pair not in CLOSED_FORMS:
    known = ', '.join(f'{a.__name__} || {b.__name__}' for a, b in CLOSED_FORMS)
    raise ValueError(
      f'kl_divergence has no closed form for {pair[0].__name__} || {pair[1].__name__}; it has '
      f'{known}. kl_monte_carlo estimates any pair.'
    )
  return CLOSED_FORMS[pair](p, q)


def kl_monte_carlo(
  key: Array, family_p: Family, p: Any, family_q: Family, q: Any, samples: int = 1000
) -> Estimate:
  """Estimate KL(p || q) of any two distributions by the mean of log p - log q over samples of p."""
  _check_same_image(family_p, p, family_q, q)
  if samples < 2:
    raise ValueError(f'samples must be at least 2, to give a standard error; got {samples}.')

  def difference(key: Array) -> Array:
    x = family_p.sample(key, p)
    return family_p.log_prob(p, x) - family_q.log_prob(q, x)

  differences = jax.lax.map(difference, jax.random.split(key, samples))
  return Estimate(jnp.mean(differences), jnp.std(differences, ddof=1) / samples**0.5)


def _low_rank(p: LowRank, q: LowRank) -> Array:
  # tr(cov_q^-1 cov_p) splits into D_p and the columns of P_p. The columns go through the ridge
  # identity, and D_p is compared with D_q pixel by pixel, so that nothing large cancels.
  inverse_scale = jax.lax.rsqrt(q.cov_diag).reshape(-1)
  factor_p = p.cov_factor.reshape(inverse_scale.size, -1) * inverse_scale[:, None]
  cap_p = woodbury.capacitance(_rows(p), jax.lax.rsqrt(p.cov_diag).reshape(-1))
  cap_q = woodbury.capacitance(_rows(q), inverse_scale)
  difference = (p.mean - q.mean).reshape(-1) * inverse_scale
  columns = jnp.concatenate([factor_p, difference[:, None]], axis=1)
  whitened = jax.vmap(woodbury.whiten, in_axes=(None, 1))(cap_q, columns)
  ratio = (p.cov_diag / q.cov_diag).reshape(-1)
  pixels = jnp.sum(ratio - 1 - jnp.log(ratio)) - jnp.sum(ratio * woodbury.leverage(cap_q))
  rest = base.squared_norm(whitened) + cap_q.log_det - cap_p.log_det
  return base.nan_unless_finite(0.5 * (pixels + rest))


def _rows(params: LowRank) -> Array:
  return params.cov_factor.reshape(params.mean.size, -1)


def _as_low_rank(params: Diagonal | LowRank) -> LowRank:
  """The same distribution with one positive variance for every pixel; others become NaN."""
  if isinstance(params, Diagonal):
    empty = jnp.zeros_like(params.mean, shape=(*params.mean.shape, 0))
    return LowRank(params.mean, empty, jnp.exp(2 * params.log_scale))
  diag = jnp.where(params.cov_diag > 0, params.cov_diag, jnp.nan)
  return params._replace(cov_diag=jnp.broadcast_to(diag, params.mean.shape))


def _diagonal_and_low_rank(p: Diagonal | LowRank, q: Diagonal | LowRank) -> Array:
  return _low_rank(_as_low_rank(p), _as_low_rank(q))


def _check_same_image(family_p: Family, p: Any, family_q: Family, q: Any) -> None:
  shape_p, shape_q = family_p.mean(p).shape, family_q.mean(q).shape
  if shape_p != shape_q:
    raise ValueError(f'p and q must be over images of one shape; got {shape_p} and {shape_q}.')


CLOSED_FORMS: dict[tuple[type, type], Callable[[Any, Any], Array]] = {
  (Diagonal, Diagonal): _diagonal_and_low_rank,
  (Diagonal, LowRank): _diagonal_and_low_rank,
  (LowRank, Diagonal): _diagonal_and_low_rank,
  (LowRank, LowRank): _diagonal_and_low_rank,
}
