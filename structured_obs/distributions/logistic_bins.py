"""Probability of one gray level, or of several, under a logistic variable rounded to the nearest level.

With F the logistic function, and a < b the edges of a bin of levels in units of the scale,

  log(F(b) - F(a)) = log(1 - exp(a - b)) - softplus(a) - softplus(-b),
  softplus(a) = max(a, 0) + log(1 + exp(-|a|)):

three terms of one sign that float32 keeps at any scale. What is in the logarithms is bounded, so that
those of several channels are one logarithm of a product. 1 - exp(-w) is 2 t / (1 + t), t = tanh(w / 2),
in which nothing cancels.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Bin(NamedTuple):
  """Probability of the levels, part exp(log_rest), and the derivatives of its logarithm."""

  part: Array  # from 0.15 to 1, to be multiplied for several channels before a logarithm is taken
  log_rest: Array
  by_loc: Array
  by_log_scale: Array


def of_level(value: Array, loc: Array, log_scale: Array, levels: int) -> Bin:
  """Returns the bin of a value on the grid, -1 + 2 k / (levels - 1). Of any shapes that broadcast.

  Args:
    value: on the grid.
    loc: location of the logistic variable.
    log_scale: log of its scale.
    levels: gray levels of the grid.
  """
  return of_levels(value, value, loc, log_scale, levels)


def of_levels(least: Array, largest: Array, loc: Array, log_scale: Array, levels: int) -> Bin:
  """Returns the bin of all levels from `least` to `largest`, values on the grid; else as `of_level`."""
  inverse, half = jnp.exp(-log_scale), 1 / (levels - 1)
  first, last = least == -1, largest == 1
  inner = ~(first | last)
  low = jnp.where(first, -jnp.inf, (least - half - loc) * inverse)
  high = jnp.where(last, jnp.inf, (largest + half - loc) * inverse)
  # exp(-|edge|), with the derivative of a side at 0: exp and softplus of both edges follow from it.
  right, left = low > 0, high < 0  # of the location
  below, above = jnp.exp(jnp.where(right, -low, low)), jnp.exp(jnp.where(left, high, -high))
  across = 2 * half + (largest - least)
  width = across * inverse
  tanh = jnp.tanh(width / 2)
  narrow = inner & (width < 1)
  # 1 - exp(-width), of a narrow bin in units of its width, whose logarithm is known.
  filled = jnp.where(inner, 2 * tanh / ((1 + tanh) * jnp.where(narrow, width, 1)), 1)
  outside = jnp.where(left, high, 0) - jnp.where(right, low, 0)
  log_rest = outside + jnp.where(narrow, jnp.log(across) - log_scale, 0)
  under, over = jnp.where(right, 1, below) / (1 + below), jnp.where(left, 1, above) / (1 + above)
  shrinking = jnp.where(inner, width * (1 - tanh) / (2 * tanh), 0)  # width / (exp(width) - 1)
  return Bin(
    part=filled / ((1 + below) * (1 + above)),
    log_rest=log_rest,
    by_loc=(under - over) * inverse,
    by_log_scale=under * jnp.where(first, 0, low) - over * jnp.where(last, 0, high) - shrinking,
  )


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def log_truncated(
  value: Array, least: Array, largest: Array, loc: Array, log_scale: Array, levels: int
) -> Array:
  """Returns the log probability of a level, given that it is from `least` to `largest`. Any shapes.

  It is 0 where there is but one level. Only the location and the log scale have derivatives.

  Args:
    value: on the grid, -1 + 2 k / (levels - 1), from least to largest.
    least: the least possible value, on the grid.
    largest: the largest.
    loc: location of the logistic variable before it is rounded and truncated.
    log_scale: log of its scale.
    levels: gray levels of the grid.
  """
  return _truncated(value, least, largest, loc, log_scale, levels)[0]


@log_truncated.defjvp
def _log_truncated_jvp(levels: int, primals: tuple[Any, ...], tangents: tuple[Any, ...]):
  value, least, largest, loc, log_scale = primals
  found, by_loc, by_log_scale = _truncated(value, least, largest, loc, log_scale, levels)
  return found, by_loc * tangents[3] + by_log_scale * tangents[4]


def _truncated(
  value: Array, least: Array, largest: Array, loc: Array, log_scale: Array, levels: int
) -> tuple[Array, Array, Array]:
  """Returns the log probability of `log_truncated` and its derivatives by location and log scale."""
  one = of_level(value, loc, log_scale, levels)
  possible = of_levels(least, largest, loc, log_scale, levels)
  found = jnp.log(one.part / possible.part) + (one.log_rest - possible.log_rest)
  return found, one.by_loc - possible.by_loc, one.by_log_scale - possible.by_log_scale


def draw(
  uniform: Array, least: Array, largest: Array, loc: Array, log_scale: Array, levels: int
) -> Array:
  """Returns a logistic variable between the outer edges of two levels. Any shapes that broadcast.

  In the tail that it is in, it is as exact as its logarithm.

  Args:
    uniform: in [0, 1).
    least: value of the least level, on the grid; black has no edge below.
    largest: value of the largest level; white has no edge above.
    loc: location of the variable before it is truncated.
    log_scale: log of its scale.
    levels: of the grid.
  """
  scale, half = jnp.exp(log_scale), 1 / (levels - 1)
  low = jnp.where(least == -1, -jnp.inf, (least - half - loc) / scale)
  high = jnp.where(largest == 1, jnp.inf, (largest + half - loc) / scale)
  mirrored = low + high > 0  # then it is drawn in the lower tail, and mirrored back
  low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
  parts = jax.nn.log_sigmoid(low) + jnp.log1p(-uniform), jax.nn.log_sigmoid(high) + jnp.log(uniform)
  log_probability = jnp.logaddexp(*parts)
  found = log_probability - jnp.log(-jnp.expm1(log_probability))
  return loc + scale * jnp.where(mirrored, -found, found)
