"""Triangular solves: values, derivatives, batches, and that they survive many calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from structured_obs.linalg import triangular

SOLVES = {
  'solve': (triangular.solve, lambda lower: lower),
  'solve_transposed': (triangular.solve_transposed, lambda lower: lower.T),
}
EACH = pytest.mark.parametrize(('solve', 'matrix_of'), SOLVES.values(), ids=SOLVES)


def _lower(seed: int = 0, size: int = 6) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return np.tril(rng.normal(size=(size, size)), -1) + np.diag(rng.uniform(1, 2, size))


def _rhs(seed: int = 1) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(6, 2))


@EACH
def test_solution(solve, matrix_of):
  surplus = np.triu(np.full((6, 6), np.nan), 1)  # above the diagonal, where nothing is read
  actual = solve(jnp.asarray(_lower() + np.nan_to_num(surplus, nan=7.0)), jnp.asarray(_rhs()))
  expected = np.linalg.solve(matrix_of(_lower()), _rhs())
  np.testing.assert_allclose(actual, expected, rtol=1e-9 if actual.dtype == jnp.float64 else 1e-4)


@pytest.mark.x64
@EACH
def test_derivatives_of_both_orders(solve, matrix_of):
  del matrix_of
  check_grads(solve, (jnp.asarray(_lower()), jnp.asarray(_rhs())), order=2, rtol=1e-5, atol=1e-6)


@EACH
@pytest.mark.parametrize('axes', [(0, 0), (0, None), (None, 0)])
def test_batches(solve, matrix_of, axes: tuple[int | None, int | None]):
  lowers, rhs = np.stack([_lower(s) for s in range(3)]), np.stack([_rhs(s) for s in range(3)])
  both = zip((lowers, rhs), axes, strict=True)
  arguments = [jnp.asarray(a if axis == 0 else a[0]) for a, axis in both]
  actual = jax.jit(jax.vmap(solve, in_axes=axes))(*arguments)
  for i in range(3):
    lower, b = lowers[i if axes[0] == 0 else 0], rhs[i if axes[1] == 0 else 0]
    np.testing.assert_allclose(actual[i], np.linalg.solve(matrix_of(lower), b), rtol=1e-4)


def test_gradients_of_two_batched_solves_end():
  """Two independent batched LAPACK calls in one program can wait for each other for ever."""

  @jax.jit
  @jax.grad
  def step(lowers):
    first = jax.vmap(triangular.solve)(lowers, rhs)
    second = jax.vmap(triangular.solve_transposed)(lowers, rhs)
    return jnp.sum(first) + jnp.sum(second)

  lowers = jnp.asarray(np.stack([_lower(s) for s in range(16)]))
  rhs = jnp.asarray(np.stack([_rhs(s) for s in range(16)]))
  assert all(np.all(np.isfinite(step(lowers))) for _ in range(300))
