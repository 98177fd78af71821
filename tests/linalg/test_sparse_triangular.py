"""Products and solves with a sparse triangular factor, against its dense matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from structured_obs.linalg import row_scan, sparse_triangular, wavefront
from structured_obs.linalg.sparse_triangular import Factor
from tests.distributions.cases import assert_close
from tests.linalg import grids

EACH = pytest.mark.parametrize(('shape', 'offsets'), grids.CASES)


def _vector(shape, seed=1):
  values = np.random.default_rng(seed).normal(size=shape)
  return values.ravel(), jnp.asarray(values, jnp.zeros(()).dtype)


@EACH
@pytest.mark.parametrize('name', ['matvec', 'matvec_transposed', 'solve', 'solve_transposed'])
@pytest.mark.few(3)
def test_operations_are_the_dense_ones(name, shape, offsets):
  grid = grids.make(shape, offsets)
  matrix = grid.dense.T if name.endswith('transposed') else grid.dense
  flat, image = _vector(shape)
  expected = np.linalg.solve(matrix, flat) if name.startswith('solve') else matrix @ flat
  operation = jax.jit(getattr(sparse_triangular, name), static_argnums=2)
  actual = operation(grid.factor, image, offsets)
  assert_close(np.ravel(actual), expected, 1e-12, 1e-5)


@EACH
@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.few(3)
def test_packed_solves_are_the_dense_ones(shape, offsets, transposed):
  grid = grids.make(shape, offsets)
  flat, image = _vector(shape)

  @jax.jit
  def solve(factor, image):
    packed = wavefront.pack(factor.diag, factor.weights, offsets, transposed)
    return wavefront.solve(packed, image, offsets, transposed)

  actual = solve(grid.factor, image)
  expected = np.linalg.solve(grid.dense.T if transposed else grid.dense, flat)
  assert_close(np.ravel(actual), expected, 1e-12, 1e-5)


@pytest.mark.parametrize('transposed', [False, True])
@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.few(3)
def test_many_images_with_many_right_hand_sides(transposed, packed):
  shape, offsets = (5, 6), sparse_triangular.offsets(5)
  several = [grids.make(shape, offsets, seed) for seed in range(25)]  # more than one chunk
  factors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(grid.factor for grid in several))
  flat, images = _vector((len(several), 3, *shape))
  flat = flat.reshape(len(several), 3, -1)

  def solve(factor, image):
    if packed:
      return wavefront.pack_and_solve(factor.diag, factor.weights, image, offsets, transposed)
    name = 'solve_transposed' if transposed else 'solve'
    return getattr(sparse_triangular, name)(factor, image, offsets)

  over_sides = jax.vmap(solve, in_axes=(None, 0))
  actual = jax.jit(jax.vmap(over_sides))(factors, images)
  other = jax.jit(jax.vmap(jax.vmap(solve), in_axes=(None, 1), out_axes=1))(factors, images)
  for i, grid in enumerate(several):
    matrix = grid.dense.T if transposed else grid.dense
    expected = scipy.linalg.solve(matrix, flat[i].T).T
    assert_close(actual[i].reshape(3, -1), expected, 1e-12, 1e-5)
    assert_close(other[i].reshape(3, -1), expected, 1e-12, 1e-5)


@pytest.mark.x64
@pytest.mark.parametrize(('count', 'size'), [(1, 3), (2, 3), (2, 1)])
def test_more_right_hand_sides_than_are_solved_at_a_time(count, size):
  shape, offsets, sides = (3, 4), sparse_triangular.offsets(size), 2 * row_scan.SIDES + 1
  several = [grids.make(shape, offsets, seed) for seed in range(count)]
  factors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(grid.factor for grid in several))
  flat, images = _vector((count, sides, *shape))
  solve = functools.partial(sparse_triangular.solve_transposed, offsets=offsets)
  actual = jax.jit(jax.vmap(jax.vmap(solve, in_axes=(None, 0))))(factors, images)
  flat = flat.reshape(count, sides, -1)
  for i, grid in enumerate(several):
    expected = scipy.linalg.solve(grid.dense.T, flat[i].T).T
    assert_close(actual[i].reshape(sides, -1), expected, 1e-12, 1e-5)


@pytest.mark.x64
def test_packing_many_images_side_by_side_is_packing_each():
  offsets = sparse_triangular.offsets(3)
  several = [grids.make((4, 5), offsets, seed) for seed in range(3)]
  factors = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(grid.factor for grid in several))
  _, images = _vector((3, 4, 5))

  @jax.jit
  def together(factors, images):
    packed = jax.vmap(lambda f: wavefront.pack(f.diag, f.weights, offsets, True), out_axes=-1)(factors)
    solve = jax.vmap(lambda p, b: wavefront.solve(p, b, offsets, True), in_axes=(-1, 0))
    return solve(packed, images)

  alone = jax.jit(lambda f, b: wavefront.pack_and_solve(f.diag, f.weights, b, offsets, True))
  each = [alone(grid.factor, images[i]) for i, grid in enumerate(several)]
  assert_close(together(factors, images), np.stack(each), 1e-14, 1e-6)


@pytest.mark.x64
@pytest.mark.parametrize('name', ['matvec', 'matvec_transposed', 'solve', 'solve_transposed'])
def test_derivatives_are_differences(name):
  shape, offsets = (3, 4), sparse_triangular.offsets(3)
  grid = grids.make(shape, offsets)
  operation = getattr(sparse_triangular, name)
  check_grads(
    jax.jit(lambda factor, image: operation(factor, image, offsets)),
    (grid.factor, _vector(shape)[1]),
    order=2,
    modes=['fwd', 'rev'],
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.x64
@EACH
@pytest.mark.few(3)
def test_log_density_and_its_gradient_are_the_dense_ones(shape, offsets):
  grid = grids.make(shape, offsets)
  flat, image = _vector(shape)
  covariance = np.linalg.inv(grid.dense @ grid.dense.T)
  log_diag = jnp.log(grid.factor.diag)
  density = jax.jit(functools.partial(sparse_triangular.log_density, offsets=offsets))
  value_and_grad = jax.jit(jax.value_and_grad(density, argnums=(0, 1, 2)))
  value, gradient = value_and_grad(log_diag, grid.factor.weights, image)
  log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
  expected = -0.5 * (log_det + flat @ np.linalg.solve(covariance, flat))
  assert_close(value, expected, 1e-12, np.inf)
  z = grid.dense.T @ flat
  assert_close(np.ravel(gradient[2]), -grid.dense @ z, 1e-12, np.inf)
  assert_close(np.ravel(gradient[0]), 1 - z * flat * np.ravel(grid.factor.diag), 1e-12, np.inf)
  check_grads(
    density,
    (log_diag, grid.factor.weights, image),
    order=2,
    modes=['fwd', 'rev'],
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.x64
def test_solving_stores_no_scan_for_its_gradient():
  shape, offsets = (24, 24), sparse_triangular.offsets(5)
  grid = grids.make(shape, offsets)
  loss = lambda f, b: jnp.sum(sparse_triangular.solve_transposed(f, b, offsets) ** 2)  # noqa: E731
  arguments = grid.factor, _vector(shape)[1]
  temporary = []
  for function in (loss, jax.grad(loss)):
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert memory is not None
    temporary.append(memory.temp_size_in_bytes)
  weights = grid.factor.weights.nbytes
  assert temporary[1] - temporary[0] < 4 * weights, (temporary, weights)


@pytest.mark.x64
def test_weights_out_of_the_image_are_masked_and_never_read():
  shape, offsets = (4, 5), sparse_triangular.offsets(5)
  grid = grids.make(shape, offsets)
  masked = sparse_triangular.mask(grid.factor.weights, offsets)
  spoilt = Factor(grid.factor.diag, jnp.where(masked == 0, jnp.nan, grid.factor.weights))
  _, image = _vector(shape)
  for name in ('solve', 'solve_transposed'):
    solve = jax.jit(getattr(sparse_triangular, name), static_argnums=2)
    actual = solve(Factor(grid.factor.diag, masked), image, offsets)
    assert_close(actual, solve(grid.factor, image, offsets), 1e-14, 1e-6)
  pack_and_solve = jax.jit(wavefront.pack_and_solve, static_argnums=(3, 4))
  packed = pack_and_solve(spoilt.diag, spoilt.weights, image, offsets, True)
  assert np.all(np.isfinite(packed))


@pytest.mark.x64
def test_wrong_arguments_are_told():
  grid = grids.make((4, 5), sparse_triangular.offsets(3))
  image = jnp.zeros((4, 5))
  with pytest.raises(ValueError, match='odd'):
    sparse_triangular.offsets(4)
  with pytest.raises(ValueError, match='neighbours'):
    sparse_triangular.filter_size(5)
  with pytest.raises(ValueError, match=r'weights \[H, W, 12\]'):
    sparse_triangular.solve(grid.factor, image, sparse_triangular.offsets(5))
  with pytest.raises(ValueError, match='raster-later'):
    sparse_triangular.matvec(grid.factor, image, ((0, 1), (0, -1), (1, 0), (1, 1)))
