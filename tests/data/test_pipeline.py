"""The order of the images, the background thread, and the choice of device memory."""

import contextlib
import threading
import types

import numpy as np
import pytest

from structured_obs.data import order, pipeline


def test_permutation_is_fixed_for_ever():
  # Recorded once: a change would silently change every split and every run's order.
  assert order.permutation(10, 0, 1).tolist() == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]
  assert sorted(order.permutation(1000, 3)) == list(range(1000))
  assert not np.array_equal(order.permutation(1000, 3), order.permutation(1000, 4))


def test_negative_seed_is_refused():
  with pytest.raises(ValueError, match='must not be negative'):
    order.permutation(3, -1)


@pytest.mark.parametrize(('examples', 'batch'), [(12, 4), (10, 4), (7, 3), (5, 12), (1, 2)])
def test_every_epoch_shows_every_image_once(examples, batch):
  epochs = 5
  steps = -(-epochs * examples // batch)
  stream = np.concatenate([pipeline.batch_indices(1, s, examples, batch) for s in range(steps)])
  rows = stream[: epochs * examples].reshape(epochs, examples)
  assert (np.sort(rows, 1) == np.arange(examples)).all()
  if examples > 4:
    assert len({tuple(row) for row in rows}) == epochs


@pytest.mark.parametrize('processes', [1, 2, 3, 6])
def test_processes_share_the_batch(processes):
  whole = pipeline.batch_indices(5, 17, 100, 12)
  parts = [pipeline.batch_indices(5, 17, 100, 12, k, processes) for k in range(processes)]
  assert np.array_equal(np.concatenate(parts), whole)
  assert whole.dtype == np.int32


def test_late_steps_do_not_overflow():
  indices = pipeline.batch_indices(0, 10**12, 1000, 100)
  assert len(set(indices.tolist())) == 100


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ((0, 0, 0, 4), 'no images'),
    ((0, 0, 10, 0), 'positive multiple'),
    ((0, 0, 10, 4, 0, 3), 'positive multiple of the 3 processes; got 4'),
    ((0, 0, 10, 4, 2, 2), 'process must be from'),
    ((0, -1, 10, 4), 'step must not be negative'),
  ],
)
def test_impossible_batches_are_refused(arguments, words):
  with pytest.raises(ValueError, match=words):
    pipeline.batch_indices(*arguments)


def test_gather_reads_a_memory_map(tmp_path):
  images = np.arange(5 * 2 * 2, dtype=np.uint8).reshape(5, 2, 2, 1)
  np.save(tmp_path / 'x.npy', images)
  mapped = np.load(tmp_path / 'x.npy', mmap_mode='r')
  batch = pipeline.gather(mapped, np.array([3, 0, 3]))
  assert np.array_equal(batch, images[[3, 0, 3]])
  assert not isinstance(batch, np.memmap)


def test_prefetch_yields_in_order_and_looks_ahead_only_so_far():
  made = []
  gate = threading.Event()

  def make(step):
    made.append(step)
    if len(made) == 4:
      gate.set()
    return step * step

  with contextlib.closing(pipeline.prefetch(make, 3, 20, depth=2)) as batches:
    assert next(batches) == 9
    assert gate.wait(10)  # one taken, two waiting, one in hand
    assert not made[4:]
    assert list(batches) == [step * step for step in range(4, 20)]


def test_prefetch_raises_where_the_batch_would_have_come():
  def make(step):
    if step == 2:
      raise RuntimeError('image 7 is lost')
    return step

  batches = pipeline.prefetch(make, 0, None)
  assert [next(batches), next(batches)] == [0, 1]
  with pytest.raises(RuntimeError, match='image 7'):
    next(batches)


@pytest.mark.parametrize('taken', [0, 1, 5])
def test_closing_ends_the_thread(taken):
  before = threading.active_count()
  batches = pipeline.prefetch(lambda step: step, 0)
  for _ in range(taken):
    next(batches)
  batches.close()
  assert threading.active_count() == before


def test_prefetch_refuses_no_depth():
  with pytest.raises(ValueError, match='depth'):
    pipeline.prefetch(lambda step: step, 0, depth=0)


def test_a_quarter_of_the_memory_is_the_limit():
  device = types.SimpleNamespace(platform='gpu', memory_stats=lambda: {'bytes_limit': 4000})
  assert pipeline.fits_on_device(999, device)
  assert not pipeline.fits_on_device(1000, device)
  unknown = types.SimpleNamespace(platform='tpu', memory_stats=lambda: None)
  assert not pipeline.fits_on_device(1, unknown)
  cpu = types.SimpleNamespace(platform='cpu', memory_stats=lambda: None)
  assert pipeline.fits_on_device(1 << 20, cpu)
  assert not pipeline.fits_on_device(1 << 60, cpu)
