"""Passes that are interrupted, and go on."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import base
from structured_obs.evaluation import likelihood, passes, resume
from structured_obs.evaluation.passes import Pass, Where
from tests.evaluation import linear_gaussian

IMAGE = base.ImageShape(3, 2, 1)
MODEL = linear_gaussian.LinearGaussian(IMAGE)
IMAGES = np.random.default_rng(1).integers(0, 17, (11, *IMAGE)).astype(np.uint8)
KEY = jax.random.key(7)


def _noisy_mean(job: Pass, variables: Any, keys: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
  noise = jax.vmap(jax.random.normal)(keys).astype(x.dtype)
  return {'mean': jnp.mean(x, axis=(1, 2, 3)) * job.options + variables['shift'] + noise}


PASS = Pass(_noisy_mean, MODEL, levels=17, batch_size=4, options=2)
TREE = {'shift': jnp.asarray(0.5, jnp.float32)}


class _Stopped(Exception):
  """What interrupts a pass."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
  """The rows of every batch that was measured; everything is kept after each."""
  rows, whole = [], passes._measure_batch
  monkeypatch.setattr(resume, 'SECONDS', 0)

  def measure(*arguments: Any) -> Any:
    rows.extend(np.asarray(arguments[4]).tolist())
    return whole(*arguments)

  monkeypatch.setattr(passes, '_measure_batch', measure)
  return rows


def _stop_at(monkeypatch: pytest.MonkeyPatch, row: int) -> None:
  """Lets the batch that begins with this row fail."""
  spread = passes._spread

  def stopping(rows: np.ndarray, mesh: Any) -> Any:
    if rows.ndim == 1 and rows[0] == row:
      raise _Stopped
    return spread(rows, mesh)

  monkeypatch.setattr(passes, '_spread', stopping)


@pytest.mark.parametrize('batch_size', [4, 5, 64])
def test_scores_go_on_where_they_were(measured, monkeypatch, tmp_path: Path, batch_size: int):
  settings = likelihood.Settings(17, importance_samples=3, chunk=2, batch_size=4)
  tree = linear_gaussian.variables(IMAGE, widen=1.5)
  score = functools.partial(likelihood.split_scores, linear_gaussian.bound(MODEL, tree), IMAGES, KEY)
  expected = score(settings).by_name()
  with monkeypatch.context() as patched:
    _stop_at(patched, 4)
    with pytest.raises(_Stopped):
      score(settings, Where(keep=tmp_path))
  measured.clear()
  found = score(settings._replace(batch_size=batch_size), Where(keep=tmp_path)).by_name()
  assert min(measured) == 4
  for name, values in found.items():
    np.testing.assert_array_equal(values[:4], expected[name][:4], err_msg=name)
    np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    if batch_size == 4:
      np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_pass_that_has_ended_is_not_done_again(measured, tmp_path: Path):
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((4,), ('batch',), axis_types=auto, devices=jax.devices())
  expected = passes.over_images(PASS, TREE, IMAGES, KEY, Where(mesh, tmp_path))
  measured.clear()
  found = passes.over_images(PASS, TREE, IMAGES, KEY, Where(keep=tmp_path))
  assert not measured
  assert found['mean'].shape == (11,)
  np.testing.assert_array_equal(found['mean'], expected['mean'])


def _changed(name: str) -> tuple[Any, ...]:
  others = {
    'options': (PASS._replace(options=3), TREE, IMAGES, KEY),
    'dequantize': (PASS._replace(dequantize=True), TREE, IMAGES, KEY),
    'levels': (PASS._replace(levels=18), TREE, IMAGES, KEY),
    'variables': (PASS, {'shift': jnp.asarray(0.25, jnp.float32)}, IMAGES, KEY),
    'images': (PASS, TREE, IMAGES[::-1], KEY),
    'one image': (PASS, TREE, np.concatenate([IMAGES[:10], IMAGES[:1]]), KEY),
    'key': (PASS, TREE, IMAGES, jax.random.key(8)),
  }
  return others[name]


@pytest.mark.parametrize(
  'name', ['options', 'dequantize', 'levels', 'variables', 'images', 'one image', 'key']
)
def test_other_work_is_not_taken(measured, tmp_path: Path, name: str):
  passes.over_images(PASS, TREE, IMAGES, KEY, Where(keep=tmp_path))
  measured.clear()
  found = passes.over_images(*_changed(name), where=Where(keep=tmp_path))
  assert min(measured) == 0
  np.testing.assert_array_equal(found['mean'], passes.over_images(*_changed(name))['mean'])
  assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_is_not_read(measured, tmp_path: Path):
  expected = passes.over_images(PASS, TREE, IMAGES, KEY, Where(keep=tmp_path))
  (file,) = tmp_path.iterdir()
  for content in (b'', file.read_bytes()[:100], b'PK' + file.read_bytes()[2:60]):
    file.write_bytes(content)
    measured.clear()
    found = passes.over_images(PASS, TREE, IMAGES, KEY, Where(keep=tmp_path))
    assert min(measured) == 0
    np.testing.assert_array_equal(found['mean'], expected['mean'])


def test_a_short_pass_leaves_nothing(tmp_path: Path):
  passes.over_images(PASS, TREE, IMAGES, KEY, Where(keep=tmp_path / 'new'))
  assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize(
  ('name', 'option'), [('low_rank', 'noise_variance'), ('sparse_precision', 'min_scale')]
)
def test_a_model_is_known_by_what_it_computes(name: str, option: str):
  """Made again, its functions lie elsewhere in memory; their options are hidden in closures."""

  def digest(**options: Any) -> str:
    family = distributions.family(name, **options)
    outputs = {name: jnp.zeros(shape) for name, shape in family.outputs(IMAGE).items()}
    return resume.work(None, '', family.from_outputs, [outputs], IMAGES).identity()[0]

  assert digest() == digest()
  assert digest() != digest(**{option: 0.02})


def test_long_passes_say_how_far_they_are_and_when_they_end(monkeypatch):
  now, said = [0.0], []
  monkeypatch.setattr(passes.time, 'monotonic', lambda: now[0])
  progress = passes.Progress('likelihoods', 1000, said.append)
  for done, seconds in ((100, 40.0), (200, 45.0), (300, 52.0), (400, 55.0), (500, 64.0), (1000, 99.0)):
    now[0] = seconds
    progress.tell(done)
  assert said == [
    '  likelihoods: 100 of 1,000 images',  # the first batch, which compiles, tells no speed
    '  likelihoods: 300 of 1,000 images, ETA 0:00:42',
    '  likelihoods: 500 of 1,000 images, ETA 0:00:30',
  ]
  passes.Progress('likelihoods', 1000, None).tell(1)
