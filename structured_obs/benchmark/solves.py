"""Triangular solves with the sparse factor of an image grid and their gradients."""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark.factors import bands, lower, normal
from structured_obs.benchmark.measure import Bar, Candidate, Task, compiled, faster
from structured_obs.linalg import row_scan, sparse_triangular, wavefront
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array
LAPACK = 'LAPACK tbtrs'
SAMPLES = 64
NAIVE_PIXELS = 16 * 64 * 64  # beyond it a scan over pixels takes a second a call


def tasks(name: str, factors: Factor, rhs: Array, pattern: Offsets) -> Iterator[Task]:
  """Yields the tasks of L^-T u of B images: as stored, packed, with many sides, and its gradient.

  Args:
    name: of the problem, in records.
    factors: [B, ...] each.
    rhs: [B, H, W].
    pattern: K offsets.
  """
  sides = np.asarray(rhs).reshape(rhs.shape[0], -1, 1)
  exact, peers = _peers(factors, sides, pattern)
  missing = () if peers else ('scipy',)
  solve = functools.partial(sparse_triangular.solve_transposed, offsets=pattern)
  candidates = [compiled('ours', jax.vmap(solve), factors, rhs), *peers]
  natural, quick = lapack_bars(len(pattern), rhs.shape)
  yield Task(f'solve {name}', candidates, exact, natural, missing)

  options = {'offsets': pattern, 'transposed': True}
  pack = jax.vmap(functools.partial(wavefront.pack, **options), out_axes=-1)
  yield Task(f'packing for solves {name}', [compiled('ours', pack, *factors)])
  packed = jax.jit(pack)(*factors)
  run = jax.vmap(functools.partial(wavefront.solve, **options), in_axes=(-1, 0))
  candidates = [compiled('ours', run, packed, rhs), *peers[:1]]
  yield Task(f'packed solve {name}', candidates, exact, quick, missing)
  if rhs.shape[0] <= SAMPLES:
    yield _gradient(name, factors, rhs, pattern)


def samples(name: str, factors: Factor, pattern: Offsets) -> Task:
  """Returns the task of many right-hand sides of the first image's factor.

  Args:
    name: of the problem, in records.
    factors: [B, ...] each.
    pattern: K offsets.
  """
  one = jax.tree.map(lambda x: x[0], factors)
  noise = normal(SAMPLES, *one.diag.shape)
  sides = np.asarray(noise).reshape(1, SAMPLES, -1).swapaxes(1, 2)
  exact, peers = _peers(jax.tree.map(lambda x: x[:1], factors), sides, pattern)
  solve = functools.partial(sparse_triangular.solve_transposed, offsets=pattern)
  candidates = [compiled('ours', jax.vmap(solve, in_axes=(None, 0)), one, noise), *peers[:1]]
  limit = 10.0 if _native_loops() else 6.0
  bars = (faster(LAPACK, limit),) if len(pattern) == 12 and one.diag.shape[0] >= 64 else ()
  missing = () if peers else ('scipy',)
  return Task(f'{SAMPLES} samples of one factor {name}', candidates, exact, bars, missing)


def lapack_bars(neighbours: int, shape: tuple[int, ...]) -> tuple[tuple[Bar, ...], tuple[Bar, ...]]:
  """Returns the bars as stored; and packed, where the compiler may make native loops of large bodies.

  Both are higher there.
  """
  batch, size, _ = shape
  wanted = {64: (16, 2.5, 3.5, 8.0), 128: (16, 7.0, 9.0, 20.0), 256: (1, 8.0, 13.0, 40.0)}.get(size)
  if neighbours != 12 or wanted is None or batch < wanted[0]:
    return (), ()
  if not _native_loops():
    return (faster(LAPACK, wanted[1]),), ()
  return (faster(LAPACK, wanted[2]),), (faster(LAPACK, wanted[3]),)


def _native_loops() -> bool:
  """Returns whether XLA_FLAGS let the compiler make native loops of large bodies."""
  return 'xla_cpu_small_while_loop_byte_threshold' in os.environ.get('XLA_FLAGS', '')


