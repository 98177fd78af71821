"""Brings the batch of each step to the devices. The batch depends on the step alone.

Either every device holds the whole training array and gathers its batch by index, or a thread reads the
rows from the memory map on the host and sends them a few steps ahead.
"""

import contextlib
from collections.abc import Callable, Generator

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from structured_obs import names
from structured_obs.config import TrainConfig
from structured_obs.data import pipeline
from structured_obs.devices import mesh as meshes

Array = jax.Array

AHEAD = 2  # batches sent ahead of the one in use


def stream(
  images: np.ndarray, config: TrainConfig, residency: str, mesh: Mesh
) -> Callable[[int, int], Generator[Array]]:
  """Returns `(first, end) -> batches of the steps first .. end - 1`, sharded over the mesh.

  Args:
    images: [N, H, W, C] uint8, the training split.
    config: batch size and seed.
    residency: 'device', 'host' or 'auto'.
    mesh: over all devices of all processes.
  """
  names.check('data.residency', residency, pipeline.RESIDENCIES)

  def indices(step: int) -> np.ndarray:
    return pipeline.batch_indices(
      config.seed, step, len(images), config.batch_size, jax.process_index(), jax.process_count()
    )

  if resident(images.nbytes, residency, mesh):
    return _from_device(images, indices, mesh)
  return _from_host(images, indices, mesh)


def resident(num_bytes: int, residency: str, mesh: Mesh) -> bool:
  """Returns whether every device holds the training images, of `num_bytes` bytes.

  With 'auto' it does if the devices of this process have the memory; devices of a CPU share one memory.
  """
  local = mesh.local_devices
  copies = len(local) if local[0].platform == 'cpu' else 1
  fits = pipeline.fits_on_device(num_bytes * copies, local[0])
  return residency == 'device' or (residency == 'auto' and fits)


def _from_device(
  images: np.ndarray, indices: Callable[[int], np.ndarray], mesh: Mesh
) -> Callable[[int, int], Generator[Array]]:
  whole, cut = PartitionSpec(), PartitionSpec(meshes.AXIS)
  resident = jax.make_array_from_callback(
    images.shape, meshes.replicated(mesh), lambda index: np.asarray(images[index])
  )

  def take(images: Array, rows: Array) -> Array:
    return images.at[rows].get(mode='promise_in_bounds')

  gather = jax.jit(jax.shard_map(take, mesh=mesh, in_specs=(whole, cut), out_specs=cut))

  def batches(first: int, end: int) -> Generator[Array]:
    for step in range(first, end):
      yield gather(resident, _spread(indices(step), mesh))

  return batches


def _from_host(
  images: np.ndarray, indices: Callable[[int], np.ndarray], mesh: Mesh
) -> Callable[[int, int], Generator[Array]]:
  def make(step: int) -> Array:
    return _spread(pipeline.gather(images, indices(step)), mesh)

  def batches(first: int, end: int) -> Generator[Array]:
    with contextlib.closing(pipeline.prefetch(make, first, end, AHEAD)) as made:
      yield from made

  return batches


def _spread(local: np.ndarray, mesh: Mesh) -> Array:
  return jax.make_array_from_process_local_data(meshes.split(mesh), local)
