"""The capacitance C = I + W^T W of a whitened factor W = A P, factorised in float32 without loss.

Letters: n size, R rank, m whitened size, n or more.

A is the linear map of a whitening: A^T A is the inverse of the covariance S that P P^T is added to. It
is D^-1/2 for independent pixels (`by_scale`).

Where columns of W are almost dependent, their small differences matter as much as the columns, but are
lost in W^T W. C is then factorised in the coordinates z = V^T c, V the eigenvectors of W^T W: each
direction has its own column in B = W V, which keeps its digits because the leading digits of the product
are exact.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import decompositions
from structured_obs.linalg.image_by_image import quick_or_careful
from structured_obs.linalg.products import matmul, scale_rows, subtract_product

Array = jax.Array
# A pytree with the arrays that it needs: [n] -> [m], and [n, k] -> [m, k] column by column, any k.
Whitening = Callable[[Array], Array]


class Capacitance(NamedTuple):
  """Factorised C = I + W^T W of one low-rank update S + P P^T."""

  factor: Array  # [n, R]  P
  whitening: Whitening  # A
  basis: Array  # [m, R]  B = W V
  rotation: Array  # [R, R]  V, orthogonal; I unless columns are almost dependent
  inner: Array  # [R, R]  lower triangular K with K (I + B^T B) K^T = I
  log_det: Array  # []  log |C| = log |S + P P^T| - log |S|, nats: twice the entropy that P adds

  @property
  def root(self) -> Array:
    """T [R, R] with T C T^T = I, so C^-1 = T^T T."""
    return matmul(self.inner, self.rotation.T)

  @property
  def half(self) -> Array:
    """W T^T [m, R], so W C^-1 W^T = half half^T."""
    return matmul(self.basis, self.inner.T)


class _Parts(NamedTuple):
  """The fields of `Capacitance` that are computed from W."""

  basis: Array
  rotation: Array
  inner: Array
  log_det: Array


@jax.jit  # called eagerly, the loops inside would be compiled anew on every call
def capacitance(factor: Array, whitening: Whitening) -> Capacitance:
  """Factorises the capacitance of S + P P^T.

  Args:
    factor: [n, R], P. Any R, 0 and more than n included; columns may repeat, vanish, or differ in
      scale by many decades.
    whitening: A, a pytree (`jax.tree_util.Partial`).
  """
  whitened = whitening(factor)
  if factor.shape[1] == 0:
    empty = matmul(whitened.T, whitened)
    log_det = 0 * jnp.sum(whitening(jnp.zeros_like(factor, shape=factor.shape[:1])))  # NaN is kept
    return Capacitance(factor, whitening, whitened, empty, empty, log_det)
  parts = _factorise(whitened, *jax.lax.stop_gradient((factor, whitening)))
  return Capacitance(factor, whitening, *parts)


def quick_capacitance(factor: Array, whitening: Whitening, whitened: Array) -> tuple[Capacitance, Array]:
  """Returns `capacitance` for R > 0 by Cholesky alone, and whether it is accurate, [] bool.

  Args:
    factor: [n, R], P.
    whitening: A.
    whitened: [m, R], W = A P.
  """
  parts, reliable = _by_cholesky(whitened, matmul(whitened.T, whitened))
  return Capacitance(factor, whitening, *parts), reliable


def by_scale(inverse_scale: Array) -> Whitening:
  """Returns the whitening D^-1/2 of independent pixels.

  Args:
    inverse_scale: [n] or [], D^-1/2.
  """
  return jax.tree_util.Partial(_scaled, inverse_scale)


def _scaled(inverse_scale: Array, columns: Array) -> Array:
  return scale_rows(columns, inverse_scale)


@jax.custom_jvp
def _factorise(whitened: Array, factor: Array, whitening: Whitening) -> _Parts:
  """Returns the parts as a function of W; P and A give its digits before rounding."""
  return _by_cholesky_or_rotation(whitened, matmul(whitened.T, whitened), factor, whitening)


@_factorise.defjvp
def _factorise_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
  # V may be any orthogonal matrix and is held fixed. dK = -phi(K dC K^T) K with phi the lower triangle
  # and half of the diagonal, and d log |C| = tr(K dC K^T). Products only, so the derivative of any
  # order has the same form.
  parts = _factorise(*primals)
  basis = matmul(tangents[0], parts.rotation)
  half = matmul(matmul(parts.basis, parts.inner.T).T, matmul(basis, parts.inner.T))
  change = half + half.T
  lower = jnp.tril(change) - jnp.diag(jnp.diag(change)) / 2
  inner, log_det = -matmul(lower, parts.inner), jnp.trace(change)
  return parts, _Parts(basis, jnp.zeros_like(parts.rotation), inner, log_det)


def _by_cholesky(whitened: Array, gram: Array, *_: Any) -> tuple[_Parts, Array]:
  """Returns the parts from W^T W itself, and whether rounding has left them accurate."""
  identity = jnp.diag(jnp.ones_like(gram[0]))  # eye would not vary over devices as the matrix does
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
  return _Parts(whitened, identity, inner, log_det), reliable


def _by_rotation(_: Array, gram: Array, factor: Array, whitening: Whitening) -> _Parts:
  """Returns the parts computed from W V, V the eigenvectors of W^T W.

  The columns of W V are nearly orthogonal, and the Gram matrix of such columns is accurate entry by
  entry, however much their norms differ: its Cholesky factor exists where that of W^T W is lost in
  rounding. What rounding of V has left of their angles, a second factorisation of K C K^T corrects.
  """
  rotation = decompositions.eigh(gram)[1]
  basis = whitening(subtract_product(jnp.zeros_like(factor), factor, -rotation))
  gram = matmul(basis.T, basis)
  chol = jnp.linalg.cholesky(gram + jnp.eye(gram.shape[0], dtype=gram.dtype))
  inner = _inverse_triangular(chol)
  half = matmul(basis, inner.T)
  again = jnp.linalg.cholesky(matmul(half.T, half) + matmul(inner, inner.T))
  log_det = 2 * (jnp.sum(jnp.log(jnp.diag(chol))) + jnp.sum(jnp.log(jnp.diag(again))))
  return _Parts(basis, rotation, matmul(_inverse_triangular(again), inner), log_det)


_by_cholesky_or_rotation = quick_or_careful(_by_cholesky, _by_rotation)


def _inverse_triangular(chol: Array) -> Array:
  identity = jnp.eye(chol.shape[-1], dtype=chol.dtype)
  return jax.lax.linalg.triangular_solve(chol, identity, left_side=True, lower=True)
