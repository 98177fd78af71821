"""Low-rank updates of a covariance, Sigma = S + P P^T, in float32 without loss.

Letters: n size, R rank, m whitened size, n or more.

S is known by a whitening: a linear map A with A^T A = S^-1, such as D^-1/2 for a diagonal S = D.
Everything goes through the *capacitance* C = I + W^T W of the whitened factor W = A P:

  matrix determinant lemma   log |Sigma| = log |S| + log |C|
  Woodbury identity          Sigma^-1 = A^T (I - W C^-1 W^T) A
  ridge identity             r^T Sigma^-1 r = |t - W c|^2 + |c|^2,  t = A r,  c = C^-1 W^T t

The ridge identity is the minimum over c of a sum of squares, so nothing cancels and an error in c
enters squared; the textbook form |t|^2 - |C^-1/2 W^T t|^2 subtracts two large numbers and is wrong by
tens of nats in float32 when S is small. Every product that touches C runs at the highest precision.

c is found in the coordinates z = V^T c of `linalg.capacitance`, in which columns of W that are almost
equal keep the digits of their differences, and refined until a measured residual is small. Where t and
W c are so large that rounding them would matter, t - W c is computed from P and r themselves, with their
leading digits multiplied exactly.

A row of zeros in P and in r leaves that pixel out of C and of the quadratic form where S is diagonal,
which is how a subset of pixels is taken with static shapes.

Cost: n R^2 for the capacitance, n R for a solve, R^3 for the factorisation.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import closed_form, decompositions, sharding, transposable
from structured_obs.linalg.capacitance import (
  Capacitance,
  Whitening,
  by_scale,
  capacitance,
  quick_capacitance,
)
from structured_obs.linalg.image_by_image import quick_or_careful
from structured_obs.linalg.products import matmul, power_of_two, subtract_product

Array = jax.Array
Wanted = closed_form.Wanted

MAX_STEPS = 20  # steps of refinement
MAX_ROUNDING = 0.005  # nats that rounding in t - W c may cost


class Whitened(NamedTuple):
  """Coordinates whose squared norms add up to r^T Sigma^-1 r (ridge identity)."""

  residual: Array  # [m]  t - W c
  coefficients: Array  # [R]  c: the posterior mean of the factor's noise given the residual


@sharding.on_own_mesh
def whiten(cap: Capacitance, residual: Array) -> Whitened:
  """Whitens a residual r [n] by the ridge identity."""
  scaled = cap.whitening(residual)
  size = scaled.shape[0]

  def augmented(unknown: Array) -> Array:  # t - B z and z as one vector [m + R]
    rest, z = unknown[:size], unknown[size:]
    # Not B^T times a vector: XLA would make a transposed copy of B, which costs more than all else.
    return jnp.concatenate([rest + matmul(cap.basis, z), matmul(rest, cap.basis) - z])

  def solve(_, target: Array) -> Array:
    return jnp.concatenate(_refine(cap, target[:size], target[size:]))

  target = jnp.concatenate([scaled, jnp.zeros_like(cap.inner, shape=cap.inner.shape[:1])])
  solution = jax.lax.custom_linear_solve(augmented, target, solve, symmetric=True)
  rest, z = solution[:size], solution[size:]
  more, more_z = _correction(cap, residual, rest, z)
  return Whitened(rest + more, matmul(cap.rotation, z + more_z))


def whiten_quickly(cap: Capacitance, scaled: Array) -> Whitened:
  """Returns `whiten`, without derivatives, for a residual of moderate size.

  Args:
    cap: whose columns are well separated.
    scaled: [m], t = A r.
  """
  return Whitened(*_refine(cap, scaled, jnp.zeros_like(cap.inner, shape=cap.inner.shape[:1])))


def _refine(cap: Capacitance, target: Array, offset: Array) -> tuple[Array, Array]:
  """Solves rest + B z = target, B^T rest - z = offset by refinement, to a measured residual.

  Returns:
    rest [m] and z [R].
  """
  eps, unit = jnp.finfo(target.dtype).eps, power_of_two(jnp.concatenate([target, offset]))

  def squared_norm(x: Array) -> Array:
    return jnp.sum(jnp.square(x / unit))

  def going(state: tuple[Array, ...]) -> Array:
    rest, z, error, count = state
    return (error > eps * (squared_norm(rest) + squared_norm(z))) & (count < MAX_STEPS)

  def step(state: tuple[Any, ...]) -> tuple[Array, ...]:
    rest, z, _, count = state
    white = matmul(cap.inner, matmul(rest, cap.basis) - z - offset)
    z = z + matmul(cap.inner.T, white)
    # |white|^2 is what the quadratic form was above its minimum before this step.
    return target - matmul(cap.basis, z), z, squared_norm(white), count + 1

  none = jnp.sum(
    jnp.zeros_like(target, jnp.int32), dtype=jnp.int32
  )  # on the mesh of the target, unlike a Python number
  start = step((target, jnp.zeros_like(offset), None, none))
  rest, z = jax.lax.while_loop(going, step, start)[:2]
  return rest, z


@jax.custom_jvp
def _correction(cap: Capacitance, residual: Array, rest: Array, z: Array) -> tuple[Array, Array]:
  """Returns the corrections of rest and z where they matter: a linear map of transpose 0."""

  def correct(known: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    return jnp.zeros_like(known[0]), *_correct(cap, *known)

  nothing = functools.partial(jax.tree.map, jnp.zeros_like)
  return transposable.apply(correct, nothing, (residual, rest, z))[1:]


@_correction.defjvp
def _correction_jvp(primals: tuple[Any, ...], _: Any):
  # It is as small as rounding, so it has no part in derivatives.
  correction = _correction(*primals)
  return correction, jax.tree.map(jnp.zeros_like, correction)


def _correct(cap: Capacitance, residual: Array, rest: Array, z: Array) -> tuple[Array, Array]:
  """Returns the corrections of rest [m] and z [R] where rounding matters, otherwise 0.

  Args:
    cap: of P and S.
    residual: [n], r.
    rest: [m], t - B z, rounded.
    z: [R].
  """

  def correct(state: tuple[Array, ...]) -> tuple[Array, ...]:
    accurate = cap.whitening(subtract_product(residual, cap.factor, matmul(cap.rotation, z)))
    # z has no digits left for the last step; the residual has.
    step = matmul(cap.inner.T, matmul(cap.inner, matmul(accurate, cap.basis) - z))
    return accurate - matmul(cap.basis, step) - rest, step, jnp.zeros_like(state[2])

  explained = matmul(cap.factor, matmul(cap.rotation, z))
  state = jnp.zeros_like(rest), jnp.zeros_like(z), rounding(cap.whitening, explained)
  more, step = jax.lax.while_loop(lambda state: state[2] > MAX_ROUNDING, correct, state)[:2]
  return more, step


def rounding(whitening: Whitening, explained: Array) -> Array:
  """Returns about what rounding in t - W c costs, [], nats.

  It is measured: rounding errors of P c have signs without a pattern, and so has what is whitened here.
  A whitening of smooth images amplifies such errors, but not P c itself.

  Args:
    whitening: A.
    explained: [n], P c.
  """
  index = jax.lax.iota(jnp.uint32, explained.shape[0])
  bits = (index * index * jnp.uint32(0x9E3779B1)) >> jnp.uint32(31)  # a chirp: of all frequencies
  signs = 1 - 2 * bits.astype(explained.dtype)
  return jnp.finfo(explained.dtype).eps * jnp.linalg.norm(whitening(signs * explained))


def whiten_symmetrically(cap: Capacitance, residual: Array) -> Array:
  """Returns (I + W W^T)^-1/2 t for t = A r, r [n]: white, each number where A leaves it. [m].

  Not to be differentiated where eigenvalues coincide.
  """
  # With M = I + W W^T and C^-1/2 = X S X^T: M^-1 t is the ridge residual, W^T times that is c, and
  # M^1/2 = I + W X (1 + 1 / S)^-1 X^T W^T, where W = half U S^-1 X^T for the root U S X^T.
  whitened = whiten(cap, residual)
  left, values, right = decompositions.svd(cap.root)
  inner = matmul(right, whitened.coefficients) / (1 + values)
  return whitened.residual + matmul(cap.half, matmul(left, inner))


def leverage(cap: Capacitance) -> Array:
  """Returns the diagonal of W C^-1 W^T, each in [0, 1). [m].

  For a diagonal S = D, (Sigma^-1)_ii = (1 - leverage_i) / D_ii.
  """
  return jnp.sum(jnp.square(cap.half), axis=-1)


@sharding.on_own_mesh
def log_density(residual: Array, factor: Array, diag: Array) -> Array:
  """Returns the log density of N(0, P P^T + D), with a closed-form derivative.

  Differentiable to any order, in forward and reverse mode; no Cholesky factorisation is differentiated.
  Mapped over images on a CPU, it takes one after the other, which needs a fraction of the memory.

  Args:
    residual: [n].
    factor: [n, R], P.
    diag: [n], or [] for D = eps I, whose log-determinant n log eps is then exact.

  Returns:
    [], nats.
  """
  return _log_density(residual, factor, diag)


def _carefully(wanted: Wanted, residual: Array, factor: Array, diag: Array):
  cap = capacitance(factor, by_scale(jax.lax.rsqrt(diag)))
  whitened = whiten(cap, residual)
  # Derivatives wait for the whitening, which makes room for them: P is not needed any more.
  inner = jnp.where(jnp.any(jnp.isnan(whitened.residual)), jnp.nan, cap.inner)
  cap = cap._replace(inner=inner)
  return _formulas(wanted, diag, cap, whitened, matmul(cap.half, cap.root), leverage(cap))


def _quickly(wanted: Wanted, residual: Array, factor: Array, diag: Array):
  """Returns the same for well-separated columns and moderate residuals, and whether they are, []."""
  whitening = by_scale(jax.lax.rsqrt(diag))
  scaled = whitening(residual)
  cap, reliable = quick_capacitance(factor, whitening, whitening(factor))
  whitened = whiten_quickly(cap, scaled)
  # What `rounding` measures, as each pixel is whitened alone.
  cost = jnp.finfo(scaled.dtype).eps * jnp.linalg.norm(scaled - whitened.residual)
  # One product where nearly dependent columns, or a rotation, would need two.
  solved = matmul(cap.basis, matmul(cap.inner.T, cap.inner))
  spread = jnp.sum(solved * cap.basis, axis=-1)
  good = reliable & (cost <= MAX_ROUNDING)
  return _formulas(wanted, diag, cap, whitened, solved, spread), good


def _formulas(
  wanted: Wanted, diag: Array, cap: Capacitance, whitened: Whitened, solved_factor: Array, spread: Array
):
  """Returns the value and derivatives, from W C^-1 [n, R] and the diagonal of W C^-1 W^T [n]."""
  # With g = Sigma^-1 r: d/dr = -g, d/dP = g c^T - Sigma^-1 P, d/dD = (g^2 - diag Sigma^-1) / 2.
  solved = cap.whitening(whitened.residual)
  gradients = []
  for name in wanted:
    if name == 'residual':
      gradients.append(-solved)
    elif name == 'factor':
      outer = solved[:, None] * whitened.coefficients[None, :]
      gradients.append(outer - cap.whitening(solved_factor))
    else:
      by_pixel = 0.5 * (jnp.square(solved) - (1 - spread) / diag)
      gradients.append(by_pixel if diag.ndim else jnp.sum(by_pixel))
  return _from_whitened(diag, cap, whitened), *gradients


def _from_whitened(diag: Array, cap: Capacitance, whitened: Whitened) -> Array:
  size = cap.basis.shape[0]
  log_det_diag = jnp.sum(jnp.log(diag)) if diag.ndim else size * jnp.log(diag)
  quadratic = jnp.sum(jnp.square(whitened.residual)) + jnp.sum(jnp.square(whitened.coefficients))
  return -0.5 * (size * math.log(2 * math.pi) + log_det_diag + cap.log_det + quadratic)


def _run(wanted: Wanted):
  quick, careful = (functools.partial(function, wanted) for function in (_quickly, _carefully))
  either = quick_or_careful(quick, careful)

  def run(residual: Array, factor: Array, diag: Array):
    few = factor.shape[1] == 0  # nothing to factorise: one way is enough
    return careful(residual, factor, diag) if few else either(residual, factor, diag)

  return run


_log_density = closed_form.scalar(('residual', 'factor', 'diag'), _carefully, functools.cache(_run))
