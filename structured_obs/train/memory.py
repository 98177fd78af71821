"""Estimates whether a step fits a device's memory, and which `train.accumulate` would make it fit.

The estimate needs no run: memory of the compiled step, training images on the device, and batches on
their way. It leaves out what the runtime and the compiler take, so a step that fits by a few percent may
still fail.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh

from structured_obs.data import pipeline
from structured_obs.devices import mesh as meshes
from structured_obs.runs import checks, initial
from structured_obs.runs.experiment import Experiment
from structured_obs.train import feed
from structured_obs.train import step as steps

GIB = 1 << 30


def compile_step(experiment: Experiment, mesh: Mesh) -> Any:
  """Returns the step compiled over the mesh; pmap runs the same program but cannot be inspected."""
  config = experiment.config
  train = dataclasses.replace(config.train, mapping='shard_map')
  experiment = experiment._replace(config=dataclasses.replace(config, train=train))
  batch = jax.ShapeDtypeStruct(
    (train.batch_size, *experiment.spec.stored), experiment.spec.dtype, sharding=meshes.split(mesh)
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  step: Any = steps.make_step(experiment, mesh)
  return step.lower(initial.abstract_state(experiment, mesh), key, batch).compile()


def peak(compiled: Any) -> int | None:
  """Returns the peak bytes of a compiled program on one device; None if the backend reports none."""
  memory = compiled.memory_analysis()
  if memory is None:
    return None
  held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  return held + memory.temp_size_in_bytes


def waiting(experiment: Experiment, mesh: Mesh) -> int:
  """Returns the bytes of images on a device besides those of the step: all, or the batches ahead."""
  config, spec = experiment.config, experiment.spec
  image = math.prod(spec.stored) * spec.dtype.itemsize
  if feed.resident(image * spec.counts['train'], config.data.residency, mesh):
    return image * spec.counts['train']
  return feed.AHEAD * image * config.train.batch_size // mesh.size


def available(mesh: Mesh) -> int | None:
  """Returns the bytes available to each device; devices of a CPU share one memory."""
  local = mesh.local_devices
  memory = pipeline.device_memory(local[0])
  sharing = len(local) if _on_cpu(mesh) else 1
  return None if memory is None else memory // sharing


def verdict(experiment: Experiment, compiled: Any, mesh: Mesh) -> str:
  """Returns whether the compiled step fits a device, and otherwise which `train.accumulate` would.

  Compiles steps with more parts only where they could fit, given the memory that does not shrink.
  """
  limit, needed = available(mesh), peak(compiled)
  if needed is None:
    return 'unknown: this backend does not report the memory of a compiled step'
  images = waiting(experiment, mesh)
  needed += images
  if limit is None:
    return f'needs about {_gib(needed)} per device, whose memory is unknown'
  if needed <= limit:
    return f'fits: needs about {_gib(needed)} of {_gib(limit)} per device'
  said = f'does not fit: needs about {_gib(needed)} of {_gib(limit)} per device'
  coupled = checks.coupling(experiment.config)
  if coupled:
    return (
      f'{said}; --config.train.accumulate is not available with {coupled}, so use a smaller '
      '--config.train.batch_size'
    )
  temporary = compiled.memory_analysis().temp_size_in_bytes
  given = experiment.config.train.accumulate
  per_device = experiment.config.train.batch_size // mesh.size
  for parts in _doublings(given, per_device):
    if needed - temporary + temporary * given // parts > limit:
      continue
    found = (peak(compile_step(cut(experiment, parts), mesh)) or 0) + images
    if found <= limit:
      slow = ' (many times slower for models with convolutions)' if _on_cpu(mesh) else ''
      return f'{said}; --config.train.accumulate={parts} would need {_gib(found)}{slow}'
  return f'{said}, and no --config.train.accumulate makes it fit: the model or the images are too large'


def _doublings(given: int, images: int) -> list[int]:
  """Returns numbers of parts, each twice the previous one, that divide a device's images."""
  counts, parts = [], 2 * given
  while parts <= images:
    counts += [parts] if images % parts == 0 else []
    parts *= 2
  return counts


def cut(experiment: Experiment, parts: int) -> Experiment:
  """Returns the same run with a device's images cut into `parts` parts."""
  train = dataclasses.replace(experiment.config.train, accumulate=parts)
  return experiment._replace(config=dataclasses.replace(experiment.config, train=train))


def _on_cpu(mesh: Mesh) -> bool:
  return mesh.local_devices[0].platform == 'cpu'


def _gib(count: int) -> str:
  return f'{count / GIB:.3g} GiB'
