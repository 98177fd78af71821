"""What a low-rank update adds to a log density, with closed-form derivatives.

Letters: n size, R rank, m whitened size; S, P, A, W, C, t, c as in `linalg.woodbury`.

With e = r - P c, the residual that the factor leaves, the derivatives by r, by P and by whatever the
whitening A depends on are those of

  -1/2 |A e|^2 - trace(M^T A P),   M = W C^-1

for constant c and M: c is a minimum, so it has no part in first derivatives. So one transposed whitening
of R + 1 images is all that they take, and the numbers that cancel in A r - A P c never meet.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.linalg import closed_form, sharding, woodbury
from structured_obs.linalg.capacitance import Capacitance, capacitance, quick_capacitance
from structured_obs.linalg.image_by_image import quick_or_careful
from structured_obs.linalg.products import matmul, subtract_product

Array = jax.Array
Wanted = closed_form.Wanted
# (a pytree of arrays, columns [n] or [n, k]) -> [m] or [m, k], linear in the columns.
White = Callable[[Any, Array], Array]


@sharding.on_own_mesh
def log_density(white: White, params: Any, residual: Array, factor: Array) -> Array:
  """Returns log N(r; 0, S + P P^T) + 1/2 log |2 pi S|, which is -1/2 (log |C| + r^T Sigma^-1 r).

  Differentiable to any order, in forward and reverse mode, by all arrays. Mapped over images on a CPU,
  it takes one after the other.

  Args:
    white: whitening A of S as a function of parameters: `white(params, v)` is A v. The same function
      each time: its programs are kept.
    params: pytree of arrays of floating-point or other types.
    residual: [n], r.
    factor: [n, R], P.

  Returns:
    [], nats.
  """
  leaves, structure = jax.tree.flatten(params)
  return _log_density(white, structure, len(leaves))(residual, factor, *leaves)


@functools.cache
def _log_density(white: White, structure: Any, count: int):
  names = ('residual', 'factor', *(str(i) for i in range(count)))
  carefully = functools.partial(_carefully, white, structure)

  @functools.cache
  def run(wanted: Wanted):
    quick = functools.partial(_quickly, white, structure, wanted)
    careful = functools.partial(carefully, wanted)
    either = quick_or_careful(quick, careful)

    def run_one(residual: Array, factor: Array, *leaves: Array):
      few = factor.shape[1] == 0  # nothing to factorise: one way is enough
      return (careful if few else either)(residual, factor, *leaves)

    return run_one

  return closed_form.scalar(names, carefully, run)


def _carefully(
  white: White, structure: Any, wanted: Wanted, residual: Array, factor: Array, *leaves: Array
):
  params = jax.tree.unflatten(structure, leaves)
  cap = capacitance(factor, jax.tree_util.Partial(white, params))
  whitened = woodbury.whiten(cap, residual)
  value = _value(cap, whitened)
  if not wanted:
    return (value,)
  _, pull_columns = jax.vjp(white, params, factor)
  left = subtract_product(residual, factor, whitened.coefficients)
  _, pull_left = jax.vjp(white, params, left)
  pulled = pull_left(-whitened.residual), pull_columns(-matmul(cap.half, cap.root))
  return value, *_gradients(wanted, whitened, *pulled)


def _quickly(
  white: White, structure: Any, wanted: Wanted, residual: Array, factor: Array, *leaves: Array
):
  """Returns the same for well-separated columns and moderate residuals, and whether they are, []."""
  params = jax.tree.unflatten(structure, leaves)
  whitening = jax.tree_util.Partial(white, params)
  if wanted:
    columns, pull_columns = jax.vjp(white, params, factor)
  else:
    columns, pull_columns = white(params, factor), None
  cap, reliable = quick_capacitance(factor, whitening, columns)
  whitened = woodbury.whiten_quickly(cap, whitening(residual))
  explained = matmul(factor, whitened.coefficients)
  good = reliable & (woodbury.rounding(whitening, explained) <= woodbury.MAX_ROUNDING)
  value = _value(cap, whitened)
  if pull_columns is None:
    return (value,), good
  _, pull_left = jax.vjp(white, params, residual - explained)
  solved = matmul(cap.basis, matmul(cap.inner.T, cap.inner))
  pulled = pull_left(-whitened.residual), pull_columns(-solved)
  return (value, *_gradients(wanted, whitened, *pulled)), good


def _value(cap: Capacitance, whitened: woodbury.Whitened) -> Array:
  squares = jnp.sum(jnp.square(whitened.residual)) + jnp.sum(jnp.square(whitened.coefficients))
  return -0.5 * (cap.log_det + squares)


def _gradients(
  wanted: Wanted, whitened: woodbury.Whitened, of_left: tuple[Any, Array], of_columns: tuple[Any, Array]
) -> list[Array]:
  """Returns the derivatives by the wanted arguments.

  Args:
    wanted: names, of which those of parameters are the places of their leaves.
    whitened: the whitened residual, with c.
    of_left: derivatives of -1/2 |A e|^2 by the parameters and by e.
    of_columns: those of -trace(M^T A P) by the parameters and by P.
  """
  by_params = [jax.tree.leaves(part) for part in (of_left[0], of_columns[0])]
  gradients = []
  for name in wanted:
    if name == 'residual':
      gradients.append(of_left[1])
    elif name == 'factor':
      gradients.append(of_columns[1] - of_left[1][:, None] * whitened.coefficients[None, :])
    else:
      gradients.append(by_params[0][int(name)] + by_params[1][int(name)])
  return gradients
