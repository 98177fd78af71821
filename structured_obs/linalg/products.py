"""Matrix products in full precision, and differences with them in which no leading digits are lost."""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

# The default matrix arithmetic of GPUs (TF32) and TPUs (bfloat16) is coarser than float32.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def subtract_product(target: Array, left: Array, right: Array) -> Array:
  """Computes target - left right with hundreds of times less rounding than the plain formula.

  The leading digits of both factors are multiplied exactly, so nothing is lost where target and product
  cancel. Costs three products of the same size.

  Args:
    target: [n] or [n, k].
    left: [n, R].
    right: [R] or [R, k].
  """
  terms = left.shape[1]
  if terms == 0:
    return target
  digits = jnp.finfo(left.dtype).nmant + 1
  bits = (digits - (terms - 1).bit_length()) // 2
  high_left, low_left = _split(left, bits, axis=1)
  high_right, low_right = _split(right, bits, axis=0)
  rest = target - matmul(high_left, high_right)
  return rest - (matmul(high_left, low_right) + matmul(low_left, right))


def _split(x: Array, bits: int, axis: int) -> tuple[Array, Array]:
  """Splits x into its leading bits, counted from the largest entry along an axis, and the remainder."""
  exponent = jnp.frexp(jnp.max(jnp.abs(x), axis=axis, keepdims=True))[1]
  unit = jnp.ldexp(jnp.ones_like(x, shape=exponent.shape), exponent - bits)
  high = jnp.round(x / unit) * unit
  return high, x - high
