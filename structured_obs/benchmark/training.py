"""A training step of a recipe and what it takes to start one, beside a plain PyTorch loop.

The images are random and of the recipe's size, 64x64 where it leaves the size to the data. Start-up is
tracing, compilation and the first step, without reading data, by processor time and by the clock.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from structured_obs.benchmark import measure, torch_loop, torch_peer
from structured_obs.benchmark.measure import Candidate
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.devices import mesh as meshes
from structured_obs.models import KINDS
from structured_obs.runs import experiment as experiments
from structured_obs.runs import initial
from structured_obs.runs.experiment import Experiment
from structured_obs.train import step as steps

SIDE = 64  # pixels, of images whose recipe names no size
DIGITS = (8, 8, 1)


def record(name: str, config: Config, repeats: int) -> dict[str, Any]:
  """Times steps in alternating rounds and the start-up of each candidate: a record for JSON.

  Args:
    name: of the recipe.
    config: of the recipe.
    repeats: rounds.

  Raises:
    ValueError: the recipe needs more than images of random pixels.
  """
  experiment = experiments.build(config, spec(config))
  ours, row = _ours(experiment)
  candidates, rows, missing = [ours], [row], []
  if torch_loop.covers(config):
    if importlib.util.find_spec('torch') is None:
      missing.append('torch')
    else:
      peers, more = _torch(experiment)
      candidates, rows = candidates + peers, rows + more
  times = measure.rounds(candidates, repeats)
  for row, kept in zip(rows, times, strict=True):
    row['step_ms'] = statistics.median(kept.wall)
    row['step_processor_ms'] = statistics.median(kept.processor)
    row['ratio'] = row['step_ms'] / statistics.median(times[0].wall)
  image, batch = experiment.image, config.train.batch_size
  size = f'{image.height}x{image.width}x{image.channels} batch {batch}'
  return {'training': f'{name} {size}', 'rows': rows, 'bars': [], 'missing': missing}


def spec(config: Config) -> DataSpec:
  """Returns the spec of a prepared set of random images for this recipe.

  Raises:
    ValueError: its model needs means or classes besides the images.
  """
  data = config.data
  if KINDS[config.model.kind].given_mean or data.labels:
    raise ValueError(
      'The suite training times recipes whose data are images alone, but this one needs '
      f'{"the class" if data.labels else "the mean"} of each image, too.'
    )
  height, width, channels = DIGITS if data.source == 'digits' else (SIDE, SIDE, 1)
  levels = 17 if data.source == 'digits' else 256
  return DataSpec(
    height=data.height or height,
    width=data.width or width,
    channels=data.channels or channels,
    levels=levels,
    counts={'train': config.train.batch_size, 'validation': 0, 'test': 0},
    source=data.source,
    version='',
    fingerprint='',
    sha256='',
    split_rule='',
    crop='',
    resample='',
    has_labels=False,
    skipped=0,
    skipped_names=[],
    libraries={},
  )


class _Clock:
  """Seconds since the last reading, by the clock and of all processors."""

  def __init__(self) -> None:
    self._last = self._now()

  def read(self, name: str) -> dict[str, float]:
    before, self._last = self._last, self._now()
    wall, processor = (b - a for a, b in zip(before, self._last, strict=True))
    return {f'{name}_s': wall, f'{name}_processor_s': processor}

  def _now(self) -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _ours(experiment: Experiment) -> tuple[Candidate, dict[str, Any]]:
  mesh = meshes.make_mesh(jax.devices()[:1])
  images = np.random.default_rng(0).integers(
    0, experiment.spec.levels, (experiment.config.train.batch_size, *experiment.spec.stored), np.uint8
  )
  key = meshes.replicate(jax.random.key(1), mesh)
  batch = jax.device_put(images, meshes.split(mesh))
  state = initial.init_state(experiment, jax.random.key(0), images)
  step: Any = steps.make_step(experiment, mesh)
  holder = [meshes.replicate(state, mesh)]
  clock = _Clock()
  lowered = step.lower(holder[0], key, batch)
  row = {'name': 'ours', **clock.read('trace')}
  compiled = lowered.compile()
  row |= clock.read('compile')

  def run() -> float:
    holder[0], told = compiled(holder[0], key, batch)  # the old state is donated
    return float(jax.block_until_ready(told)['loss'])

  row['loss'] = run()
  row |= clock.read('first_step')
  memory = compiled.memory_analysis()
  row['temporary_bytes'] = 0 if memory is None else memory.temp_size_in_bytes
  return Candidate('ours', run), row


def _torch(experiment: Experiment) -> tuple[list[Candidate], list[dict[str, Any]]]:
  clock = _Clock()
  step: Callable[[], float] = torch_loop.make(experiment.config, experiment.image)
  candidates, rows = torch_peer.candidates(step), []
  built = clock.read('trace')  # modules and optimizer; nothing is compiled
  for candidate in candidates:
    clock.read('')
    row = {'name': candidate.name, **built, 'compile_s': 0.0, 'compile_processor_s': 0.0}
    row['loss'] = candidate.run()
    rows.append({**row, **clock.read('first_step'), 'temporary_bytes': 0})
  return candidates, rows
