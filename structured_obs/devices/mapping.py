"""Maps the step of one device over devices and hosts.

State, key and metrics are replicated; the batch is one global array, sharded along its first axis. Both
mappings have the signature `(state, key, batch) -> (state, metrics)` and donate the state.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from structured_obs.devices.mesh import AXIS, split

Array = jax.Array
Metrics = dict[str, Array]  # [] each
TrainStep = Callable[[Any, Array, Array], tuple[Any, Metrics]]  # (state, key, batch)


def shard(step: TrainStep, mesh: Mesh) -> TrainStep:
  """Maps a step with axis_name='batch' by `jax.shard_map`, on one or many hosts."""
  whole, cut = PartitionSpec(), PartitionSpec(AXIS)
  mapped = jax.shard_map(step, mesh=mesh, in_specs=(whole, whole, cut), out_specs=(whole, whole))
  return jax.jit(mapped, donate_argnums=0)


def pmap(step: TrainStep, mesh: Mesh) -> TrainStep:
  """Maps a step with axis_name='batch' by `jax.pmap`, on one host; arrays are laid out as by `shard`."""
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


MAPPINGS = {'shard_map': shard, 'pmap': pmap}
