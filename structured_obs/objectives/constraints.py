"""Constraints on what a model reports, held by multipliers that are learnt with its parameters.

To minimise a loss subject to g <= 0, where g is how far the mean of a statistic lies beyond its bound,
the modified differential method of multipliers descends on the parameters and ascends on a multiplier:

  parameters:  - rate * (grad loss + max(0, multiplier + damping g) grad g)
  multiplier:  max(0, multiplier + multiplier_rate g)

Without the two max(0, .), it holds g = 0: the multiplier may then have either sign. Where it settles,
the conditions of Karush, Kuhn and Tucker hold: the multiplier is the constraint's price in units of the
loss, 0 if an inequality does not bind. Both come out of one gradient of one scalar, of the parameters
and the multipliers together; the statistic is a mean over images, so that neither the damping nor the
multiplier depends on the size of the batch.

Letters: B images; D = H W C values of an image.

References: Platt and Barr, "Constrained Differential Optimization", 1988, section 3; Langley et al.,
"Structured Uncertainty in the Observation Space of Variational Autoencoders", 2022, equation 3. Their
own code sums over the batch and lets the damping make the coefficient negative, which drives a
statistic *to* its bound from both sides, as 'equal' does here.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from structured_obs.option_records import Record
from structured_obs.option_values import Choice, NotNegative, Positive

Array = jax.Array


AT_MOST, AT_LEAST, EQUAL = KINDS = ('at_most', 'at_least', 'equal')
Kind = Annotated[str, Choice(KINDS)]


class Constraint(NamedTuple):
  """A bound on the mean of a statistic, or a value for it."""

  bound: float  # in the statistic's units, above its zero
  kind: str = AT_MOST  # of KINDS
  damping: float = 10.0  # per unit of the violation squared; 0 lets the multiplier oscillate
  zero: float = 0.0  # value of the statistic from which the bound is measured
  unit: float = 1.0  # of violations, in the statistic's units


class Options(NamedTuple):
  """Options of a constraint."""

  bound: Positive = 0.0  # has to be given
  damping: NotNegative = 10.0  # weight of the squared violation
  rate: Positive = 0.1  # step size of its multiplier, in units of the violation
  kind: Kind = AT_MOST  # 'at_most', 'at_least' or 'equal'


class EntropyOptions(NamedTuple):
  """Options of the constraint on the entropy."""

  bound: Positive = 0.0  # has to be given
  damping: NotNegative = 10.0  # weight of the squared violation
  rate: Positive = 0.1  # step size of its multiplier, in units of the violation
  kind: Kind = AT_MOST  # 'at_most', 'at_least' or 'equal'
  # Variance of the pixel noise above whose entropy the bound is; 0: the family's own noise.
  floor: NotNegative = 0.0


class Held(NamedTuple):
  """A statistic that a constraint bounds."""

  statistic: str  # name in the stats of `Terms`
  label: str  # in sentences
  unit: str  # in sentences
  per_rank: bool = False  # whether the bound is for each column of a low-rank factor
  relative: bool = False  # whether violations are in units of the bound
  options: Record = Options


CONSTRAINTS = {
  'kl': Held('kl_z', 'KL', 'nats'),
  'entropy': Held('excess_entropy', 'entropy', 'nats', per_rank=True, options=EntropyOptions),
  'trace': Held('factor_variance', 'variance of the factor', 'per value', relative=True),
}
ENTROPY = 'entropy'  # statistic of the entropy above a fixed floor


def statistic_of(name: str, options: Mapping[str, Any]) -> str:
  """Returns the statistic that a constraint of `CONSTRAINTS` with these options bounds."""
  return ENTROPY if options.get('floor') else CONSTRAINTS[name].statistic


def make(name: str, options: Mapping[str, Any], rank: int, size: int) -> Constraint:
  """Returns a constraint of `CONSTRAINTS`, on the statistic `statistic_of`.

  Args:
    name: of the constraint.
    options: its options.
    rank: columns of the family's low-rank factors together.
    size: D of the images.
  """
  held = CONSTRAINTS[name]
  bound, floor = options['bound'] * (rank if held.per_rank else 1), options.get('floor', 0.0)
  zero = 0.5 * size * math.log(2 * math.pi * math.e * floor) if floor else 0.0
  return Constraint(bound, options['kind'], options['damping'], zero, bound if held.relative else 1.0)


def check(constraints: Mapping[str, Constraint]) -> None:
  """Raises ValueError unless all bounds and units are valid, every kind known, no damping negative."""
  for name, constraint in constraints.items():
    if not math.isfinite(constraint.bound) or not math.isfinite(constraint.zero):
      raise ValueError(
        f'The bound of the constraint on {name} must be finite; got {constraint.bound} above '
        f'{constraint.zero}.'
      )
    if constraint.kind not in KINDS:
      raise ValueError(
        f'The kind of the constraint on {name} must be one of {", ".join(KINDS)}; got '
        f'{constraint.kind!r}.'
      )
    if not 0 <= constraint.damping < math.inf:
      raise ValueError(
        f'The damping of the constraint on {name} must be finite and at least 0; got '
        f'{constraint.damping}.'
      )
    if not 0 < constraint.unit < math.inf:
      raise ValueError(
        f'The unit of the constraint on {name} must be finite and above 0; got {constraint.unit}.'
      )


def initial_multipliers(statistics: Iterable[str]) -> dict[str, Array]:
  """Returns a multiplier of 0 for every statistic that is constrained. [] each."""
  return {name: jnp.zeros((), jnp.float32) for name in statistics}


def violations(constraints: Mapping[str, Constraint], stats: Mapping[str, Array]) -> dict[str, Array]:
  """Returns how far the mean of each statistic [B] lies beyond its bound; negative within. [] each.

  Of a constraint to a value, it is positive above the value.

  Raises:
    ValueError: the model reports no statistic of a constraint's name.
  """
  missing = sorted(set(constraints) - set(stats))
  if missing:
    raise ValueError(
      f'There is no statistic {", ".join(missing)} to constrain; the model reports '
      f'{", ".join(sorted(stats)) or "none"}.'
    )
  return {name: _violation(one, stats[name]) for name, one in constraints.items()}


def _violation(constraint: Constraint, statistic: Array) -> Array:
  above = jnp.mean(statistic) - constraint.zero - constraint.bound
  return (-above if constraint.kind == AT_LEAST else above) / constraint.unit


def penalty(
  constraints: Mapping[str, Constraint],
  multipliers: Mapping[str, Array],
  stats: Mapping[str, Array],
  axis_name: str | None = None,
) -> Array:
  """Returns the penalty to add to the loss. [].

  Its value and its gradient by what the statistics depend on are those of
  max(0, multiplier + damping g) g with the first factor held constant, without the max(0, .) for
  'equal'; its gradient by a multiplier is g, the direction in which `ascend` moves it.

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
    coefficient = multiplier + constraints[name].damping * whole
    if constraints[name].kind != EQUAL:
      coefficient = jnp.maximum(0, coefficient)
    # The second product is 0 but for its derivative by the multiplier.
    total = total + (coefficient * violation + (price - multiplier) * held).astype(total.dtype)
  return total


def ascend(rates: Mapping[str, float], free: Collection[str] = ()) -> optax.GradientTransformation:
  """Returns the projected ascent: multiplier <- max(0, multiplier + rate g) where the gradient is g.

  Args:
    rates: by the name of the statistic, the last in the path of its multiplier.
    free: names of those that are not projected, because their constraint is 'equal'.
  """
  project = optax.keep_params_nonnegative()

  def scaled(updates: Any, _: object) -> Any:
    one = lambda path, gradient: rates[path[-1].key] * gradient  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, updates)

  def projected(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    kept, state = project.update(updates, state, params)
    one = lambda path, update, inside: update if path[-1].key in free else inside  # noqa: E731
    return jax.tree_util.tree_map_with_path(one, updates, kept), state

  ascent = optax.GradientTransformation(project.init, projected)
  return optax.chain(optax.stateless(scaled), ascent)
