"""The mesh of devices, and layouts of arrays on it: replicated, or sharded along their first axis."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array
AXIS = 'batch'


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns a mesh with one axis, 'batch', over these devices; by default all devices of all hosts."""
  devices = jax.devices() if devices is None else list(devices)
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays that are split along their first axis."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Returns the tree with every leaf replicated over the mesh, in buffers of its own.

  The copy matters: `jax.device_put` may return the caller's own buffer, and the donation of the state
    would
  then delete it.
  """
  sharding = replicated(mesh)

  def place(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
    whole = np.array(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

  return jax.tree.map(place, tree)
