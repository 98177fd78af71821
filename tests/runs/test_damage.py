"""Damaged checkpoints: each ends in one sentence or in what was saved, never in something else."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.runs import checkpoint, state
from tests.runs.test_checkpoint import make_state

STEP = 7
ABOUT = {'config': {'rate': 0.125, 'name': 'low_rank'}, 'standing': {'best': -1.5, 'best_step': STEP}}


def flip(content: bytes) -> bytes:
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
  'cut': lambda content: content[: len(content) // 2],
  'zeros': lambda content: bytes(len(content)),
  'flipped': flip,
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, state.TrainState]:
  """A directory with one checkpoint, and its state."""
  directory, whole = tmp_path_factory.mktemp('saved'), make_state(step=STEP)
  checkpoint.save(directory, whole, ABOUT, keep=2)
  return directory, whole


@pytest.fixture
def copied(saved: tuple[Path, state.TrainState], tmp_path: Path) -> Path:
  """A copy of that directory, to be damaged."""
  return Path(shutil.copytree(saved[0], tmp_path / 'copied'))


def files(directory: Path) -> list[Path]:
  return sorted(path for path in (directory / str(STEP)).rglob('*') if path.is_file())


@pytest.mark.parametrize('kind', ['deleted', *DAMAGES])
def test_damage_of_any_file_is_a_sentence_or_harmless(
  kind: str, saved: tuple[Path, state.TrainState], copied: Path, capfd: pytest.CaptureFixture[str]
):
  found: dict[str, str] = {}
  for file in files(copied):
    content = file.read_bytes()
    file.unlink()
    if kind != 'deleted' and content:
      file.write_bytes(DAMAGES[kind](content))
    try:
      loaded = checkpoint.load(copied, STEP, saved[1])
      jax.tree.map(np.testing.assert_array_equal, loaded, saved[1])
    except checkpoint.DamagedError as error:
      found[file.name] = str(error)
    file.write_bytes(content)
  assert {checkpoint.METADATA, 'manifest.ocdbt'} <= found.keys()
  start = f'The checkpoint of step {STEP} in {copied} is damaged: '
  assert all(sentence.startswith(start) for sentence in found.values())
  assert capfd.readouterr().err == ''


def test_a_flipped_bit_of_the_json_is_noticed_wherever_it_is(copied: Path):
  path = copied / str(STEP) / checkpoint.METADATA
  content = path.read_bytes()
  expected = checkpoint.read_metadata(copied, STEP)
  noticed, places = 0, range(0, len(content), 5)
  for place in places:
    path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 7]) + content[place + 1 :])
    try:
      assert checkpoint.read_metadata(copied, STEP) == expected
    except checkpoint.DamagedError:
      noticed += 1
  assert noticed > len(json.dumps(expected)) / len(content) * len(places) * 0.9


@pytest.mark.parametrize('left', [(), (checkpoint.METADATA,), ('state',)])
def test_an_empty_or_half_copied_directory_is_not_complete(left: tuple[str, ...], copied: Path):
  for path in (copied / str(STEP)).iterdir():
    if path.name not in left:
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  assert checkpoint.steps_in(copied) == []
  assert checkpoint.entries(copied) == [STEP]
  with pytest.raises(checkpoint.DamagedError, match='it is incomplete: '):
    checkpoint.read_metadata(copied, STEP)


def test_a_checkpoint_from_before_metadata_had_a_checksum_is_read(
  saved: tuple[Path, state.TrainState], copied: Path
):
  path = copied / str(STEP) / checkpoint.METADATA
  stored = json.loads(path.read_bytes())
  for name in ('arrays', checkpoint.CHECKSUM):
    del stored['custom_metadata'][name]
  path.write_text(json.dumps(stored))
  assert checkpoint.read_metadata(copied, STEP)['config'] == ABOUT['config']
  jax.tree.map(np.testing.assert_array_equal, checkpoint.load(copied, STEP, saved[1]), saved[1])
  with pytest.raises(ValueError, match='does not match the configuration') as error:
    checkpoint.load(copied, STEP, make_state(width=4))
  assert not isinstance(error.value, checkpoint.DamagedError)


@pytest.mark.parametrize('damage', ['empty', 'zeros', 'whole', 'another state'])
def test_saving_writes_unless_the_same_state_is_there_whole(
  damage: str, saved: tuple[Path, state.TrainState], copied: Path
):
  whole, step_directory = saved[1], copied / str(STEP)
  aside = {'empty': 'damaged-7', 'zeros': 'damaged-7', 'another state': 'replaced-7'}.get(damage)
  if damage == 'empty':
    shutil.rmtree(step_directory)
    step_directory.mkdir()
  if damage == 'zeros':
    file = max(files(copied), key=lambda file: file.parent.name == 'd')
    file.write_bytes(bytes(file.stat().st_size))
  if damage == 'another state':
    whole = whole._replace(skipped=whole.skipped + 1)
  checkpoint.save(copied, whole, ABOUT, keep=1)
  jax.tree.map(np.testing.assert_array_equal, checkpoint.load(copied, STEP, whole), whole)
  assert {path.name for path in copied.iterdir()} == {str(STEP), *([aside] if aside else [])}


def test_names_of_what_is_moved_aside_do_not_collide(tmp_path: Path):
  for _ in range(3):
    (tmp_path / '4').mkdir()
    checkpoint.move_aside(tmp_path, 4)
  assert {path.name for path in tmp_path.iterdir()} == {'damaged-4', 'damaged-4-2', 'damaged-4-3'}
  assert checkpoint.entries(tmp_path) == []


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('field', ['params', 'model_state', 'opt_state', 'ema'])
def test_a_state_that_is_not_finite_is_not_saved(field: str, value: float, tmp_path: Path):
  whole = make_state(step=STEP)
  leaves, structure = jax.tree.flatten(getattr(whole, field))
  last = max(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact))
  leaves[last] = jax.device_put(
    jnp.full(leaves[last].shape, value, leaves[last].dtype), leaves[last].sharding
  )
  with pytest.raises(checkpoint.NonFiniteStateError, match=rf'after step {STEP} .* in {field}/'):
    checkpoint.save(tmp_path, whole._replace(**{field: structure.unflatten(leaves)}), {}, keep=2)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('raised', [OSError(errno.ENOSPC, 'full'), ValueError("[os_error_code='28']")])
def test_a_full_disk_names_the_path_and_leaves_nothing_half_written(
  raised: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  def fail(path: str, *arguments: Any, **named: Any) -> None:
    half = Path(f'{path}{checkpoint.TEMPORARY}')
    half.mkdir(parents=True)
    (half / 'data').write_bytes(b'half')
    raise raised

  monkeypatch.setattr(checkpoint.ocp, 'save', fail)
  with pytest.raises(OSError, match='No space left on device') as error:
    checkpoint.save(tmp_path, make_state(step=STEP), {}, keep=2)
  assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / str(STEP)))
  assert not list(tmp_path.iterdir())
