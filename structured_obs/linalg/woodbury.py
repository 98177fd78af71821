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

MAX_STEPS = 20  # of refinement
MAX_ROUNDING = 0.005  # nats that rounding in a product with W may cost

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Capacitance(NamedTuple):
  """Factorised C = I + W^T W of one low-rank plus diagonal matrix, W = D^-1/2 P [n, R]."""

  basis: Array  # [n, R]  B = W V
  rotation: Array  # [R, R]  V, orthogonal: I where the Gram matrix W^T W is accurate as it is
  inner: Array  # [R, R]  lower triangular, with inner (I + B^T B) inner^T = I
  log_det: Array  # []  log |C| = log |P P^T + D| - log |D|, nats: twice the excess entropy

  @property
  def root(self) -> Array:
    """T [R, R] with T C T^T = I, so C^-1 = T^T T."""
    return matmul(self.inner, self.rotation.T)

  @property
  def half(self) -> Array:
    """W T^T [n, R], so W C^-1 W^T = half half^T."""
    return matmul(self.basis, self.inner.T)


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
    empty = matmul(scaled.T, scaled)
    return Capacitance(scaled, empty, empty, jnp.zeros_like(scaled, shape=()))
  return _factorise(scaled)


@jax.custom_jvp
def _factorise(scaled: Array) -> Capacitance:
  return _image_by_image_factorise(scaled)


@_factorise.defjvp
def _factorise_jvp(primals, tangents):
  # The rotation may be any orthogonal matrix, and is held. With the inner factor K, dK = -phi(K dC K^T) K
  # with phi the lower triangle and half of the diagonal, and d log |C| = tr(K dC K^T). Products only, so
  # the derivative of any order has the same form.
  (scaled,), (tangent,) = primals, tangents
  cap = _factorise(scaled)
  basis = matmul(tangent, cap.rotation)
  half = matmul(cap.half.T, matmul(basis, cap.inner.T))
  change = half + half.T
  lower = jnp.tril(change) - jnp.diag(jnp.diag(change)) / 2
  inner, log_det = -matmul(lower, cap.inner), jnp.trace(change)
  return cap, Capacitance(basis, jnp.zeros_like(cap.rotation), inner, log_det)


@jax.custom_batching.custom_vmap
def _image_by_image_factorise(scaled: Array) -> Capacitance:
  gram = matmul(scaled.T, scaled)
  plain, reliable = _by_cholesky(scaled, gram)
  return jax.lax.cond(reliable, lambda: plain, functools.partial(_by_rotation, scaled, gram))


@_image_by_image_factorise.def_vmap
def _factorise_vmap(axis_size, in_batched, scaled):
  # Batched LAPACK calls of the CPU backend wait for each other on the pool they run on: two
  # independent ones in one program can hang for ever. One matrix at a time is as fast there.
  del axis_size, in_batched
  one_by_one = functools.partial(jax.lax.map, _image_by_image_factorise)
  found = jax.lax.platform_dependent(scaled, cpu=one_by_one, default=_factorise_together)
  return found, jax.tree.map(lambda _: True, found)


def _factorise_together(scaled: Array) -> Capacitance:
  gram = jax.vmap(lambda w: matmul(w.T, w))(scaled)
  plain, reliable = jax.vmap(_by_cholesky)(scaled, gram)
  rotated = functools.partial(jax.vmap(_by_rotation), scaled, gram)
  return jax.lax.cond(jnp.all(reliable), lambda: plain, rotated)


def _by_cholesky(scaled: Array, gram: Array) -> tuple[Capacitance, Array]:
  """The factorisation from W^T W itself, and whether rounding has left it accurate."""
  identity = jnp.diag(jnp.ones_like(gram[0]))  # unlike eye, of the type that shard_map gave the Gram matrix
  matrix = gram + identity
  scale = jax.lax.rsqrt(jnp.diag(matrix))
  chol = jnp.linalg.cholesky(matrix * scale[:, None] * scale[None, :])
  pivots = jnp.diag(chol)
  # With a unit diagonal, a squared pivot is what a column adds to the ones before it. The Gram matrix
  # carries it with an error of a few eps, so what is left of its digits is what the square says. NaN,
  # from a matrix that rounding has made indefinite, compares as unreliable.
  reliable = jnp.min(jnp.square(pivots)) > 1e5 * jnp.finfo(gram.dtype).eps
  log_det = 2 * jnp.sum(jnp.log(pivots)) - 2 * jnp.sum(jnp.log(scale))
  inner = _inverse_triangular(chol) * scale[None, :]
  return Capacitance(scaled, identity, inner, log_det), reliable


def _by_rotation(scaled: Array, gram: Array) -> Capacitance:
  """The factorisation by way of W V, V the eigenvectors of W^T W.

  The columns of W V are nearly orthogonal, and the Gram matrix of such columns is accurate entry by
  entry, however much their norms differ: its Cholesky factor exists and is accurate where that of
  W^T W is lost in rounding.
  """
  rotation = jnp.linalg.eigh(gram)[1]
  basis = -_subtract_product(jnp.zeros_like(scaled), scaled, rotation)
  gram = matmul(basis.T, basis)
  chol = jnp.linalg.cholesky(gram + jnp.eye(gram.shape[0], dtype=gram.dtype))
  log_det = 2 * jnp.sum(jnp.log(jnp.diag(chol)))
  return Capacitance(basis, rotation, _inverse_triangular(chol), log_det)


def _inverse_triangular(chol: Array) -> Array:
  identity = jnp.eye(chol.shape[-1], dtype=chol.dtype)
  return jax.lax.linalg.triangular_solve(chol, identity, left_side=True, lower=True)


