"""Scalar functions whose first derivatives are closed forms, computed along with the value."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.linalg.image_by_image import image_by_image

Array = jax.Array
Wanted = tuple[str, ...]
Function = Callable[..., Any]


def scalar(names: Wanted, formulas: Function, run: Callable[[Wanted], Function]) -> Function:
  """Returns a scalar function of arrays that is differentiable to any order, forward and reverse.

  Args:
    names: of its arguments.
    formulas: (wanted, *arrays) -> the value [] and its derivatives by the wanted of the names, of the
      shapes of these arguments. They are differentiated for the higher orders.
    run: returns, for the names wanted, what computes the same of arrays. It need not be differentiable:
      it may map over images in a way that cannot be transposed.
  """

  @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
  def derivatives(wanted: Wanted, *arrays: Array) -> Any:
    return run(wanted)(*arrays)

  @derivatives.defjvp
  def _(wanted: Wanted, primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    return jax.jvp(functools.partial(formulas, wanted), primals, tangents)

  @jax.custom_jvp
  def function(*arrays: Array) -> Array:
    return derivatives((), *arrays)[0]

  def jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
    moved = {name: t for name, t in zip(names, tangents, strict=True) if not _is_zero(t)}
    value, *gradients = derivatives(tuple(moved), *primals)
    terms = (jnp.sum(g * t) for g, t in zip(gradients, moved.values(), strict=True))
    return value, sum(terms, start=jnp.zeros_like(value))

  function.defjvp(jvp, symbolic_zeros=True)
  return function


def by_image(names: Wanted, formulas: Function, value_at_once: bool = True) -> Function:
  """Returns `scalar` of what `formulas` computes, mapped over images one after the other on a CPU.

  That takes a fraction of the memory of a map in one.

  Args:
    names: of its arguments.
    formulas: as of `scalar`.
    value_at_once: whether the value alone is mapped as it stands all the same.
  """

  @functools.cache
  def run(wanted: Wanted) -> Function:
    one = functools.partial(formulas, wanted)
    return one if value_at_once and not wanted else image_by_image(one)

  return scalar(names, formulas, run)


def _is_zero(tangent: Any) -> bool:
  return isinstance(tangent, jax.custom_derivatives.SymbolicZero)
