"""Weights of the network of the Frechet inception distance, from a file."""

from pathlib import Path

import jax
import numpy as np
import pytest

from structured_obs.evaluation.features import extractor, inception_weights
from structured_obs.models.networks import inception

KERNEL = 'Mixed_5b.branch1x1.conv.weight'

State = dict[str, np.ndarray]


@pytest.fixture(scope='module')
def state() -> State:
  """Arrays of one number each, apart from a kernel; no room is taken by what is repeated."""
  numbers = enumerate(inception.state_shapes().items())
  found = {name: np.broadcast_to(np.float32(number), shape) for number, (name, shape) in numbers}
  kernel = np.random.default_rng(0).normal(size=found[KERNEL].shape).astype(np.float32)
  unused = {'fc.weight': np.zeros((8, 2048)), 'Conv2d_1a_3x3.bn.num_batches_tracked': np.zeros(())}
  return {**found, **unused, KERNEL: kernel}


def _saved(path: Path, state: State) -> str:
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(path, allow_pickle=False, **state)
  return str(path)


def test_weights_of_a_file_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State):
  """Also where none is named, from the user's cache."""
  monkeypatch.setenv('HOME', str(tmp_path))
  _saved(tmp_path / '.cache' / 'structured_obs' / 'inception_fid.npz', state)
  found = inception_weights.extractor()
  kernel = found.weights['params']['Mixed_5b']['branch1x1']['conv']['kernel']
  np.testing.assert_array_equal(kernel, state[KERNEL].transpose(2, 3, 1, 0))
  used = sorted(inception.state_shapes())
  assert repr(found) == f'inception ({extractor.fingerprint(state[name] for name in used)})'
  images = jax.ShapeDtypeStruct((3, 28, 28, 1), np.float32)
  assert jax.eval_shape(found.apply, found.weights, images).shape == (3, 2048)
  assert found.maps is not None
  maps = jax.eval_shape(found.maps, found.weights, images)
  assert [y.shape[1:] for y in maps] == [(73, 73, 64), (35, 35, 192), (17, 17, 768), (8, 8, 2048)]


def test_a_missing_file_says_what_to_do(tmp_path: Path):
  path = str(tmp_path / 'absent.npz')
  with pytest.raises(FileNotFoundError) as caught:
    inception_weights.extractor(path)
  for part in (
    path,
    'pt_inception-2015-12-05-6726825d.pth',
    'https://github.com/mseitzer/pytorch-fid/releases',
    'python -c "import numpy, torch',
    "--features=bands, --features=self and --features=classifier:WORKDIR need no file",
  ):
    assert part in str(caught.value)


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (None, rf"must hold an array '{KERNEL}' \(64, 192, 1, 1\); there is none"),
    (np.zeros((192, 64, 1, 1)), rf"'{KERNEL}' .* of shape \(64, 192, 1, 1\); it is \(192, 64, 1, 1\)"),
  ],
)
def test_the_first_bad_array_is_named(
  tmp_path: Path, state: State, array: np.ndarray | None, message: str
):
  # What comes after it is missing too.
  changed = {name: value for name, value in state.items() if name != KERNEL and 'Mixed_7' not in name}
  if array is not None:
    changed[KERNEL] = array
  small = {name: value for name, value in changed.items() if value.size < 1e6}
  with pytest.raises(ValueError, match=message):
    inception_weights.extractor(_saved(tmp_path / 'weights.npz', small))


@pytest.mark.parametrize('content', [b'', b'not an archive', b'PK\x03\x04 cut off'])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes):
  path = tmp_path / 'weights.npz'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r'must be an npz of arrays, made by `python -c'):
    inception_weights.extractor(str(path))