def _peers(factors: Factor, sides: Any, pattern: Offsets) -> tuple[Any, list[Candidate]]:
  """Returns the float64 solution and what SciPy has for sides [B, n, R]; solutions are [B, R, n]."""
  if importlib.util.find_spec('scipy') is None:
    return None, []
  from scipy.linalg import get_lapack_funcs
  from scipy.sparse.linalg import spsolve_triangular

  found = bands(factors, pattern)
  # Fortran order, as LAPACK wants it; else every call copies the band.
  fortran = [np.asfortranarray(band) for band in found]
  right = [np.asfortranarray(side) for side in sides]

  def banded(band: Any, side: Any) -> Any:
    (routine,) = get_lapack_funcs(('tbtrs',), (side,))
    return routine(band, side, uplo='L', trans='T')[0].T

  def all_banded() -> Any:
    return np.stack([banded(*pair) for pair in zip(fortran, right, strict=True)])

  matrices = [lower(band).T.tocsr() for band in found]

  def all_sparse() -> Any:
    pairs = zip(matrices, sides, strict=True)
    return np.stack([spsolve_triangular(*pair, lower=False).T for pair in pairs])

  doubles = zip(fortran, right, strict=True)
  exact = np.stack([banded(band.astype(np.float64), side.astype(np.float64)) for band, side in doubles])
  peers = {LAPACK: all_banded, 'scipy spsolve_triangular': all_sparse}
  return exact, [Candidate(name, run) for name, run in peers.items()]


def _gradient(name: str, factors: Factor, rhs: Array, pattern: Offsets) -> Task:
  """Returns the task of each solution's squared norm and its gradient by factor and right-hand side."""
  same = 'autodiff of the same row scan'
  candidates = [
    compiled('ours', gradient(pattern), factors, rhs),
    compiled(same, _gradient_of_rows(pattern), factors, rhs),
  ]
  if rhs.size <= NAIVE_PIXELS:
    naive = _mapped_gradient(functools.partial(_naive_solve, pattern=pattern))
    candidates.append(compiled('autodiff of a scan over pixels', naive, factors, rhs))
  wanted = len(pattern) == 12 and rhs.shape[1] >= 64
  bars = (faster(same, 1.7), Bar('temporary_bytes', 10.0, same)) if wanted else ()
  return Task(f'solve, value and gradient {name}', candidates, bars=bars)


def gradient(pattern: Offsets) -> Callable[..., Any]:
  """Returns (factors, rhs [B, H, W]) -> (|L^-T u|^2 [B], its gradients by both)."""
  return _mapped_gradient(functools.partial(sparse_triangular.solve_transposed, offsets=pattern))


def _mapped_gradient(solver: Callable[[Factor, Array], Array]) -> Callable[..., Any]:
  def value(factor: Factor, side: Array) -> Array:
    return jnp.sum(jnp.square(solver(factor, side)))

  return jax.vmap(jax.value_and_grad(value, argnums=(0, 1)))


def _gradient_of_rows(pattern: Offsets) -> Callable[..., Any]:
  """Returns the same by autodiff through the batched row scan, which stores its steps."""

  def total(factors: Factor, rhs: Array) -> tuple[Array, Array]:
    solved = row_scan.solve_many(*factors, rhs[:, None], pattern, transposed=True)
    values = jnp.sum(jnp.square(solved), axis=(1, 2, 3))
    return jnp.sum(values), values

  def run(factors: Factor, rhs: Array) -> tuple[Array, tuple[Factor, Array]]:
    (_, values), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(factors, rhs)
    return values, gradients

  return run


def _naive_solve(factor: Factor, rhs: Array, pattern: Offsets) -> Array:
  """Returns L^-T u pixel by pixel, as a user would write it."""
  shifts = [dr * rhs.shape[1] + dc for dr, dc in pattern]

  def pixel(later: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    diag, weights, right = inputs
    known = sum((weights[k] * later[s - 1] for k, s in enumerate(shifts)), start=jnp.zeros_like(right))
    value = (right - known) / diag
    return jnp.concatenate([value[None], later])[: later.shape[0]], value

  weights = sparse_triangular.mask(factor.weights, pattern)  # else a derivative would wrap around
  flat = (factor.diag.reshape(-1), weights.reshape(rhs.size, -1), rhs.reshape(-1))
  start = jnp.zeros_like(rhs, shape=(max(shifts, default=0),))
  return jax.lax.scan(pixel, start, flat, reverse=True)[1].reshape(rhs.shape)
