"""Banded Cholesky factorisation and solve, against SciPy's."""

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark.factors import bands, normal, random_factors
from structured_obs.benchmark.measure import Candidate, Task, compiled
from structured_obs.linalg import banded, sparse_triangular

Array = jax.Array


def task(size: int, filter_size: int) -> Task:
  """Returns A^-1 b for the precision A of one size x size image, its factorisation included."""
  pattern = sparse_triangular.offsets(filter_size)
  chol = jnp.asarray(bands(random_factors(size, pattern, 1), pattern)[0].T)
  band, rhs = jax.jit(banded.gram)(chol), normal(size * size)
  candidates = [
    compiled('ours', banded.solve, band, rhs),
    compiled('ours, factor kept', _with_factor, band, rhs),
  ]
  name = f'banded Cholesky and solve n={band.shape[0]} w={band.shape[1] - 1}'
  if importlib.util.find_spec('scipy') is None:
    return Task(name, candidates, missing=('scipy',))
  peers = _peers()
  exact = peers['scipy solveh_banded'](*(np.asarray(x, np.float64) for x in (band.T, rhs)))
  # Fortran order, as LAPACK wants it.
  given = np.asfortranarray(np.asarray(band).T), np.asarray(rhs)
  candidates += [Candidate(name, lambda run=run: run(*given)) for name, run in peers.items()]
  return Task(name, candidates, exact)


def _with_factor(band: Array, rhs: Array) -> Array:
  return banded.cho_solve(banded.cholesky(band), rhs)


def _peers() -> dict[str, Callable[[Any, Any], Any]]:
  from scipy import linalg

  def by_factor(ab: Any, b: Any) -> Any:
    return linalg.cho_solve_banded((linalg.cholesky_banded(ab, lower=True), True), b)

  return {
    'scipy solveh_banded': lambda ab, b: linalg.solveh_banded(ab, b, lower=True),
    'scipy cholesky_banded, cho_solve_banded': by_factor,
  }
