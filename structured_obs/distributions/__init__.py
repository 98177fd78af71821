"""Distributions over images as pure functions; a family is one module here and one line below.

>>> import jax
>>> from structured_obs.distributions import low_rank
>>> params = low_rank.LowRank(
...   mean=jax.numpy.zeros((8, 8, 1)),
...   cov_factor=jax.random.normal(jax.random.key(0), (8, 8, 1, 3)),
...   cov_diag=jax.numpy.asarray(0.01),
... )
>>> x = low_rank.sample(jax.random.key(1), params)
>>> jax.jit(low_rank.log_prob)(params, x).shape
()
"""

from collections.abc import Callable
from typing import Any

from structured_obs import option_records, option_values
from structured_obs.distributions import (
  base,
  blur_kernels,
  circulant,
  dense_precision,
  diagonal,
  discretized_logistic_mixture,
  fitting,
  gaussian,
  kl,
  low_rank,
  low_rank_parts,
  projection,
  scaled,
  sparse_precision,
)
from structured_obs.distributions.fitting import fit
from structured_obs.distributions.projection import project

__all__ = [
  'FAMILIES',
  'base',
  'blur_kernels',
  'circulant',
  'dense_precision',
  'diagonal',
  'discretized_logistic_mixture',
  'family',
  'fit',
  'fitting',
  'gaussian',
  'kl',
  'low_rank',
  'low_rank_parts',
  'options',
  'project',
  'projection',
  'scaled',
  'sparse_precision',
]

FAMILIES: dict[str, Callable[..., base.Family[Any]]] = {
  'diagonal': diagonal.family,
  'low_rank': low_rank.family,
  'sparse_precision': sparse_precision.family,
  'dense_precision': dense_precision.family,
  'circulant': circulant.family,
  'scaled_circulant': scaled.circulant_family,
  'discretized_logistic_mixture': discretized_logistic_mixture.family,
}


def options(name: str, **overrides: Any) -> dict[str, Any]:
  """Returns every option of a family with its value: the defaults of its constructor, and these.

  Raises:
    TypeError: an option is of another type.
    ValueError: no family or option has this name, where the nearest names are suggested; or an option is
      out of its range, or contradicts another one.
  """
  known = option_values.Option(str, (option_values.Choice(tuple(FAMILIES)),), None)
  option_values.checked_value(option_values.Where('', 'distributions'), 'family', known, name)
  chosen = option_records.fill(FAMILIES[name], overrides, option_values.Where('', name))
  FAMILIES[name](**chosen)  # the constructor checks them together
  return chosen


def family(name: str, **overrides: Any) -> base.Family[Any]:
  """Returns a family by its name. Build it once per program: jit tells two equal ones apart."""
  return FAMILIES[name](**options(name, **overrides))
