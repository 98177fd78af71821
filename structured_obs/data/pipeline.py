"""Decides which images a step trains on, and prefetches them.

The order is a pure function of the seed and the step, so the position of a run in its data is the step
itself: it resumes exactly, on any number of processes. Position p = step * batch + i of the endless
stream of images is image `order.permutation(N, seed, p // N)[p % N]`. Every epoch is a fresh
permutation, drawn without replacement, and a batch may straddle two epochs.
"""

import functools
import os
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import jax
import numpy as np

from structured_obs.config import TrainConfig
from structured_obs.data import order

T = TypeVar('T')
RESIDENCIES = ('auto', 'device', 'host')  # where training images lie
_POLL = 0.1  # seconds between a waiting producer's checks whether to stop


@functools.lru_cache(maxsize=4)
def _epoch(length: int, seed: int, epoch: int) -> np.ndarray:
  """Returns one epoch's permutation; caches the last few, because a million images take long."""
  permutation = order.permutation(length, seed, epoch).astype(np.int32)
  permutation.flags.writeable = False
  return permutation


def batch_indices(
  seed: int, step: int, num_examples: int, global_batch: int, process: int = 0, processes: int = 1
) -> np.ndarray:
  """Returns the images that one process needs at a step.

  Args:
    seed: of the order.
    step: 0, 1, ...
    num_examples: number N of images to draw from.
    global_batch: images per step, over all processes.
    process: this one, 0 .. processes - 1; it gets its contiguous slice of the global batch.
    processes: how many there are.

  Returns:
    [global_batch / processes] int32, indices below N. The slices of all processes together do not depend
    on their number.

  Raises:
    ValueError: the batch is empty or does not divide by the processes, or there are no images.
  """
  if num_examples < 1:
    raise ValueError(
      f'There are no images to make a batch of: num_examples must be at least 1; got {num_examples}.'
    )
  if global_batch < 1 or global_batch % processes:
    raise ValueError(
      f'The batch size must be a positive multiple of the {processes} processes; got {global_batch}.'
    )
  if not 0 <= process < processes:
    raise ValueError(f'process must be from 0 to {processes - 1}; got {process}.')
  if step < 0:
    raise ValueError(f'step must not be negative; got {step}.')
  size = global_batch // processes
  position = step * global_batch + process * size + np.arange(size)
  epoch, offset = np.divmod(position, num_examples)
  indices = np.empty(size, np.int32)
  for number in range(epoch[0], epoch[-1] + 1):
    here = epoch == number
    indices[here] = _epoch(num_examples, seed, number)[offset[here]]
  return indices


def gather(images: np.ndarray, indices: np.ndarray) -> np.ndarray:
  """Copies images out of a (memory-mapped) array, [N, ...] -> [B, ...]."""
  return np.take(np.asarray(images), indices, axis=0)


def prefetch(
  make_batch: Callable[[int], T], start: int, stop: int | None = None, depth: int = 2
) -> Generator[T, None, None]:
  """Yields make_batch(start), make_batch(start + 1), ... in order, computed ahead by a thread.

  An exception of `make_batch` is raised in place of its batch. Closing the iterator ends the thread
  (`contextlib.closing` does so at once, leaving a `for` loop when the iterator is collected).

  Args:
    make_batch: step -> batch.
    start: first step.
    stop: the step before which to end; None never ends.
    depth: largest number of waiting batches.
  """
  if depth < 1:
    raise ValueError(f'depth must be at least 1; got {depth}.')
  return _prefetch(make_batch, start, stop, depth)


def _prefetch(
  make_batch: Callable[[int], T], start: int, stop: int | None, depth: int
) -> Generator[T, None, None]:
  """The generator behind `prefetch`."""
  ready: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
  closed = threading.Event()
  worker = threading.Thread(
    target=_produce, args=(ready, closed, make_batch, (start, stop)), daemon=True
  )
  worker.start()
  try:
    step = start
    while stop is None or step < stop:
      succeeded, item = ready.get()
      if not succeeded:
        raise item
      yield item
      step += 1
  finally:
    closed.set()
    worker.join()


def _produce(
  ready: queue.Queue[tuple[bool, Any]],
  closed: threading.Event,
  make_batch: Callable[[int], Any],
  steps: tuple[int, int | None],
) -> None:
  """Puts (True, batch) into a queue step by step, or (False, exception) and ends."""
  step, stop = steps
  succeeded = True
  while succeeded and not closed.is_set() and (stop is None or step < stop):
    try:
      item = True, make_batch(step)
    except BaseException as error:  # raised again in place of the batch
      item = False, error
    succeeded = item[0]
    while not closed.is_set():
      try:
        ready.put(item, timeout=_POLL)
        break
      except queue.Full:
        continue
    step += 1


def fits_on_device(num_bytes: int, device: Any) -> bool:
  """Returns whether an array may stay on a device: if it takes less than a quarter of its memory.

  Args:
    num_bytes: size of the array.
    device: a jax.Device; a CPU has this machine's memory, others what JAX may use.
  """
  memory = device_memory(device)
  return memory is not None and num_bytes < memory / 4


def device_memory(device: Any) -> int | None:
  """Returns the bytes JAX may use on a device, on a CPU this machine's memory; None if unknown."""
  if device.platform == 'cpu':
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return (device.memory_stats() or {}).get('bytes_limit')


def global_batch(config: TrainConfig, images: np.ndarray, step: int) -> np.ndarray:
  """Returns the whole batch of a step on the host, over all processes, [B, H, W, C] uint8.

  Args:
    config: batch size and seed.
    images: [N, H, W, C] uint8, the training split.
    step: 0, 1, ...
  """
  count = jax.process_count()
  rows = [
    batch_indices(config.seed, step, len(images), config.batch_size, process, count)
    for process in range(count)
  ]
  return gather(images, np.concatenate(rows))
