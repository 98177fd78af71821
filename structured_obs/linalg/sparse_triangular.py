"""Sparse lower-triangular matrices on an image grid: products, solves and log densities.

Letters: H W height, width; K later neighbours of a pixel; B images; R right-hand sides of one image.

Pixels are in raster order. Column j of L holds a positive diagonal entry and, for each of the K
*offsets* (dr, dc) that lead to a raster-later pixel, the entry L[j + (dr, dc), j]. Both are stored at
pixel j, the layout that a convolution emits, and an entry whose row would lie outside the image is no
part of L: it is never read. So with o_k the offsets and w_k the weights,

  (L^T v)[j] = diag[j] v[j] + sum_k w_k[j] v[j + o_k]              a stencil
  (L v)[i]   = diag[i] v[i] + sum_k w_k[i - o_k] v[i - o_k]        its transpose

L L^T is the precision of a Gaussian whose sample is L^-T u: pixel j given the later ones. A solve scans
over the rows of the image on a CPU; elsewhere, and for a factor that is packed once and used often, it
runs over the diagonal wavefronts of `linalg.wavefront`. Derivatives of every order come from the
products alone (`lax.custom_linear_solve`), and no scan is stored for them. Cost: H W K for each.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, section 3.2.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import closed_form, row_scan, sharding, stencil, transposable, wavefront

Array = jax.Array
Offsets = tuple[tuple[int, int], ...]  # (rows down, columns right), each raster-later than (0, 0)

# A conditional maps its products several times over: as programs of their own they are traced once for
# each shape, which halves the time to trace it.
def _traced_once(function: Callable[..., Array]) -> Callable[..., Array]:
  return sharding.on_own_mesh(jax.jit(function, static_argnames='offsets'))


class Factor(NamedTuple):
  """Lower-triangular L of one image grid."""

  diag: Array  # [H, W], positive
  weights: Array  # [H, W, K]  column j of L below its diagonal, at pixel j


def offsets(filter_size: int) -> Offsets:
  """Raster-later half of a square neighbourhood: (0, 1..h), then (1..h, -h..h), h = filter_size // 2.

  Raises:
    ValueError: unless the size is odd and positive.
  """
  if filter_size < 1 or filter_size % 2 == 0:
    raise ValueError(f'filter_size must be odd and at least 1; got {filter_size}.')
  half = filter_size // 2
  same_row = [(0, column) for column in range(1, half + 1)]
  later_rows = [(row, column) for row in range(1, half + 1) for column in range(-half, half + 1)]
  return (*same_row, *later_rows)


def filter_size(neighbours: int) -> int:
  """The filter size f whose neighbourhood has K = (f^2 - 1) / 2 later neighbours.

  Raises:
    ValueError: no odd f has that many.
  """
  size = math.isqrt(2 * neighbours + 1)
  if size * size != 2 * neighbours + 1:
    raise ValueError(
      f'There must be K = (f^2 - 1) / 2 neighbours for an odd f, as 0, 4, 12 or 24; got {neighbours}.'
    )
  return size


def mask(weights: Array, offsets: Offsets) -> Array:
  """Weights [H, W, K] with a 0 for each entry whose row lies outside the image."""
  height, width, _ = weights.shape
  ones = jnp.ones_like(weights, shape=(height, width))
  return weights * jnp.stack([_shifted(ones, o) for o in offsets], axis=-1) if offsets else weights


def scale_rows(factor: Factor, scale: Array, offsets: Offsets) -> Factor:
  """diag(t) L for t [H, W], a factor of diag(t) L L^T diag(t)."""
  ends = [_shifted(scale, offset) for offset in offsets]
  weights = factor.weights * jnp.stack(ends, axis=-1) if offsets else factor.weights
  return Factor(factor.diag * scale, weights)


@_traced_once
def matvec(factor: Factor, v: Array, offsets: Offsets) -> Array:
  """L v. [H, W].

  Raises:
    ValueError: the shapes do not match.
  """
  _check(factor, v, offsets)
  return _matvec(factor, v, offsets)


@_traced_once
def matvec_transposed(factor: Factor, v: Array, offsets: Offsets) -> Array:
  """L^T v: the stencil, which whitens a residual of N(0, (L L^T)^-1). [H, W].

  Raises:
    ValueError: the shapes do not match.
  """
  _check(factor, v, offsets)
  return factor.diag * v + _stencil(factor.weights, v, offsets)


@_traced_once
def solve(factor: Factor, rhs: Array, offsets: Offsets) -> Array:
  """L^-1 b. [H, W].

  Raises:
    ValueError: the shapes do not match.
  """
  _check(factor, rhs, offsets)
  product = functools.partial(_matvec, factor, offsets=offsets)
  forward, backward = _solvers(factor, offsets)
  return jax.lax.custom_linear_solve(product, rhs, forward, backward)


@_traced_once
def solve_transposed(factor: Factor, rhs: Array, offsets: Offsets) -> Array:
  """L^-T u: a sample of N(0, (L L^T)^-1) for white noise u. [H, W].

  Raises:
    ValueError: the shapes do not match.
  """
  _check(factor, rhs, offsets)
  product = functools.partial(_matvec_transposed, factor, offsets=offsets)
  forward, backward = _solvers(factor, offsets)
  return jax.lax.custom_linear_solve(product, rhs, backward, forward)


def _solvers(factor: Factor, offsets: Offsets):
  """(L^-1, L^-T) as functions of the two that `custom_linear_solve` asks for."""

  def run(transposed: bool, _, rhs: Array) -> Array:
    row = functools.partial(row_scan.solve, offsets=offsets, transposed=transposed)
    wave = functools.partial(wavefront.pack_and_solve, offsets=offsets, transposed=transposed)
    return jax.lax.platform_dependent(*factor, rhs, cpu=row, default=wave)

  return functools.partial(run, False), functools.partial(run, True)


@sharding.on_own_mesh
def log_density(log_diag: Array, weights: Array, residual: Array, offsets: Offsets) -> Array:
  """Log density of N(0, (L L^T)^-1) at a residual [H, W], L's diagonal being exp(log_diag). [], nats.

  Its derivative is in closed form. Mapped over images on a CPU, it takes one after the other, which
  needs a fraction of the memory.

  Reference: SUPN, equation 4, with the constants that it leaves out.
  """
  _check(Factor(log_diag, weights), residual, offsets)
  return _log_density(offsets)(log_diag, weights, residual)


@functools.cache
def _log_density(offsets: Offsets):
  formulas = functools.partial(density_and_gradients, offsets=offsets)
  return closed_form.by_image(('log_diag', 'weights', 'residual'), formulas)  # its value is tiled


def density_and_gradients(
  wanted: closed_form.Wanted, log_diag: Array, weights: Array, residual: Array, offsets: Offsets
) -> tuple[Array, ...]:
  """The log density [] and its derivatives by the wanted of 'log_diag', 'weights' and 'residual'.

  With z = L^T r, they are 1 - z d r for log_diag, -z_j r_(j + o_k) for w_k[j] and -L z for r.
  """
  diag = jnp.exp(log_diag)
  own, near = diag * residual, stencil.neighbours(residual, offsets)
  if wanted:
    whitened = sum((weights[..., k] * v for k, v in enumerate(near)), start=own)
  else:
    whitened = own + _stencil(weights, residual, offsets)
  constant = 0.5 * math.log(2 * math.pi) * whitened.size
  gradients = []
  for name in wanted:
    if name == 'log_diag':
      gradients.append(1 - whitened * own)
    elif name == 'residual':
      gradients.append(-_matvec(Factor(diag, weights), whitened, offsets))
    else:
      # Stacked in front and turned round: a CPU takes longer to stack along the last axis.
      columns = [-whitened * v for v in near]
      gradients.append(jnp.moveaxis(jnp.stack(columns), 0, -1) if columns else 0 * weights)
  return jnp.sum(log_diag - 0.5 * jnp.square(whitened)) - constant, *gradients


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _stencil(weights: Array, v: Array, offsets: Offsets) -> Array:
  """sum_k w_k[j] v[j + o_k]. [H, W]. Bilinear, and differentiated as such."""
  forward = functools.partial(stencil.apply, weights, offsets=offsets)
  backward = functools.partial(_spread, weights, offsets=offsets)
  return transposable.apply(forward, backward, v)


@_stencil.defjvp
def _stencil_jvp(offsets, primals, tangents):
  (weights, v), (d_weights, d_v) = primals, tangents
  tangent = stencil.shifts(d_weights, v, offsets) + stencil.shifts(weights, d_v, offsets)
  return _stencil(weights, v, offsets), tangent


def _matvec_transposed(factor: Factor, v: Array, offsets: Offsets) -> Array:
  return factor.diag * v + stencil.shifts(factor.weights, v, offsets)


def _matvec(factor: Factor, v: Array, offsets: Offsets) -> Array:
  return factor.diag * v + _spread(factor.weights, v, offsets)


def _spread(weights: Array, v: Array, offsets: Offsets) -> Array:
  """sum_k w_k[i - o_k] v[i - o_k], the transpose of the stencil. [H, W]."""
  terms = (_shifted(weights[..., k] * v, (-dr, -dc)) for k, (dr, dc) in enumerate(offsets))
  return sum(terms, start=jnp.zeros_like(v))


def _shifted(v: Array, offset: tuple[int, int]) -> Array:
  """v[j + offset] at j, 0 from outside. [H, W]."""
  (dr, dc), (height, width) = offset, v.shape
  if abs(dr) >= height or abs(dc) >= width:
    return jnp.zeros_like(v)
  inner = v[max(dr, 0) : height + min(dr, 0), max(dc, 0) : width + min(dc, 0)]
  return jnp.pad(inner, ((max(-dr, 0), max(dr, 0)), (max(-dc, 0), max(dc, 0))))


def _check(factor: Factor, v: Array, offsets: Offsets) -> None:
  shape = jnp.shape(v)
  wanted = (shape, (*shape, len(offsets)))
  if len(shape) != 2 or (jnp.shape(factor.diag), jnp.shape(factor.weights)) != wanted:
    raise ValueError(
      f'diag and v must have one shape [H, W] and weights [H, W, {len(offsets)}], one for each offset; '
      f'got {jnp.shape(factor.diag)}, {shape} and {jnp.shape(factor.weights)}. These functions take one '
      'image: map them over a batch with jax.vmap.'
    )
  if any(offset <= (0, 0) for offset in offsets):
    raise ValueError(f'Every offset must lead to a raster-later pixel; got {offsets}.')
