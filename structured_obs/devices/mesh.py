"""Maps the per-device step over devices and hosts, and lays arrays out for it.

State, key and metrics are replicated; the batch is one global array cut along its first axis. All
three mappings have the signature `(state, key, batch) -> (state, metrics)` and donate the state.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from structured_obs.train.step import TrainStep

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


def shard(step: TrainStep, mesh: Mesh) -> TrainStep:
  """Maps a step with axis_name='batch' by `jax.shard_map`, on one or many hosts."""
  whole, cut = PartitionSpec(), PartitionSpec(AXIS)
  mapped = jax.shard_map(step, mesh=mesh, in_specs=(whole, whole, cut), out_specs=(whole, whole))
  return jax.jit(mapped, donate_argnums=0)


def pmap(step: TrainStep, mesh: Mesh) -> TrainStep:
  """Maps a step with axis_name='batch' by `jax.pmap`, on one host; arrays as those of `shard`."""
  mapped = jax.pmap(
    step,
    axis_name=AXIS,
    in_axes=(None, None, 0),
    out_axes=(None, None),  # type: ignore[arg-type]  # pmap takes None here; its annotation does not
    devices=list(mesh.devices.flat),
    donate_argnums=0,
  )
  count = mesh.size

  def by_device(batch: Array) -> Array:
    return batch.reshape(count, batch.shape[0] // count, *batch.shape[1:])

  cut = jax.jit(by_device, out_shardings=split(mesh))
  return lambda state, key, batch: mapped(state, key, cut(batch))


def single(step: TrainStep) -> TrainStep:
  """Compiles a step with axis_name=None for one device."""
  return jax.jit(step, donate_argnums=0)


MAPPINGS = {'shard_map': shard, 'pmap': pmap}


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
