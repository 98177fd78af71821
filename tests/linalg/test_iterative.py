"""Iterative solvers against dense ones, and what they say when they did not get there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import iterative


def spd(size: int, condition: float, seed: int = 0):
  """Symmetric positive definite matrix of a chosen condition number. [n, n]."""
  basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]
  return jnp.asarray((basis * np.geomspace(1, condition, size)) @ basis.T)


def test_conjugate_gradient_solves():
  matrix, rhs = spd(30, 1e3), jnp.asarray(np.random.default_rng(1).normal(size=30))
  solution = jax.jit(lambda b: iterative.conjugate_gradient(lambda v: matrix @ v, b))(rhs)
  tolerance = 1e-9 if matrix.dtype == jnp.float64 else 1e-2
  np.testing.assert_allclose(solution.value, jnp.linalg.solve(matrix, rhs), atol=tolerance)
  assert solution.residual < tolerance


def test_conjugate_gradient_says_when_it_stopped_short():
  matrix, rhs = spd(60, 1e6), jnp.ones(60)
  solution = iterative.conjugate_gradient(lambda v: matrix @ v, rhs, max_iterations=3)
  assert solution.residual > 1e-3


def test_no_right_hand_side_gives_no_solution_and_no_nan():
  solution = iterative.conjugate_gradient(lambda v: v, jnp.zeros(4))
  np.testing.assert_array_equal(solution.value, 0)
  assert solution.residual == 0


@pytest.mark.parametrize('dense_size', [512, 10])
def test_top_eigenpairs(monkeypatch, dense_size):
  monkeypatch.setattr(iterative, 'DENSE_SIZE', dense_size)
  matrix = spd(60, 1e4)
  pairs = iterative.top_eigenpairs(lambda v: matrix @ v, 60, 3, matrix.dtype)
  values = np.linalg.eigvalsh(matrix)[::-1][:3]
  np.testing.assert_allclose(pairs.values, values, rtol=1e-4)
  np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-4)
  assert np.all(pairs.residual < 1e-2)


@pytest.mark.parametrize('k', [0, 61])
def test_an_impossible_number_of_eigenpairs_is_refused(k):
  with pytest.raises(ValueError, match='k must be from 1 to the number of pixels, 60'):
    iterative.top_eigenpairs(lambda v: v, 60, k, jnp.zeros(()).dtype)
