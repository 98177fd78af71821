"""Linear algebra of arrays that lie on a mesh of explicit axes, outside `jax.set_mesh`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import (
  banded,
  decompositions,
  selected_inverse,
  sharding,
  sparse_triangular,
  triangular,
  update_density,
  wavefront,
  woodbury,
)

IMAGES, HEIGHT, WIDTH = 4, 3, 4
OFFSETS = sparse_triangular.offsets(3)
GRID = (HEIGHT, WIDTH)
LINKS = (*GRID, len(OFFSETS))
Factor = sparse_triangular.Factor


def logs(diag: jax.Array, weights: jax.Array) -> jax.Array:
  return sparse_triangular.log_density(diag, weights, jnp.ones(GRID), OFFSETS)


def packed(diag: jax.Array, weights: jax.Array) -> jax.Array:
  return wavefront.pack_and_solve(diag, weights, jnp.ones(GRID), OFFSETS, transposed=False)


def close(diag: jax.Array, weights: jax.Array) -> jax.Array:
  return selected_inverse.covariances(Factor(diag, weights), OFFSETS, 1, 1)


def scaled(scale: jax.Array, columns: jax.Array) -> jax.Array:
  return scale * columns


def updated(factor: jax.Array, scale: jax.Array) -> jax.Array:
  return update_density.log_density(scaled, scale, jnp.ones(12), factor)


# Functions of arrays near 1 of these shapes; each makes an array of its own.
CASES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...], bool]] = {
  'banded solve': (lambda band: banded.solve(band, jnp.ones(12)), ((12, 3),), True),
  'banded inverse': (lambda band: banded.inverse_band(band, 1), ((12, 3),), True),
  'log density': (logs, (GRID, LINKS), True),
  'close covariances': (close, (GRID, LINKS), True),
  'wavefront': (packed, (GRID, LINKS), False),
  'low rank': (lambda p: woodbury.log_density(jnp.ones(12), p, jnp.ones(())), ((12, 2),), True),
  'low rank update': (updated, ((12, 2), ()), True),
  'dense': (lambda lower: triangular.solve(lower, jnp.eye(3)), ((3, 3),), True),
  'singular values': (lambda matrix: decompositions.svd(matrix)[1], ((4, 3),), True),
}


@pytest.mark.x64
@pytest.mark.parametrize('name', CASES)
def test_functions_and_their_gradients_are_traced(name: str):
  function, shapes, differentiable = CASES[name]
  mesh = jax.make_mesh((IMAGES,), ('data',))
  by_image = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  arrays = jax.device_put([jnp.ones((IMAGES, *shape)) for shape in shapes], by_image)

  def total(*arrays: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(function(*arrays)))

  for program in (function, jax.grad(total)) if differentiable else (function,):
    out = jax.jit(jax.vmap(program)).trace(*arrays).out_avals
    assert all(aval.sharding.spec[0] == 'data' for aval in jax.tree.leaves(out))


@pytest.mark.x64
def test_arrays_of_no_mesh_are_put_on_that_of_the_others():
  mesh = jax.make_mesh((IMAGES,), ('data',))
  by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))

  @sharding.on_own_mesh
  def append(x: jax.Array, y: jax.Array) -> jax.Array:
    assert jax.typeof(y).sharding.mesh == mesh.abstract_mesh
    return jax.lax.dynamic_update_slice(jnp.zeros_like(x, shape=(4,)), jnp.concatenate([x, y]), (0,))

  rows = jax.device_put(jnp.arange(8.0).reshape(IMAGES, 2), by_row)
  found = jax.jit(jax.vmap(functools.partial(append, y=jnp.full(2, 9.0))))(rows)
  np.testing.assert_array_equal(np.asarray(found)[1], [2, 3, 9, 9])
