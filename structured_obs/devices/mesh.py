"""The mesh of devices, and how arrays are laid out on it: replicated, or cut along their first axis."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Array = jax.Array
AXIS = 'batch'


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
  """Returns the mesh of one axis, 'batch', over these devices; by default over all of all hosts."""
  devices = jax.devices() if devices is None else list(devices)
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Sharding of what is cut along its first axis."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Returns the tree with every leaf whole on every device of the mesh, in buffers of its own.

  The copy matters: `jax.device_put` may return the caller's own buffer, which the donation of the
  state would then delete.
  """
  sharding = replicated(mesh)

  def place(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
    whole = np.array(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

  return jax.tree.map(place, tree)
