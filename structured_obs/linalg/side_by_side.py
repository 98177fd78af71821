"""Solves of many systems at once: images and right-hand sides as two axes, whatever vmap asks for.

Letters: B images; R right-hand sides of one image.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding

Array = jax.Array


def solver(run: Callable[..., Array]) -> Callable[..., Array]:
  """A solve for any number of images and right-hand sides, closed under vmap.

  Mapping over the right-hand sides alone adds to R and never repeats a factor; any other mapping adds
  to B.

  Args:
    run: (*factor arrays [B, ...], rhs [B, R, ...]) -> [B, R, ...]. It is not differentiated.
  """

  run = jax.jit(run)  # a program that solves often is traced once for each shape

  @jax.custom_batching.custom_vmap
  def many(*arrays: Array) -> Array:
    return run(*arrays)

  @many.def_vmap
  def rule(axis_size: int, in_batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
    def sides(*arrays: Array) -> Array:
      *factor, rhs = arrays
      images, sides = rhs.shape[1:3]
      joined = jnp.moveaxis(rhs, 0, 1).reshape(images, axis_size * sides, *rhs.shape[3:])
      solved = many(*factor, joined).reshape(images, axis_size, sides, *rhs.shape[3:])
      return jnp.moveaxis(solved, 1, 0)

    def images(*arrays: Array) -> Array:
      full = [
        x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, batched in zip(arrays, in_batched, strict=True)
      ]
      solved = many(*(x.reshape(axis_size * x.shape[1], *x.shape[2:]) for x in full))
      return solved.reshape(full[-1].shape)

    return sharding.by_compiler(images if any(in_batched[:-1]) else sides)(*arrays), True

  return many
