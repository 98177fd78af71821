"""Checkpoints: whole or not there, and never silently something else."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs.devices import mesh
from structured_obs.runs import checkpoint, state


def make_state(width: int = 3, step: int = 7, ema: bool = True) -> state.TrainState:
  """A state with every kind of leaf, on all devices."""
  variables = {
    'params': {'dense': {'kernel': jnp.arange(2 * width, dtype=jnp.float32).reshape(2, width)}},
    'batch_stats': {'mean': jnp.full((width,), jnp.pi, jnp.float32)},
  }
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
  fresh = state.create(variables, optimizer, ema, {'entropy': jnp.float32(0.25)})
  return mesh.replicate(fresh._replace(step=jnp.int32(step)), mesh.make_mesh())


def save(directory: Path, *states: state.TrainState, keep: int = 2) -> None:
  for each in states:
    checkpoint.save(directory, each, {'note': 'a', 'best': None}, keep)


@pytest.mark.parametrize('ema', [False, True])
def test_what_is_loaded_is_what_was_saved(ema: bool, tmp_path: Path):
  saved = make_state(ema=ema)
  save(tmp_path, saved)
  loaded = checkpoint.load(tmp_path, 7, saved)
  assert jax.tree.structure(loaded) == jax.tree.structure(saved)
  jax.tree.map(np.testing.assert_array_equal, loaded, saved)
  assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(loaded))
  metadata = checkpoint.read_metadata(tmp_path, 7)
  assert (metadata['note'], metadata['best']) == ('a', None)


def test_the_latest_are_kept_and_a_step_is_saved_once(tmp_path: Path):
  states = [make_state(step=step) for step in (1, 2, 3, 3)]
  save(tmp_path, *states)
  assert checkpoint.steps_in(tmp_path) == [2, 3]
  assert checkpoint.steps_in(tmp_path / 'nowhere') == []


def test_another_shape_is_refused_in_a_few_lines(tmp_path: Path):
  save(tmp_path, make_state(width=3))
  with pytest.raises(ValueError, match='does not match') as error:
    checkpoint.load(tmp_path, 7, make_state(width=4))
  lines = str(error.value).splitlines()
  assert lines[1] == "  params/model/dense/kernel: 'float32[2, 3]' -> 'float32[2, 4]'"
  assert len(lines) == 5
  assert lines[-1].endswith('and 2 more')


def test_a_missing_average_is_refused(tmp_path: Path):
  save(tmp_path, make_state(ema=False))
  with pytest.raises(ValueError, match=r"ema/dense/kernel: \(absent\) -> 'float32"):
    checkpoint.load(tmp_path, 7, make_state(ema=True))


def test_changed_numbers_are_noticed(tmp_path: Path):
  """Metadata of one checkpoint beside the arrays of another, as a partial load would leave them."""
  good, other = make_state(), make_state()
  other = other._replace(skipped=other.skipped + 1)
  save(tmp_path / 'a', good)
  save(tmp_path / 'b', other)
  shutil.rmtree(tmp_path / 'a' / '7' / 'state')
  shutil.copytree(tmp_path / 'b' / '7' / 'state', tmp_path / 'a' / '7' / 'state')
  with pytest.raises(ValueError, match=r'damaged.*\n  skipped:'):
    checkpoint.load(tmp_path / 'a', 7, good)


def test_half_written_checkpoints_are_ignored_and_removed(tmp_path: Path):
  save(tmp_path, make_state(step=4))
  partial = tmp_path / '5.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / '4', partial)
  assert checkpoint.steps_in(tmp_path) == [4]
  assert partial.exists()  # reading removes nothing
  checkpoint.clean(tmp_path)
  assert checkpoint.steps_in(tmp_path) == [4]
  assert not partial.exists()
