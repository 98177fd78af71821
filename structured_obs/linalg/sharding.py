"""Loops over images whose arrays carry explicit shardings.

On a mesh of explicit axes, the default of `jax.make_mesh`, every operation is to say how its result lies
on the devices, and loops over a sharded axis are refused. How vmap is carried out is no choice of the
caller's: it is left to the compiler, as on a mesh of automatic axes.
"""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array


def by_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
  """The same function of arrays [B, ...] to arrays [B, ...], whose inner shardings the compiler chooses.

  Its results lie on the devices by their first axis, as the first of the arrays that does.
  """

  def run(*arrays: Array) -> Any:
    shardings = [jax.typeof(array).sharding for array in arrays]
    explicit = [s for s in shardings if any(axes is not None for axes in s.spec)]
    if not explicit:
      return function(*arrays)
    first = next((s for s in explicit if s.spec[0] is not None), explicit[0])
    leading = jax.sharding.PartitionSpec(first.spec[0])
    out = jax.sharding.NamedSharding(first.mesh, leading)
    return jax.sharding.auto_axes(function, out_sharding=out)(*arrays)

  return run
