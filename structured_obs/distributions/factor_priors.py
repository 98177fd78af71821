"""Priors of the Cholesky factor of a precision: terms of a training objective, in nats.

Letters: D pixels; l the log diagonal of L, b = -off_diag exp(-l) (`distributions.sparse_precision`).

  normal    l ~ N(-log initial_scale, scale^2) and b ~ N(0, scale^2), every entry by itself
  wishart   L L^T ~ Wishart with D - 1 + scale degrees of freedom and the mean 1 / initial_scale^2 on its
            diagonal: its density as one of L, restricted to L's pattern and up to a constant
  coefficients  b ~ N(0, scale^2), and nothing about l

The first and the last bound how far a pixel's prediction can lean on each neighbour, whatever the scale
of the data; the last leaves alone variances that differ much between pixels. The second is the prior of
the paper's authors: an L2 penalty on L and a weight on its log diagonal.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base
from structured_obs.option_values import Choice, Scale, When

Array = jax.Array

PRIORS = ('none', 'normal', 'wishart', 'coefficients')
Name = Annotated[str, Choice(PRIORS)]
WITH_PRIOR = When('prior', tuple(name for name in PRIORS if name != 'none'))


@option_values.checked('a prior')
def log_prior(name: Name, scale: Scale, initial_scale: Scale) -> Callable[[Any], Array] | None:
  """Returns `params -> []`, nats, of records with `log_diag`, `off_diag` and `cross`.

  None without a prior.

  Args:
    name: one of `PRIORS`.
    scale: parameter of the prior.
    initial_scale: scale of the data at the start.

  Raises:
    TypeError, ValueError: the name is unknown or the scale out of its range.
  """
  if name == 'none':
    return None

  def of_normals(*entries: Array) -> Array:
    constant = sum(a.size for a in entries) * (math.log(scale) + 0.5 * base.LOG_2PI)
    return -0.5 * base.squared_norm(entries) / scale**2 - constant

  def coefficients(params: Any) -> Array:
    params = base.as_arrays(params)
    inverse = jnp.exp(-params.log_diag)[..., None]
    return of_normals(params.off_diag * inverse, params.cross * inverse)

  def normal(params: Any) -> Array:
    log_diag = base.as_arrays(params).log_diag
    return coefficients(params) + of_normals(log_diag + math.log(initial_scale))

  def wishart(params: Any) -> Array:
    params = base.as_arrays(params)
    size = params.log_diag.size
    degrees = size - 1 + scale
    variance = 1 / (degrees * initial_scale**2)
    entries = (jnp.exp(params.log_diag), params.off_diag, params.cross)
    # The Jacobian of L -> L L^T weighs pixel j's log diagonal by D - j.
    order = jnp.arange(size, 0, -1).astype(params.log_diag.dtype).reshape(params.log_diag.shape)
    log_diag = jnp.sum((degrees - size - 1 + order) * params.log_diag)
    return log_diag - 0.5 * base.squared_norm(entries) / variance

  return {'normal': normal, 'wishart': wishart, 'coefficients': coefficients}[name]
