"""Constraints on what a model reports, held by multipliers that are learnt with its parameters.

To minimise a loss subject to g <= 0, where g is how far the mean of a statistic lies beyond its bound,
the modified differential method of multipliers descends on the parameters and ascends on a multiplier:

  parameters:  - rate * (grad loss + max(0, multiplier + damping g) grad g)
  multiplier:  max(0, multiplier + multiplier_rate g)

Where it settles, the conditions of Karush, Kuhn and Tucker hold: the multiplier is the constraint's
price in units of the loss, 0 if the bound does not bind. Both come out of one gradient of one scalar,
of the parameters and the multipliers together; the statistic is a mean over images, so that neither the
damping nor the multiplier depends on the size of the batch.

Letters: B images.

References: Platt and Barr, "Constrained Differential Optimization", 1988, section 3; Langley et al.,
"Structured Uncertainty in the Observation Space of Variational Autoencoders", 2022, equation 3. Their
own code sums over the batch and lets the damping make the coefficient negative, which drives a
statistic *to* its bound from both sides.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from structured_obs.option_records import Record
from structured_obs.option_values import NotNegative, Positive

Array = jax.Array


class Constraint(NamedTuple):
  """The mean of a statistic stays at most at a bound, or with sign -1 at least."""

  bound: float  # in the statistic's units
  sign: int = 1  # 1: at most; -1: at least
  damping: float = 10.0  # per unit of the statistic squared; 0 lets the multiplier oscillate


class Options(NamedTuple):
  """Options of a constraint."""

  bound: Positive = 0.0  # has to be given
  damping: NotNegative = 10.0  # weight of the squared violation
  rate: Positive = 0.1  # step size of its multiplier, in units of the violation


class Held(NamedTuple):
  """A statistic that a constraint bounds."""

  statistic: str  # name in the stats of `Terms`
  per: str = ''  # option of the family that the bound is for each of, as 'rank'
  options: Record = Options


CONSTRAINTS = {
  'kl': Held('kl_z'),  # nats
  'entropy': Held('excess_entropy', per='rank'),  # nats for each column of a low-rank factor
}


def check(constraints: Mapping[str, Constraint]) -> None:
  """Raises ValueError unless every bound is finite, every sign 1 or -1, and no damping negative."""
  for name, constraint in constraints.items():
    if not math.isfinite(constraint.bound):
      raise ValueError(f'The bound of the constraint on {name} must be finite; got {constraint.bound}.')
    if constraint.sign not in (1, -1):
      raise ValueError(
        f'The sign of the constraint on {name} must be 1 (at most) or -1 (at least); got '
        f'{constraint.sign}.'
      )
    if not 0 <= constraint.damping < math.inf:
      raise ValueError(
        f'The damping of the constraint on {name} must be finite and at least 0; got '
        f'{constraint.damping}.'
      )


def initial_multipliers(constraints: Mapping[str, Constraint]) -> dict[str, Array]:
  """Returns a multiplier of 0 for every constraint. [] each."""
  return {name: jnp.zeros((), jnp.float32) for name in constraints}


def violations(constraints: Mapping[str, Constraint], stats: Mapping[str, Array]) -> dict[str, Array]:
  """Returns how far the mean of each statistic [B] lies beyond its bound; negative within. [] each.

  Raises:
    ValueError: the model reports no statistic of a constraint's name.
  """
  missing = sorted(set(constraints) - set(stats))
  if missing:
    raise ValueError(
      f'There is no statistic {", ".join(missing)} to constrain; the model reports '
      f'{", ".join(sorted(stats)) or "none"}.'
    )
  return {
    name: constraint.sign * (jnp.mean(stats[name]) - constraint.bound)
    for name, constraint in constraints.items()
  }


def penalty(
  constraints: Mapping[str, Constraint],
  multipliers: Mapping[str, Array],
  stats: Mapping[str, Array],
  axis_name: str | None = None,
) -> Array:
  """Returns the penalty to add to the loss. [].

  Its value and its gradient by what the statistics depend on are those of
  max(0, multiplier + damping g) g with the first factor held constant; its gradient by a multiplier is
  g, the direction in which `ascend` moves it.

  Args:
    constraints: by the name of a statistic.
    multipliers: of the same names. [] each.
    stats: [B] each, at least of these names.
    axis_name: of the mapped axis over devices, where each has a share of the batch; the coefficient is
      then that of the whole batch, as no mean of the devices' own gradients would make it.

  Raises:
    ValueError: a statistic is missing.
  """
  total = jnp.float32(0)
  for name, violation in violations(constraints, stats).items():
    price = multipliers[name].astype(violation.dtype)
    held, multiplier = jax.lax.stop_gradient((violation, price))
    whole = held if axis_name is None else jax.lax.pmean(held, axis_name)
    coefficient = jnp.maximum(0, multiplier + constraints[name].damping * whole)
    # The second product is 0 but for its derivative by the multiplier.
    total = total + (coefficient * violation + (price - multiplier) * held).astype(total.dtype)
  return total


def ascend(rates: Mapping[str, float]) -> optax.GradientTransformation:
  """Returns the projected ascent: multiplier <- max(0, multiplier + rate g) where the gradient is g.

  Args:
    rates: by the name of the statistic, the last in the path of its multiplier.
  """

  def scaled(updates: Any, _: object) -> Any:
    one = lambda path, gradient: rates[path[-1].key] * gradient  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, updates)

  return optax.chain(optax.stateless(scaled), optax.keep_params_nonnegative())
