"""Maps over images that take one image after the other on a CPU.

That needs a fraction of the memory, lets each image take the branch it needs, and is safe: the batched
LAPACK calls of JAX's CPU backend wait for each other on the pool they run on, and two independent ones
in one program can hang for ever.
"""

from collections.abc import Callable
from typing import Any

import jax

Array = jax.Array


def image_by_image(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the same function of arrays, whose `jax.vmap` is a loop on a CPU and a map elsewhere.

  Its map over images cannot be transposed: it belongs inside a function with derivatives of its own.
  """
  one = jax.custom_batching.custom_vmap(function)

  @one.def_vmap
  def rule(axis_size: int, in_batched: list[bool], *arrays: Array):
    del axis_size

    def in_turn(*arrays: Array):
      mapped = tuple(a for a, batched in zip(arrays, in_batched, strict=True) if batched)

      def body(parts: tuple[Array, ...]):
        rest = iter(parts)
        full = (next(rest) if b else a for a, b in zip(arrays, in_batched, strict=True))
        return one(*full)

      return jax.lax.map(body, mapped)

    together = jax.vmap(function, in_axes=tuple(0 if b else None for b in in_batched))
    result = jax.lax.platform_dependent(*arrays, cpu=in_turn, default=together)
    return result, jax.tree.map(lambda _: True, result)

  return one
