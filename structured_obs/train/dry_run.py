"""Describes a run from its compiled step, without training and without writing files."""

import math
from typing import Any

import jax

from structured_obs.devices import mesh as meshes
from structured_obs.runs import initial, optimizers
from structured_obs.runs.experiment import Experiment
from structured_obs.train import memory

MIB = 1 << 20


def report(experiment: Experiment) -> str:
  """Compiles the step and describes data, parameters, shapes, memory and operations of the run."""
  mesh = meshes.make_mesh()
  state = initial.abstract_state(experiment, mesh)
  compiled = memory.compile_step(experiment, mesh)
  spec, train = experiment.spec, experiment.config.train
  size = train.batch_size
  parts = f', in {train.accumulate} parts' if train.accumulate > 1 else ''
  lines = [
    f'data        {spec.source}: {spec.height} x {spec.width} x {spec.channels}, '
    f'{f"{spec.levels} levels" if spec.levels else "real numbers"}',
    f'            {", ".join(f"{count} {name}" for name, count in spec.counts.items())}',
    f'batch       {spec.dtype} {[size, *spec.stored]} over {mesh.size} device(s) of '
    f'{jax.process_count()} process(es): {size // mesh.size} images each{parts}',
    *_parameter_lines(state.params['model']),
    *_cost_lines(compiled, size // mesh.size, train.accumulate),
    f'estimate    {memory.verdict(experiment, compiled, mesh)}',
  ]
  return '\n'.join(lines)


def count_by_module(params: Any) -> dict[str, int]:
  """Returns the number of parameters by module, two levels deep; heads are listed one by one."""
  counts: dict[str, int] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    keys = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    depth = 3 if keys[:2] == optimizers.HEADS else 2
    name = '/'.join(keys[: min(depth, max(len(keys) - 1, 1))])
    counts[name] = counts.get(name, 0) + math.prod(leaf.shape)
  return counts


def _parameter_lines(params: Any) -> list[str]:
  counts = count_by_module(params)
  width = max(map(len, counts))
  total = sum(counts.values())
  lines = [f'  {name:<{width}}  {count:>12,}' for name, count in counts.items()]
  return [f'parameters  {total:,} ({total * 4 / MIB:.1f} MiB as float32)', *lines]


def _cost_lines(compiled: Any, images: int, accumulate: int) -> list[str]:
  needs, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
  lines = []
  if needs is not None:
    temporary, peak = needs.temp_size_in_bytes / MIB, (memory.peak(compiled) or 0) / MIB
    lines += [
      f'memory      {peak:.1f} MiB per device: {peak - temporary:.1f} state and batch, {temporary:.1f} '
      'temporaries'
    ]
  if 'flops' in cost and accumulate == 1:  # XLA counts one iteration of a loop
    flops = cost['flops']
    lines += [f'operations  {flops:.3g} per step and device, {flops / images:.3g} per image']
  return lines