def whiten(cap: Capacitance, scaled_residual: Array) -> Whitened:
  """Whiten a residual by the ridge identity.

  Args:
    cap: of P and D.
    scaled_residual: [n], t = D^-1/2 r.
  """

  size = scaled_residual.shape[0]

  def augmented(unknown: Array) -> Array:  # of t - B z and z = V^T c: one vector, [n + R]
    rest, coefficients = unknown[:size], unknown[size:]
    # Not B^T times a vector: XLA would make a transposed copy of B, which costs more than all else.
    images = rest + matmul(cap.basis, coefficients), matmul(rest, cap.basis) - coefficients
    return jnp.concatenate(images)

  def solve(_, target: Array) -> Array:
    return jnp.concatenate(_refine(cap, target[:size], target[size:]))

  target = jnp.concatenate([scaled_residual, jnp.zeros_like(cap.inner, shape=cap.inner.shape[:1])])
  solution = jax.lax.custom_linear_solve(augmented, target, solve, symmetric=True)
  return Whitened(solution[:size], matmul(cap.rotation, solution[size:]))


def _refine(cap: Capacitance, target: Array, offset: Array) -> tuple[Array, Array]:
  """Solve the augmented system: rest = target - B z with B^T rest - z = offset.

  Returns:
    rest [n] and z [R].
  """
  eps = jnp.finfo(target.dtype).eps

  def white_error(rest: Array, coefficients: Array) -> Array:
    return matmul(cap.inner, matmul(rest, cap.basis) - coefficients - offset)

  def going(state) -> Array:
    rest, coefficients, error, count = state
    total = jnp.sum(jnp.square(rest)) + jnp.sum(jnp.square(coefficients))
    return (error > eps * total) & (count < MAX_STEPS)

  def step(state):
    rest, coefficients, _, count = state
    white = white_error(rest, coefficients)
    coefficients = coefficients + matmul(cap.inner.T, white)
    rest = target - matmul(cap.basis, coefficients)
    # |white|^2 is what the quadratic form was above its minimum before this step.
    return rest, coefficients, jnp.sum(jnp.square(white)), count + 1

  def accurately(state):
    # Where |B z| is so large that rounding matters, the rest is found more accurately, and a last
    # correction moves it alone: it is finer than the spacing of the coefficients.
    _, coefficients, rounding = state
    rest = _subtract_product(target, cap.basis, coefficients)
    change = matmul(cap.inner.T, white_error(rest, coefficients))
    return rest - matmul(cap.basis, change), coefficients + change, jnp.zeros_like(rounding)

  start = step((target, jnp.zeros_like(offset), None, 0))
  rest, coefficients, _, _ = jax.lax.while_loop(going, step, start)
  # A loop of at most one step: under vmap it is left out where no image needs it, unlike a branch.
  rounding = eps * jnp.linalg.norm(target - rest)
  state = jax.lax.while_loop(lambda s: s[2] > MAX_ROUNDING, accurately, (rest, coefficients, rounding))
  return state[:2]


def _subtract_product(target: Array, left: Array, right: Array) -> Array:
  """target - left right, with rounding errors hundreds of times smaller than those of the plain formula.

  The product of the leading digits is exact, so that where it cancels, nothing is lost.

  Args:
    target: [n] or [n, k].
    left: [n, R].
    right: [R] or [R, k].
  """
  digits = jnp.finfo(left.dtype).nmant + 1
  bits = (digits - max(left.shape[1] - 1, 1).bit_length()) // 2
  high_left, low_left = _split(left, bits, axis=1)
  high_right, low_right = _split(right, bits, axis=0)
  rest = target - matmul(high_left, high_right)
  return rest - (matmul(high_left, low_right) + matmul(low_left, right))


def _split(x: Array, bits: int, axis: int) -> tuple[Array, Array]:
  """The leading bits of x, counted from its largest entry along an axis, and what they leave."""
  exponent = jnp.frexp(jnp.max(jnp.abs(x), axis=axis, keepdims=True))[1]
  unit = jnp.ldexp(jnp.ones_like(x, shape=exponent.shape), exponent - bits)
  high = jnp.round(x / unit) * unit
  return high, x - high


def whiten_symmetrically(cap: Capacitance, scaled_residual: Array) -> Array:
  """(I + W W^T)^-1/2 t for t = D^-1/2 r: white and in the place of the residual. [n].

  Not to be differentiated where eigenvalues coincide.
  """
  # With M = I + W W^T and C^-1/2 = X S X^T: M^-1 t is the ridge residual, W^T times that is c, and
  # M^1/2 = I + W X (1 + 1 / S)^-1 X^T W^T, where W = half U S^-1 X^T for the root U S X^T.
  whitened = whiten(cap, scaled_residual)
  left, values, right = jnp.linalg.svd(cap.root)
  inner = matmul(right, whitened.coefficients) / (1 + values)
  return whitened.residual + matmul(cap.half, matmul(left, inner))


def leverage(cap: Capacitance) -> Array:
  """Diagonal of W C^-1 W^T, each in [0, 1): (Sigma^-1)_ii = (1 - leverage_i) / D_ii. [n]."""
  return jnp.sum(jnp.square(cap.half), axis=-1)


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
  half = cap.half if {'factor', 'diag'} & set(wanted) else cap.basis
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
  size = cap.basis.shape[0]
  log_det_diag = jnp.sum(jnp.log(diag)) if diag.ndim else size * jnp.log(diag)
  quadratic = jnp.sum(jnp.square(whitened.residual)) + jnp.sum(jnp.square(whitened.coefficients))
  return -0.5 * (size * math.log(2 * math.pi) + log_det_diag + cap.log_det + quadratic)


def _scale_rows(matrix: Array, scale: Array) -> Array:
  return matrix * (scale[:, None] if scale.ndim else scale)
