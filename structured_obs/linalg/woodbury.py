"""Low-rank plus diagonal matrices, Sigma = P P^T + D, in float32 without loss.

Letters: n size, R rank.

Everything goes through the *capacitance* C = I + W^T W of the scaled factor W = D^-1/2 P:

  matrix determinant lemma   log |Sigma| = log |D| + log |C|
  Woodbury identity          Sigma^-1 = D^-1/2 (I - W C^-1 W^T) D^-1/2
  ridge identity             r^T Sigma^-1 r = |t - W c|^2 + |c|^2,  t = D^-1/2 r,  c = C^-1 W^T t

The ridge identity is the minimum over c of a sum of squares, so nothing cancels and an error in c
enters squared; the textbook form |t|^2 - |C^-1/2 W^T t|^2 subtracts two large numbers and is wrong by
tens of nats in float32 when D is small. Every product that touches C runs at the highest
precision, since the default matrix arithmetic of GPUs (TF32) and TPUs (bfloat16) is too coarse for it.

A row of zeros in P and in r leaves that pixel out of C and of the quadratic form, which is how a subset
of pixels is taken with static shapes.

Cost: n R^2 for the capacitance, n R for a solve, R^3 for the factorisation.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
SymbolicZero = jax.custom_derivatives.SymbolicZero

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Capacitance(NamedTuple):
  """Factorised C = I + W^T W of one low-rank plus diagonal matrix."""

  scaled: Array  # [n, R]  W = D^-1/2 P
  root: Array  # [R, R]  T with T C T^T = I, so C^-1 = T^T T
  log_det: Array  # []  log |C| = log |P P^T + D| - log |D|, nats: twice the excess entropy


class Whitened(NamedTuple):
  """Coordinates whose squared norms add up to r^T Sigma^-1 r (ridge identity)."""

  residual: Array  # [n]  t - W c
  coefficients: Array  # [R]  c: the posterior mean of the factor's noise given the residual


@jax.jit  # called eagerly, the branches inside would be compiled anew on every call
def capacitance(factor: Array, inverse_scale: Array) -> Capacitance:
  """Factorise the capacitance of P P^T + D.

  Args:
    factor: [n, R], P. Any R, 0 and more than n included; columns may repeat, vanish, or differ in
      scale by many decades.
    inverse_scale: [n] or [], D^-1/2.
  """
  scaled = _scale_rows(factor, inverse_scale)
  if scaled.shape[1] == 0:
    return Capacitance(scaled, matmul(scaled.T, scaled), jnp.zeros_like(scaled, shape=()))
  return Capacitance(scaled, *_inverse_root(scaled))


@jax.custom_jvp
def _inverse_root(scaled: Array) -> tuple[Array, Array]:
  """T [R, R] with T (I + W^T W) T^T = I, and log |I + W^T W| []."""
  return _factorise(scaled)


@_inverse_root.defjvp
def _inverse_root_jvp(primals, tangents):
  # dT = -phi(T dC T^T) T with phi the lower triangle and half of the diagonal, and d log |C| = tr(T dC
  # T^T). Products only, so the derivative of any order has the same form.
  (scaled,), (tangent,) = primals, tangents
  root, log_det = _inverse_root(scaled)
  half = matmul(matmul(scaled, root.T).T, matmul(tangent, root.T))
  inner = half + half.T
  lower = jnp.tril(inner) - jnp.diag(jnp.diag(inner)) / 2
  return (root, log_det), (-matmul(lower, root), jnp.trace(inner))


@jax.custom_batching.custom_vmap
def _factorise(scaled: Array) -> tuple[Array, Array]:
  gram = matmul(scaled.T, scaled)
  root, log_det, reliable = _by_cholesky(gram)
  rotated = functools.partial(_by_rotation, scaled, gram)
  return jax.lax.cond(reliable, lambda: (root, log_det), rotated)


@_factorise.def_vmap
def _factorise_vmap(axis_size, in_batched, scaled):
  # Batched LAPACK calls of the CPU backend wait for each other on the pool they run on: two
  # independent ones in one program can hang for ever. One matrix at a time is as fast there.
  del axis_size, in_batched
  one_by_one = functools.partial(jax.lax.map, _factorise)
  return jax.lax.platform_dependent(scaled, cpu=one_by_one, default=_factorise_together), (True, True)


def _factorise_together(scaled: Array) -> tuple[Array, Array]:
  gram = jax.vmap(lambda w: matmul(w.T, w))(scaled)
  root, log_det, reliable = jax.vmap(_by_cholesky)(gram)
  rotated = functools.partial(jax.vmap(_by_rotation), scaled, gram)
  return jax.lax.cond(jnp.all(reliable), lambda: (root, log_det), rotated)


def _by_cholesky(gram: Array) -> tuple[Array, Array, Array]:
  """T and log |C| from W^T W, and whether rounding has left them accurate."""
  matrix = gram + jnp.eye(gram.shape[0], dtype=gram.dtype)
  scale = jax.lax.rsqrt(jnp.diag(matrix))
  chol = jnp.linalg.cholesky(matrix * scale[:, None] * scale[None, :])
  pivots = jnp.diag(chol)
  # With a unit diagonal, a squared pivot is what a column adds to the ones before it. The Gram matrix
  # carries it with an error of a few eps, so what is left of its digits is what the square says. NaN,
  # from a matrix that rounding has made indefinite, compares as unreliable.
  reliable = jnp.min(jnp.square(pivots)) > 1e5 * jnp.finfo(gram.dtype).eps
  log_det = 2 * jnp.sum(jnp.log(pivots)) - 2 * jnp.sum(jnp.log(scale))
  return _inverse_triangular(chol) * scale[None, :], log_det, reliable


def _by_rotation(scaled: Array, gram: Array) -> tuple[Array, Array]:
  """T and log |C| by way of W V, V the eigenvectors of W^T W.

  The columns of W V are nearly orthogonal, and the Gram matrix of such columns is accurate entry by
  entry, however much their norms differ: its Cholesky factor exists and is accurate where that of
  W^T W is lost in rounding. With T' for W V in the place of W, T = T' V^T.
  """
  rotation = jnp.linalg.eigh(gram)[1]
  rotated = matmul(scaled, rotation)
  gram = matmul(rotated.T, rotated)
  chol = jnp.linalg.cholesky(gram + jnp.eye(gram.shape[0], dtype=gram.dtype))
  return matmul(_inverse_triangular(chol), rotation.T), 2 * jnp.sum(jnp.log(jnp.diag(chol)))


def _inverse_triangular(chol: Array) -> Array:
  identity = jnp.eye(chol.shape[-1], dtype=chol.dtype)
  return jax.lax.linalg.triangular_solve(chol, identity, left_side=True, lower=True)


def solve(cap: Capacitance, rhs: Array) -> Array:
  """C^-1 b. [R] for b [R]."""
  return matmul(cap.root.T, matmul(cap.root, rhs))


def whiten(cap: Capacitance, scaled_residual: Array) -> Whitened:
  """Whiten a residual by the ridge identity, with two steps of iterative refinement.

  Args:
    cap: of P and D.
    scaled_residual: [n], t = D^-1/2 r.
  """
  rest, coefficients = scaled_residual, jnp.zeros_like(cap.root, shape=cap.root.shape[:1])
  for _ in range(3):
    # Not W^T times a vector: XLA would make a transposed copy of W, which costs more than all else.
    gradient = matmul(rest, cap.scaled) - coefficients
    coefficients = coefficients + solve(cap, gradient)
    rest = scaled_residual - matmul(cap.scaled, coefficients)
  return Whitened(rest, coefficients)


def whiten_symmetrically(cap: Capacitance, scaled_residual: Array) -> Array:
  """(I + W W^T)^-1/2 t for t = D^-1/2 r: white and in the place of the residual. [n].

  Not to be differentiated where eigenvalues coincide.
  """
  values, vectors = jnp.linalg.eigh(matmul(cap.scaled.T, cap.scaled))
  values = jnp.maximum(values, 0)
  shrink = 1 / (1 + values + jnp.sqrt(1 + values))  # (1 - 1 / sqrt(1 + value)) / value, 1/2 at 0
  inner = matmul(vectors.T, matmul(scaled_residual, cap.scaled))
  return scaled_residual - matmul(cap.scaled, matmul(vectors, shrink * inner))


def leverage(cap: Capacitance) -> Array:
  """Diagonal of W C^-1 W^T, each in [0, 1): (Sigma^-1)_ii = (1 - leverage_i) / D_ii. [n]."""
  return jnp.sum(jnp.square(matmul(cap.scaled, cap.root.T)), axis=-1)


@jax.custom_jvp
def log_density(residual: Array, factor: Array, diag: Array) -> Array:
  """Log density of N(0, P P^T + D), with a closed-form derivative.

  Differentiable to any order, in forward and reverse mode; no Cholesky factorisation is differentiated.
  Mapped over images on a CPU, it takes one after the other, which needs a fraction of the memory.

  Args:
    residual: [n].
    factor: [n, R], P.
    diag: [n], or [] for D = eps I, whose log-determinant n log eps is then exact.

  Returns:
    [], nats.
  """
  return _derivatives((), residual, factor, diag)[0]


def _log_density_jvp(primals, tangents):
  names = ('residual', 'factor', 'diag')
  known = {
    name: t for name, t in zip(names, tangents, strict=True) if not isinstance(t, SymbolicZero)
  }
  value, *gradients = _derivatives(tuple(known), *primals)
  products = (jnp.sum(g * t) for g, t in zip(gradients, known.values(), strict=True))
  return value, sum(products, start=jnp.zeros_like(value))


log_density.defjvp(_log_density_jvp, symbolic_zeros=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _derivatives(wanted: tuple[str, ...], residual: Array, factor: Array, diag: Array):
  """The log density [] and its derivatives by the wanted of 'residual', 'factor' and 'diag'."""
  return _image_by_image(wanted)(residual, factor, diag)


@_derivatives.defjvp
def _derivatives_jvp(wanted, primals, tangents):
  # What vmap maps one by one cannot be transposed; the formulas themselves can.
  return jax.jvp(functools.partial(_formulas, wanted), primals, tangents)


@functools.cache
def _image_by_image(wanted: tuple[str, ...]):
  """The formulas for one image, whose map over images is a loop on a CPU."""
  formulas = functools.partial(_formulas, wanted)
  one = jax.custom_batching.custom_vmap(formulas)

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

    together = jax.vmap(formulas, in_axes=tuple(0 if b else None for b in in_batched))
    found = jax.lax.platform_dependent(*arrays, cpu=in_turn, default=together)
    return found, jax.tree.map(lambda _: True, found)

  return one


def _formulas(wanted: tuple[str, ...], residual: Array, factor: Array, diag: Array):
  # With g = Sigma^-1 r: d/dr = -g, d/dP = g c^T - Sigma^-1 P, d/dD = (g^2 - diag Sigma^-1) / 2.
  inverse_scale = jax.lax.rsqrt(diag)
  cap = capacitance(factor, inverse_scale)
  whitened = whiten(cap, residual * inverse_scale)
  solved = whitened.residual * inverse_scale
  half = matmul(cap.scaled, cap.root.T) if {'factor', 'diag'} & set(wanted) else cap.scaled
  gradients = []
  for name in wanted:
    if name == 'residual':
      gradients.append(-solved)
    elif name == 'factor':
      outer = solved[:, None] * whitened.coefficients[None, :]
      gradients.append(outer - _scale_rows(matmul(half, cap.root), inverse_scale))
    else:
      own = (1 - jnp.sum(jnp.square(half), axis=-1)) / diag
      by_pixel = 0.5 * (jnp.square(solved) - own)
      gradients.append(by_pixel if diag.ndim else jnp.sum(by_pixel))
  return _log_density(diag, cap, whitened), *gradients


def _log_density(diag: Array, cap: Capacitance, whitened: Whitened) -> Array:
  size = cap.scaled.shape[0]
  log_det_diag = jnp.sum(jnp.log(diag)) if diag.ndim else size * jnp.log(diag)
  quadratic = jnp.sum(jnp.square(whitened.residual)) + jnp.sum(jnp.square(whitened.coefficients))
  return -0.5 * (size * math.log(2 * math.pi) + log_det_diag + cap.log_det + quadratic)


def _scale_rows(matrix: Array, scale: Array) -> Array:
  return matrix * (scale[:, None] if scale.ndim else scale)
