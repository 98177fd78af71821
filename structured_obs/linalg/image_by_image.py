"""Maps over images that take one image after the other on a CPU.

This is the only place that decides how a CPU maps factorisations and solves. One image at a time needs a
fraction of the memory, lets each image take the path it needs, and is safe: batched LAPACK calls of
JAX's CPU backend wait for each other in their thread pool, and two independent ones in one program can
deadlock.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.linalg import sharding

Array = jax.Array
Function = Callable[..., Any]
OnLeaves = Callable[[Function], Function]  # of pytrees -> the same function of their leaves


def image_by_image(function: Function) -> Function:
  """Returns the same function of pytrees, whose `jax.vmap` is a loop on a CPU and a map elsewhere.

  Its map over images cannot be transposed: use it inside a function that defines its derivatives.
  """

  def in_turn(on_leaves: OnLeaves, batched: list[bool], *arrays: Array) -> Any:
    mapped, same = tuple(a for a, b in zip(arrays, batched, strict=True) if b), on_leaves(one)

    def body(parts: tuple[Array, ...]) -> Any:
      rest = iter(parts)
      return same(*(next(rest) if b else a for a, b in zip(arrays, batched, strict=True)))

    return jax.lax.map(body, mapped)

  one = _with_map(function, in_turn)
  return one


def quick_or_careful(quick: Function, careful: Function) -> Function:
  """Returns a function of pytrees, `image_by_image`, that is careful with the images that need it.

  What `careful` needs, memory included, is spent on those images alone, and no image's result depends
  on the others.

  Args:
    quick: returns a result and whether it is good enough, [] bool.
    careful: returns a result of the same structure.
  """
  quick, careful = image_by_image(quick), image_by_image(careful)

  # Loops of at most one step per image: mapped, a loop does nothing where no image needs it, but a
  # branch is taken by all; and a loop overwrites results where a branch would copy them.
  def one(*trees: Any) -> Any:
    def redo(state: tuple[Any, Array]) -> tuple[Any, Array]:
      return careful(*trees), jnp.ones_like(state[1])

    return jax.lax.while_loop(lambda state: ~state[1], redo, quick(*trees))[0]

  def in_turn(on_leaves: OnLeaves, batched: list[bool], *arrays: Array) -> Any:
    def redo(state: tuple[Any, Array]) -> tuple[Any, Array]:
      results, good = state
      i = jnp.argmin(good)
      image = (_pick(a, i) if b else a for a, b in zip(arrays, batched, strict=True))
      results = jax.tree.map(lambda a, one: _put(a, one, i), results, on_leaves(careful)(*image))
      return results, _put(good, jnp.ones_like(good[0]), i)

    start = jax.vmap(on_leaves(quick), in_axes=_axes(batched))(*arrays)
    return jax.lax.while_loop(lambda state: ~jnp.all(state[1]), redo, start)[0]

  return _with_map(one, in_turn)


def _with_map(function: Function, in_turn: Function) -> Function:
  """Returns a function whose vmap on a CPU is `in_turn(on_leaves, batched, *leaves)`."""
  one = jax.custom_batching.custom_vmap(function)

  @one.def_vmap
  def rule(axis_size: int, batched: list[Any], *trees: Any):
    del axis_size
    leaves, structure = jax.tree.flatten(trees)
    flags = jax.tree.leaves(batched)

    def on_leaves(of_trees: Function) -> Function:
      return lambda *arrays: of_trees(*jax.tree.unflatten(structure, arrays))

    together = jax.vmap(on_leaves(function), in_axes=_axes(flags))
    cpu = functools.partial(in_turn, on_leaves, flags)
    both = functools.partial(jax.lax.platform_dependent, cpu=cpu, default=together)
    result = sharding.by_compiler(both)(*leaves)
    return result, jax.tree.map(lambda _: True, result)

  return one


def _axes(batched: list[bool]) -> tuple[int | None, ...]:
  return tuple(0 if b else None for b in batched)


def _pick(stack: Array, i: Array) -> Array:
  return jax.lax.dynamic_index_in_dim(stack, i, keepdims=False)


def _put(stack: Array, image: Array, i: Array) -> Array:
  return jax.lax.dynamic_update_index_in_dim(stack, image, i, axis=0)
