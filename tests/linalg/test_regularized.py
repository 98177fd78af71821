"""Log-determinants and inverse diagonals of t Q t + s against dense float64 ones, many rows left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from structured_obs.linalg import grid_regularized, regularized
from structured_obs.linalg.sparse_triangular import Factor, Offsets, offsets
from tests.linalg.factors import default_dtype, dense_factor, random_factor, tolerance

SIZE = 70  # of the dense matrices: three rows of tiles
WIDE = ((0, 1), (0, 3), (1, -5), (1, 0), (2, 4), (5, 0))  # not the neighbourhood of any filter
GRIDS: tuple[tuple[int, int, Offsets], ...] = (
  (9, 13, offsets(5)),  # some blocks with nothing to do
  (5, 4, offsets(7)),  # reaches beyond the image
  (4, 9, WIDE),
  (3, 4, ()),
)


def rows(table: jax.Array, places: jax.Array) -> jax.Array:
  return table[places]


def problem(shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """t and s, t being 0 at half of the places."""
  rng = np.random.default_rng(0)
  scale = np.exp(0.5 * rng.normal(size=shape)) * (rng.random(shape) < 0.5)
  ridge = np.where(scale == 0, 2, rng.random(shape))
  return jnp.asarray(scale, default_dtype()), jnp.asarray(ridge, default_dtype())


def matrices() -> tuple[jax.Array, jax.Array, jax.Array]:
  """Four of them: the last repeats the first, and of the third no row is left."""
  rng = np.random.default_rng(1)
  root = rng.normal(size=(4, SIZE, SIZE))
  table = jnp.asarray(root @ np.swapaxes(root, 1, 2) / SIZE + np.eye(SIZE), default_dtype())
  scale, ridge = problem((4, SIZE))
  scale, ridge = scale.at[2].set(0), ridge.at[2].set(3)
  return table.at[3].set(table[0]), scale.at[3].set(scale[0]), ridge.at[3].set(ridge[0])


@jax.jit
def plainly(table: jax.Array, scale: jax.Array, ridge: jax.Array) -> tuple[jax.Array, jax.Array]:
  matrix = scale[:, :, None] * table * scale[:, None, :] + jax.vmap(jnp.diag)(ridge)
  inverse = jnp.linalg.inv(matrix)
  return jnp.linalg.slogdet(matrix)[1], jnp.diagonal(inverse, axis1=1, axis2=2)


@pytest.fixture
def operation(monkeypatch):
  monkeypatch.setattr(regularized, 'TILE', 24)
  return jax.jit(functools.partial(regularized.log_det_and_inverse_diagonal, rows))


def test_a_batch_of_dense_matrices(operation):
  table, scale, ridge = matrices()
  many = jax.jit(jax.vmap(operation, in_axes=(0, None, None)))
  found = many(jnp.stack([table, 2 * table]), scale, ridge)
  for index, expected in enumerate((plainly(table, scale, ridge), plainly(2 * table, scale, ridge))):
    for actual, wanted in zip(found, expected, strict=True):
      np.testing.assert_allclose(actual[index], wanted, rtol=tolerance(1e-12, 1e-4))


@pytest.mark.x64
def test_derivatives_of_dense_matrices(operation):
  """Of equal matrices too, whose work is shared, each has its own; of second order as well."""
  weights = jnp.asarray(np.random.default_rng(2).normal(size=(4, SIZE)))

  def gradient(function):
    def loss(*arguments):
      log_det, inverse = function(*arguments)
      return jnp.sum(weights[:, 0] * log_det) + jnp.sum(weights * inverse)

    def steepness(ridge, table, scale):
      return jnp.sum(jnp.square(jax.grad(loss)(table, scale, ridge)))

    table, scale, ridge = matrices()
    first = jax.jit(jax.grad(loss, (0, 1, 2)))(table, scale, ridge)
    return *first, jax.jit(jax.grad(steepness))(ridge, table, scale)

  for actual, wanted in zip(gradient(operation), gradient(plainly), strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-10 * np.max(np.abs(wanted)))


@pytest.mark.x64
def test_only_what_is_used_is_computed(operation):
  def flops(function) -> float:
    costs = jax.jit(function).lower(*matrices()).compile().cost_analysis()
    assert costs is not None
    return costs['flops']

  assert flops(lambda *x: operation(*x)[0]) < 0.9 * flops(operation)


@pytest.mark.x64
def test_a_matrix_that_is_not_positive_definite_gives_nan(operation):
  table, scale, ridge = matrices()
  log_det, inverse = operation(table.at[1].multiply(-1), scale, ridge)
  assert np.array_equal(np.isnan(log_det), [False, True, False, False])
  assert np.all(np.isnan(inverse[1][scale[1] != 0]))
  assert np.all(np.isfinite(inverse[0]))


def on_grid(factor: Factor, scale: jax.Array, ridge: jax.Array, offsets: Offsets):
  lower = dense_factor(factor, offsets)
  t, s = (np.asarray(a, np.float64).ravel() for a in (scale, ridge))
  matrix = t[:, None] * (lower @ lower.T) * t[None, :] + np.diag(s)
  return np.linalg.slogdet(matrix)[1], np.diag(np.linalg.inv(matrix)).reshape(scale.shape)


@pytest.mark.parametrize(('height', 'width', 'offsets'), GRIDS)
def test_sparse_factors(height: int, width: int, offsets: Offsets):
  factor, (scale, ridge) = random_factor(height, width, offsets), problem((height, width))
  operation = jax.jit(grid_regularized.log_det_and_inverse_diagonal, static_argnums=3)
  found = operation(factor, scale, ridge, offsets)
  for actual, wanted in zip(found, on_grid(factor, scale, ridge, offsets), strict=True):
    np.testing.assert_allclose(actual, wanted, rtol=tolerance(1e-12, 1e-5), atol=tolerance(1e-12, 1e-5))


@pytest.mark.x64
@pytest.mark.parametrize('mode', ['fwd', 'rev'])
def test_derivatives_of_sparse_factors(mode: str):
  factor, (scale, ridge) = random_factor(4, 7, WIDE), problem((4, 7))

  def both(factor: Factor, ridge: jax.Array):
    return grid_regularized.log_det_and_inverse_diagonal(factor, scale, ridge, WIDE)

  arguments, order = (factor, ridge), 2 if mode == 'rev' else 1
  test_util.check_grads(jax.jit(both), arguments, order, modes=[mode], atol=1e-5, rtol=1e-5)


def test_every_one_of_a_batch_of_sparse_factors():
  pattern = offsets(5)
  factor, (scale, ridge) = random_factor(7, 9, pattern), problem((7, 9))
  operation = functools.partial(grid_regularized.log_det_and_inverse_diagonal, offsets=pattern)
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), factor)
  many = jax.jit(jax.vmap(operation, in_axes=(0, None, None)))(stacked, scale, ridge)
  single = jax.jit(operation)(jax.tree.map(lambda leaf: 2 * leaf, factor), scale, ridge)
  for actual, wanted in zip(many, single, strict=True):
    np.testing.assert_allclose(actual[1], wanted, rtol=tolerance(1e-13, 1e-5))
