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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from structured_obs import option_records, option_values
from structured_obs.distributions import (
  base,
  blur_kernels,
  circulant,
  colour,
  dense_precision,
  diagonal,
  discretized_logistic_mixture,
  fitting,
  gaussian,
  haar,
  kl,
  linear,
  low_rank,
  low_rank_parts,
  low_rank_update,
  mixture,
  projection,
  scaled,
  sparse_precision,
  student,
)
from structured_obs.distributions.distribution import Distribution as Distribution
from structured_obs.distributions.fitting import fit
from structured_obs.distributions.projection import project

__all__ = [
  'FAMILIES',
  'WRAPPERS',
  'Distribution',
  'base',
  'blur_kernels',
  'circulant',
  'colour',
  'dense_precision',
  'diagonal',
  'discretized_logistic_mixture',
  'family',
  'fit',
  'fitting',
  'gaussian',
  'haar',
  'kl',
  'linear',
  'low_rank',
  'low_rank_parts',
  'low_rank_update',
  'mixture',
  'options',
  'project',
  'projection',
  'scaled',
  'sparse_precision',
  'student',
  'wrapped',
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


# Families around any other; the first parameter of each is the family inside.
WRAPPERS: dict[str, Callable[..., base.Family[Any]]] = {
  'scaled': scaled.family,
  'colour': colour.family,
  'haar': haar.family,
  'low_rank_update': low_rank_update.family,
  'student': student.family,
  'mixture': mixture.family,
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
  chosen = options(name, **overrides)  # which says what is wrong with a name
  return FAMILIES[name](**chosen)


def wrapped(
  inner: base.Family[Any],
  wrappers: Sequence[str],
  options: Mapping[str, Mapping[str, Any]] | None = None,
) -> base.Family[Any]:
  """Returns a family inside wrappers, by their names, the innermost first.

  `wrapped(family('diagonal'), ('colour', 'haar'), {'haar': {'levels': 2}})` is
  `haar.family(colour.family(family('diagonal')), levels=2)`.

  Args:
    inner: the family inside.
    wrappers: names in `WRAPPERS`.
    options: of each wrapper by its name; those left out have their defaults.

  Raises:
    TypeError: an option is of another type.
    ValueError: there is no such wrapper or option, a wrapper is used twice, or it can not be used here.
  """
  base.check_family(inner)
  if isinstance(wrappers, str) or not all(isinstance(name, str) for name in wrappers):
    raise TypeError(f'wrappers must be a sequence of names; got {wrappers!r}.')
  record = option_records.SeveralOf(WRAPPERS, 'options')
  found: dict[str, Any] = {'wrappers': tuple(wrappers), 'options': dict(options or {})}
  option_records.fill_several(found, 'wrappers', record, option_values.Where('', 'distributions'))
  for name in found['wrappers']:
    inner = WRAPPERS[name](inner, **found['options'][name])
  return inner
