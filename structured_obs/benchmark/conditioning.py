"""Conditional means of hidden pixels, against sparse direct solvers."""

import importlib
import importlib.util
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark.factors import bands, lower, normal, random_factors
from structured_obs.benchmark.measure import Bar, Candidate, Task, judge, program
from structured_obs.distributions import gaussian, sparse_precision
from structured_obs.distributions.sparse_precision import SparsePrecision
from structured_obs.linalg import sparse_triangular
from structured_obs.linalg.sparse_triangular import Factor

Array = jax.Array
CHOLMOD = 'CHOLMOD'
# (fraction of pixels observed, sum of a pixel's coefficients: how far correlations reach)
CASES = tuple(itertools.product((0.1, 0.25, 0.5), (0.9, 0.99)))


def tasks(size: int, filter_size: int) -> Iterator[Task]:
  """Yields the task of the conditional mean of one image, case by case.

  Peers factorise a matrix that they are given and solve; where pixels are hidden is part of our input.
  """
  pattern = sparse_triangular.offsets(filter_size)
  family = sparse_precision.family(filter_size)
  x = normal(size, size, 1)
  draws = np.random.default_rng(2).random((size, size, 1))

  def mean(params: SparsePrecision, x: Array, observed: Array) -> Array:
    return gaussian.condition(family, params, x, observed).mean

  like = _params(random_factors(size, pattern, 1)), x, jnp.asarray(draws < 1)
  ours = program(mean, *like)
  for fraction, strength in CASES:
    factors = random_factors(size, pattern, 1, strength)
    observed = draws < fraction
    observed[0, 0], observed[-1, -1] = True, False  # some of each in the smallest image
    candidate = ours('ours', _params(factors), x, jnp.asarray(observed))
    name = f'conditional mean f={filter_size} {size}x{size} {fraction:.0%} observed, sum {strength}'
    if importlib.util.find_spec('scipy') is None:
      yield Task(name, [candidate], missing=('scipy',))
      continue
    chol = lower(bands(factors, pattern)[0].astype(np.float64))
    peers = _peers(chol, np.asarray(x), observed)
    missing = () if _cholmod() else ('CHOLMOD (scikit-sparse)',)
    exact = peers[-1].run()
    yield Task(name, [candidate, *peers], exact, (Bar('error', 2e-5),), missing)


def median_case(size: int, filter_size: int, records: list[dict[str, Any]]) -> dict[str, Any]:
  """Returns the median over the cases of the ratio to each peer: a record for JSON.

  Args:
    size: pixels along each side.
    filter_size: f, odd.
    records: of the cases.
  """
  ratios: dict[str, list[float]] = {}
  for row in (row for record in records for row in record['candidates']):
    ratios.setdefault(row['name'], []).append(row['ratio'])
  rows = [{'name': name, 'ratio': statistics.median(found)} for name, found in ratios.items()]
  bars = (Bar('ratio', 1.0, CHOLMOD),) if size >= 64 else ()
  name = f'conditional mean f={filter_size} {size}x{size}'
  return {'median': name, 'rows': rows, 'bars': judge(bars, rows)}


def _params(factors: Factor) -> SparsePrecision:
  """Returns the distribution of one-channel images with the first factor and mean 0."""
  diag, weights = factors.diag[0, ..., None], factors.weights[0, :, :, None]
  return SparsePrecision(jnp.zeros_like(diag), jnp.log(diag), weights, weights[..., :0])


def _peers(chol: Any, x: Any, observed: Any) -> list[Candidate]:
  """Returns the direct solvers in float64, SciPy's last."""
  from scipy.sparse import csc_matrix
  from scipy.sparse.linalg import spsolve

  seen = observed.reshape(-1)
  precision = csc_matrix(chol @ chol.T)
  flat = x.reshape(-1).astype(np.float64)
  block = csc_matrix(precision[~seen][:, ~seen])
  right = -(precision[~seen][:, seen] @ flat[seen])

  def filled(solve: Callable[[Any, Any], Any]) -> Any:
    result = flat.copy()
    result[~seen] = solve(block, right)
    return result.reshape(x.shape)

  cholmod = _cholmod()
  found = [Candidate(CHOLMOD, lambda: filled(cholmod))] if cholmod else []
  return [*found, Candidate('scipy spsolve', lambda: filled(spsolve))]


def _cholmod() -> Callable[[Any, Any], Any] | None:
  """Returns CHOLMOD's A^-1 b with its factorisation, from scikit-sparse or sksparse-minimal."""
  try:
    module = importlib.import_module('sksparse.cholmod')
    return module.cho_solve if hasattr(module, 'cho_solve') else lambda a, b: module.cholesky(a)(b)
  except ImportError:
    pass
  try:
    module = importlib.import_module('sksparse_minimal')
  except ImportError:
    return None
  return lambda a, b: module.SparseCholesky(a).solve_A(b)
