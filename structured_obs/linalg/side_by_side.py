"""Solves of many systems at once: images and right-hand sides as two axes, whatever vmap asks for.

Letters: B images; R right-hand sides of one image.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding

Array = jax.Array


def solver(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns a solve for any number of images and right-hand sides, closed under vmap.

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

    more = functools.partial(_more_images, many, in_batched)
    return sharding.by_compiler(more if any(in_batched[:-1]) else sides)(*arrays), True

  return many


def images(run: Callable[..., Array]) -> Callable[..., Array]:
  """Returns a function of any number of images, closed under vmap, which adds to B.

  Args:
    run: (*arrays [B, ...]) -> [B, ...]. It is not differentiated.
  """
  many = jax.custom_batching.custom_vmap(run)

  @many.def_vmap
  def rule(axis_size: int, in_batched: list[bool], *arrays: Array) -> tuple[Array, bool]:
    del axis_size
    return sharding.by_compiler(functools.partial(_more_images, many, in_batched))(*arrays), True

  return many


def _more_images(many: Callable[..., Array], in_batched: list[bool], *arrays: Array) -> Array:
  """Returns many of arrays [B, ...] for A of each that is batched, [A, B, ...]. [A, B, ...]."""
  count = next(len(x) for x, batched in zip(arrays, in_batched, strict=True) if batched)
  full = [
    x if batched else jnp.broadcast_to(x, (count, *x.shape))
    for x, batched in zip(arrays, in_batched, strict=True)
  ]
  found = many(*(x.reshape(count * x.shape[1], *x.shape[2:]) for x in full))
  return found.reshape(count, -1, *found.shape[1:])
