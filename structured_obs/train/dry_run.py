"""What a run would do, from its compiled step, without taking one and without writing anything."""

import dataclasses
import math
from typing import Any

import jax

from structured_obs.train import experiment as experiments
from structured_obs.train import optimizers, parallel
from structured_obs.train.experiment import Experiment

MIB = 1 << 20


def report(experiment: Experiment) -> str:
  """Compiles the step and returns a text: data, parameters, shapes, memory and operations."""
  mesh = parallel.make_mesh()
  state = experiments.abstract_state(experiment, mesh)
  size = experiment.config.train.batch_size
  batch = jax.ShapeDtypeStruct(
    (size, *experiment.spec.stored), experiment.spec.dtype, sharding=parallel.split(mesh)
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  step: Any = experiments.make_step(_by_shard_map(experiment), mesh)
  compiled = step.lower(state, key, batch).compile()
  spec = experiment.spec
  lines = [
    f'data        {spec.source}: {spec.height} x {spec.width} x {spec.channels}, '
    f'{f"{spec.levels} levels" if spec.levels else "real numbers"}',
    f'            {", ".join(f"{count} {name}" for name, count in spec.counts.items())}',
    f'batch       {spec.dtype} {list(batch.shape)} over {mesh.size} device(s) of '
    f'{jax.process_count()} process(es): {size // mesh.size} images each',
    *_parameter_lines(state.params['model']),
    *_cost_lines(compiled, size // mesh.size),
  ]
  return '\n'.join(lines)


def count_by_module(params: Any) -> dict[str, int]:
  """Returns the number of parameters by module, two levels deep, heads one by one."""
  counts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    keys = [str(getattr(entry, 'key', entry)) for entry in path]
    depth = 3 if keys[:2] == optimizers.HEADS else 2
    name = '/'.join(keys[: min(depth, max(len(keys) - 1, 1))])
    counts[name] = counts.get(name, 0) + math.prod(leaf.shape)
  return counts


def _by_shard_map(experiment: Experiment) -> Experiment:
  """The same run mapped by shard_map; pmap compiles the same program, but cannot be looked at."""
  train = dataclasses.replace(experiment.config.train, mapping='shard_map')
  return experiment._replace(config=dataclasses.replace(experiment.config, train=train))


def _parameter_lines(params: Any) -> list[str]:
  counts = count_by_module(params)
  width = max(map(len, counts))
  total = sum(counts.values())
  lines = [f'  {name:<{width}}  {count:>12,}' for name, count in counts.items()]
  return [f'parameters  {total:,} ({total * 4 / MIB:.1f} MiB as float32)', *lines]


def _cost_lines(compiled: Any, images: int) -> list[str]:
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
  lines = []
  if memory is not None:
    live = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    lines += [
      f'memory      {live / MIB:.1f} MiB a device: {memory.argument_size_in_bytes / MIB:.1f} state '
      f'and batch, {memory.temp_size_in_bytes / MIB:.1f} temporaries'
    ]
  if 'flops' in cost:
    flops = cost['flops']
    lines += [f'operations  {flops:.3g} a step and device, {flops / images:.3g} an image']
  return lines
