"""Linear maps whose transpose is given by hand."""

from collections.abc import Callable
from typing import TypeVar

import jax

T = TypeVar('T')


def apply(forward: Callable[[T], T], backward: Callable[[T], T], value: T) -> T:
  """Returns forward(value) such that `jax.linear_transpose` takes `backward`.

  Both may hold what JAX cannot transpose: loops that end early, rules for vmap of their own. They are
  differentiated by the value alone: by what they close over, a rule of the caller's has to do it.

  Args:
    forward: a linear map to values of the same structure, shapes and dtypes.
    backward: its transpose.
    value: a pytree of arrays.
  """
  # The one operation of JAX that carries a transpose and may be mapped. It is meant for a solve, and its
  # first argument, the inverse of the map, is read for derivatives by what is closed over.
  return jax.lax.custom_linear_solve(
    lambda x: x, value, lambda _, right: forward(right), lambda _, right: backward(right)
  )
