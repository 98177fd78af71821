"""Probability of one gray level under a logistic variable that is rounded to the nearest level.

With F the logistic function, and a < b the edges of the level's bin in units of the scale,

  log(F(b) - F(a)) = log(1 - exp(a - b)) - softplus(a) - softplus(-b),
  softplus(a) = max(a, 0) + log(1 + exp(-|a|)):

three terms of one sign that float32 keeps at any scale. What is in the logarithms is bounded, so that
those of several channels are one logarithm of a product. 1 - exp(-w) is 2 t / (1 + t), t = tanh(w / 2),
in which nothing cancels.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Bin(NamedTuple):
  """Probability of a level, part exp(log_rest), and the derivatives of its logarithm."""

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
  inverse, half = jnp.exp(-log_scale), 1 / (levels - 1)
  first, last = value == -1, value == 1
  inner = ~(first | last)
  low = jnp.where(first, -jnp.inf, (value - half - loc) * inverse)
  high = jnp.where(last, jnp.inf, (value + half - loc) * inverse)
  # exp(-|edge|), with the derivative of a side at 0: exp and softplus of both edges follow from it.
  right, left = low > 0, high < 0  # of the location
  below, above = jnp.exp(jnp.where(right, -low, low)), jnp.exp(jnp.where(left, high, -high))
  width = 2 * half * inverse
  tanh = jnp.tanh(width / 2)
  narrow = inner & (width < 1)
  # 1 - exp(-width), of a narrow bin in units of its width, whose logarithm is known.
  filled = jnp.where(inner, 2 * tanh / ((1 + tanh) * jnp.where(narrow, width, 1)), 1)
  outside = jnp.where(left, high, 0) - jnp.where(right, low, 0)
  log_rest = outside + jnp.where(narrow, math.log(2 * half) - log_scale, 0)
  under, over = jnp.where(right, 1, below) / (1 + below), jnp.where(left, 1, above) / (1 + above)
  shrinking = jnp.where(inner, width * (1 - tanh) / (2 * tanh), 0)  # width / (exp(width) - 1)
  return Bin(
    part=filled / ((1 + below) * (1 + above)),
    log_rest=log_rest,
    by_loc=(under - over) * inverse,
    by_log_scale=under * jnp.where(first, 0, low) - over * jnp.where(last, 0, high) - shrinking,
  )
