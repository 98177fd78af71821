"""Features that learn from a run's training images: trained once, alike each time."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import DataConfig
from structured_obs.data import prepare
from structured_obs.data.prepare import Prepared
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import features
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.features import pretext, self_trained

TINY = self_trained.Training(widths=(4, 6), steps=12, batch_size=16, learning_rate=1e-2)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
  """Digits, in a cache of their own."""
  cache = tmp_path_factory.mktemp('digits')
  return prepare.prepare(DataConfig(source='digits', cache_dir=str(cache), limit=120))


@pytest.fixture(scope='module')
def trained(data: Prepared) -> extractors.Extractor:
  """Features after a few steps."""
  said: list[str] = []
  found = self_trained.extractor(data, said.append, TINY)
  assert 'Training --features=self on' in said[0]
  assert 'class 0.' in said[-1]  # digits have labels
  return found


def test_it_is_trained_once_and_kept_beside_the_images(data: Prepared, trained: extractors.Extractor):
  said: list[str] = []
  again = self_trained.extractor(data, said.append, TINY)
  assert not said
  assert repr(again) == repr(trained)
  assert (again.apply, again.maps) == (trained.apply, trained.maps)  # one compiled program
  folders = [path for path in Path(data.path).parent.iterdir() if path.name.startswith('features-')]
  assert len(folders) == 1
  digests = {self_trained._digest(data, one) for one in (TINY, TINY._replace(seed=1))}
  assert len(digests) == 2


def test_training_again_gives_the_same_weights(data: Prepared, trained: extractors.Extractor):
  weights = self_trained.train(data, TINY, lambda line: None)
  for one, other in zip(jax.tree.leaves(weights), jax.tree.leaves(trained.weights), strict=True):
    np.testing.assert_array_equal(one, other)


def test_features_have_mean_0_and_deviation_1_over_training_images(
  data: Prepared, trained: extractors.Extractor
):
  images = np.asarray(data.images['train'], np.float32) / 8 - 1
  rows = extractors.extract(trained, images)
  assert rows.shape == (len(images), sum(TINY.widths))
  np.testing.assert_allclose(rows.mean(0), 0, atol=1e-3)
  np.testing.assert_allclose(rows.std(0), 1, atol=1e-3)
  assert trained.maps is not None
  shapes = [y.shape for y in trained.maps(trained.weights, jnp.asarray(images[:2]))]
  assert shapes == [(2, 8, 8, 4), (2, 4, 4, 6)]


def test_weights_that_are_damaged_are_named(
  data: Prepared, trained: extractors.Extractor, tmp_path: Path
):
  folder = next(path for path in Path(data.path).parent.glob('features-*') if path.is_dir())
  (tmp_path / folder.name).mkdir()
  (tmp_path / folder.name / self_trained.FILE).write_bytes(b'nothing')
  moved = data._replace(path=str(tmp_path / 'images'))
  with pytest.raises(ValueError, match='missing or damaged; remove that folder'):
    self_trained.extractor(moved, lambda line: None, TINY)


def test_what_it_cannot_learn_from_is_refused(data: Prepared):
  real = data._replace(spec=data.spec._replace(levels=0))
  with pytest.raises(ValueError, match='--features=self cannot learn from real numbers'):
    self_trained.extractor(real)
  with pytest.raises(ValueError, match='--features=self cannot learn from images with masks'):
    self_trained.extractor(data._replace(spec=data.spec._replace(masked=True)))
  few = data._replace(images={**data.images, 'train': data.images['train'][:3]})
  with pytest.raises(ValueError, match='at least 16 training images; digits has 3'):
    self_trained.extractor(few)
  with pytest.raises(ValueError, match='--features=self needs the data of a run'):
    features.find('self', ImageShape(8, 8, 1))


@pytest.mark.parametrize('shape', [(6, 6, 3), (5, 8, 1)])
def test_corruptions_are_what_their_grades_say(shape: tuple[int, ...]):
  images = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (400, *shape)), jnp.float32)
  x, answers = pretext.corrupted(jax.random.key(0), images)
  clean = (answers['noise'] == 0) & (answers['blur'] == 0)
  turned = np.asarray(x[clean])
  kept = np.sort(np.asarray(images[clean]).reshape(len(turned), -1), axis=1)
  np.testing.assert_allclose(np.sort(turned.reshape(len(turned), -1), axis=1), kept, atol=1e-6)
  assert 60 < len(turned) < 140  # a quarter
  error = jnp.std(x - pretext._turned(images, answers['turn']), axis=(1, 2, 3))
  for task in ('noise', 'blur'):
    other = 'blur' if task == 'noise' else 'noise'
    alone = answers[other] == 0
    means = [float(jnp.mean(error[alone & (answers[task] == grade)])) for grade in range(pretext.GRADES)]
    assert means == sorted(means)
    assert means[0] < 1e-6
  assert {*np.asarray(answers['turn']).tolist()} == {0, 1, 2, 3}


def test_the_loss_is_the_cross_entropy():
  layers = pretext.tasks(3, 2)
  rng = np.random.default_rng(0)
  layers = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), layers)
  rows = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
  answers = {name: jnp.asarray(rng.integers(0, len(layer['bias']), 5)) for name, layer in layers.items()}
  expected = 0.0
  for name, layer in layers.items():
    logits = np.asarray(rows, np.float64) @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected -= np.mean(np.log(p[np.arange(5), np.asarray(answers[name])]))
  total, right = pretext.losses(layers, rows, answers)
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  assert {*right} == {'noise', 'blur', 'turn', 'class'}
  assert 'class' not in pretext.tasks(3, 1)
