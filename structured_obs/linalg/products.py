"""Matrix products at the highest precision, differences without cancellation, and powers of two.

Every product of `linalg` and `distributions` that needs full precision is one of these.
"""

import functools

import jax
import jax.numpy as jnp

Array = jax.Array

ROWS = 1024  # that are split into digits at a time, so that these take little memory

# The default matrix arithmetic of GPUs (TF32) and TPUs (bfloat16) is coarser than float32.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


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
  high_right, low_right = _split(right, bits)

  def row(parts: tuple[Array, Array]) -> Array:
    target, left = parts
    high_left, low_left = _split(left, bits)
    rest = target - matmul(high_left, high_right)
    return rest - (matmul(high_left, low_right) + matmul(low_left, right))

  return jax.lax.map(row, (target, left), batch_size=ROWS)


def scale_rows(matrix: Array, scale: Array) -> Array:
  """Multiplies the rows of a matrix [n, R], or the entries of a vector [n], by a scale [n] or []."""
  return matrix * (scale[:, None] if scale.ndim and matrix.ndim == 2 else scale)


def power_of_two(v: Array) -> Array:
  """Returns the power of two above the largest magnitude of any entry; 2 if that is 0 or not finite. [].

  Dividing by it is exact, and keeps squares away from both ends of the type. It has no derivative.
  """
  info = jnp.finfo(v.dtype)
  largest = jnp.max(jnp.abs(jax.lax.stop_gradient(v)), initial=0)
  largest = jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)
  # A power of two whose reciprocal is a normal number too.
  exponent = jnp.clip(jnp.frexp(largest)[1], info.minexp + 2, -info.minexp - 2)
  return jnp.ldexp(jnp.ones_like(largest), exponent)


def _split(x: Array, bits: int) -> tuple[Array, Array]:
  """Splits x into its leading bits, counted from the largest entry on axis 0, and the rest."""
  exponent = jnp.frexp(jnp.max(jnp.abs(x), axis=0, keepdims=True))[1]
  unit = jnp.ldexp(jnp.ones_like(x, shape=exponent.shape), exponent - bits)
  high = jnp.round(x / unit) * unit
  return high, x - high
