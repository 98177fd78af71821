"""Tasks on the sparse factor of an image grid: all of its kernels, and exact variances."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark import densities, solves
from structured_obs.benchmark.factors import bands, normal, random_factors
from structured_obs.benchmark.measure import Bar, Task, compiled, faster
from structured_obs.linalg import selected_inverse, sparse_triangular
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array
MAX_DENSE = 4096  # pixels; the dense inverse of more takes minutes


def tasks(size: int, filter_size: int, batch: int) -> Iterator[Task]:
  """Solves, log densities and their gradients of a batch of size x size images.

  Args:
    size: pixels along each side.
    filter_size: f, odd.
    batch: images at once.
  """
  pattern = sparse_triangular.offsets(filter_size)
  factors, rhs = random_factors(size, pattern, batch), normal(batch, size, size)
  name = f'f={filter_size} {size}x{size} batch {batch}'
  yield from solves.tasks(name, factors, rhs, pattern)
  yield from densities.tasks(name, factors, rhs, pattern)


def tasks_of_one(size: int, filter_size: int) -> Iterator[Task]:
  """Yields what is measured on one image: many samples of one factor, exact variances."""
  pattern = sparse_triangular.offsets(filter_size)
  name = f'f={filter_size} {size}x{size}'
  factors = random_factors(size, pattern, 1)
  yield solves.samples(name, factors, pattern)
  if size * size <= MAX_DENSE:
    yield _variances(name, jax.tree.map(lambda x: x[0], factors), pattern)


def _variances(name: str, factor: Factor, pattern: Offsets) -> Task:
  size = factor.diag.size
  ours = functools.partial(selected_inverse.variances, offsets=pattern)

  def by_solves(factor: Factor) -> Array:
    units = jnp.eye(size, dtype=factor.diag.dtype).reshape(size, *factor.diag.shape)
    solve = functools.partial(sparse_triangular.solve, factor, offsets=pattern)
    return jnp.sum(jnp.square(jax.vmap(solve)(units)), axis=(1, 2)).reshape(factor.diag.shape)

  band = bands(jax.tree.map(lambda x: x[None], factor), pattern)[0].astype(np.float64)
  lower = np.zeros((size, size))
  for d, row in enumerate(band[:size]):
    lower += np.diag(row[: size - d], -d)
  precision = jnp.asarray(lower @ lower.T, jnp.float32)
  exact = np.sum(np.square(np.linalg.inv(lower)), axis=0).reshape(factor.diag.shape)
  candidates = [
    compiled('ours', ours, factor),
    compiled('n solves', by_solves, factor),
    compiled('dense inverse', lambda p: jnp.diag(jnp.linalg.inv(p)).reshape(exact.shape), precision),
  ]
  bars = _bars(len(pattern)) if size == 64 * 64 else ()
  return Task(f'exact variances {name}', candidates, exact, bars)


def _bars(neighbours: int) -> tuple[Bar, ...]:
  if neighbours == 12:
    return faster('n solves', 10.0), faster('dense inverse', 100.0), Bar('error', 1e-6)
  return (Bar('median_ms', 15.0), Bar('error', 1e-6)) if neighbours == 24 else ()
