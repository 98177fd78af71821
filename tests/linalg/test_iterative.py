"""Iterative solvers against dense ones, and what they say when they did not get there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import iterative, products


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


SCALES = (2.0**-100, 2.0**-60, 2.0**60, 2.0**100)


def test_conjugate_gradient_is_of_any_scale():
  """In float32, where squares of such numbers are 0 or infinite; values, residuals and derivatives."""
  matrix, rhs = spd(20, 1e2).astype(jnp.float32), jnp.linspace(-1, 1, 20, dtype=jnp.float32)

  @jax.jit
  def solve(size, rhs):
    def total(rhs):
      solution = iterative.conjugate_gradient(lambda v: (size * matrix) @ v, rhs)
      return jnp.sum(solution.value * matrix[0]), solution

    return jax.grad(total, has_aux=True)(rhs)

  one = jnp.ones((), jnp.float32)
  gradient, expected = solve(one, rhs)
  assert expected.residual < 1e-5
  for scale in SCALES:
    found_gradient, found = solve(one, scale * rhs)
    np.testing.assert_array_equal(found.value, scale * expected.value)
    np.testing.assert_array_equal(found[1:], expected[1:])
    np.testing.assert_array_equal(found_gradient, gradient)
    gradient_of_scaled, found = solve(jnp.asarray(scale, jnp.float32), rhs)
    # Products of a tiny matrix with a late direction may underflow: as rounding does, no more.
    np.testing.assert_allclose(scale * found.value, expected.value, atol=1e-5)
    np.testing.assert_allclose(scale * gradient_of_scaled, gradient, atol=1e-5)


def test_a_wrong_solution_of_any_scale_has_a_residual():
  matrix, rhs = spd(60, 1e6).astype(jnp.float32), jnp.ones(60, jnp.float32)
  solve = jax.jit(lambda b: iterative.conjugate_gradient(lambda v: matrix @ v, b, max_iterations=3))
  for scale in (1e-30, 1e-22, 1e30, 1e37):
    assert solve(scale * rhs).residual == pytest.approx(float(solve(rhs).residual), rel=1e-3)


@pytest.mark.parametrize('dense_size', [512, 10])
def test_top_eigenpairs_are_of_any_scale(monkeypatch, dense_size):
  monkeypatch.setattr(iterative, 'DENSE_SIZE', dense_size)
  matrix = spd(40, 1e4).astype(jnp.float32)
  pairs = jax.jit(lambda m: iterative.top_eigenpairs(lambda v: m @ v, 40, 3, m.dtype))
  expected = pairs(matrix)
  for scale in SCALES:
    found = pairs(scale * matrix)
    np.testing.assert_array_equal(found.values, scale * expected.values)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    np.testing.assert_array_equal(found.residual, expected.residual)


def test_power_of_two():
  nothing = {0.0: 2.0, np.nan: 2.0, np.inf: 2.0}
  for value, expected in {3.0: 4.0, -1.0: 2.0, **nothing}.items():
    found = products.power_of_two(jnp.asarray([0, value], jnp.float32))
    assert float(found) == expected, value
  for value in (3e38, 2e-38):
    found = products.power_of_two(jnp.asarray([value], jnp.float32))
    assert 0 < float(1 / found) < np.inf
  assert products.power_of_two(jnp.zeros(0, jnp.float32)) == 2


@pytest.mark.x64
@pytest.mark.parametrize('rhs', [jnp.ones((2, 2)), jnp.ones(3, int), jnp.ones(())])
def test_a_right_hand_side_is_one_vector(rhs):
  with pytest.raises(ValueError, match='rhs must be one vector'):
    iterative.conjugate_gradient(lambda v: v, rhs)


@pytest.mark.x64
@pytest.mark.parametrize('k', [True, 1.0])
def test_the_number_of_eigenpairs_is_whole(k):
  with pytest.raises(TypeError, match='k must be a whole number'):
    iterative.top_eigenpairs(lambda v: v, 60, k, jnp.zeros(()).dtype)


@pytest.mark.parametrize('dense_size', [512, 10])
def test_top_eigenpairs(monkeypatch, dense_size):
  monkeypatch.setattr(iterative, 'DENSE_SIZE', dense_size)
  matrix = spd(60, 1e4)
  pairs = iterative.top_eigenpairs(lambda v: matrix @ v, 60, 3, matrix.dtype)
  values = np.linalg.eigvalsh(matrix)[::-1][:3]
  np.testing.assert_allclose(pairs.values, values, rtol=1e-4)
  np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-4)
  assert np.all(pairs.residual < 1e-2)


@pytest.mark.x64
@pytest.mark.parametrize('k', [0, 61])
def test_an_impossible_number_of_eigenpairs_is_refused(k):
  with pytest.raises(ValueError, match='k must be from 1 to the number of pixels, 60'):
    iterative.top_eigenpairs(lambda v: v, 60, k, jnp.zeros(()).dtype)
