"""A classifier from its training to the features that images are compared in, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import classifier
from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import classification, features
from structured_obs.evaluation.features import bands, random_conv
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.runs import configuration, restore
from structured_obs.runs import workdir as workdirs
from structured_obs.train import run

IMAGE = ImageShape(8, 8, 1)


def _config(cache: Path) -> Config:
  config = classifier.get_config()
  config.data = dataclasses.replace(config.data, cache_dir=str(cache))
  config.model.options |= {'features': (16, 32), 'blocks': 0}
  config.optim = dataclasses.replace(config.optim, learning_rate=1e-2, warmup_steps=5)
  config.train = dataclasses.replace(config.train, steps=80, validate_every=40)
  return config


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A run of 80 steps."""
  folder = tmp_path_factory.mktemp('classifier')
  said: list[str] = []
  run.run(_config(folder / 'data'), run.Options(workdir=str(folder / 'run')), say=said.append)
  assert f'--features=classifier:{folder / "run"}' in said[-1]
  return folder / 'run'


@pytest.mark.slow
def test_the_report_tells_the_accuracy(workdir: Path):
  restored = restore.restore(workdir)
  trained, prepared = restore.reopen(workdir)
  scores = classification.scores(trained, prepared.images['test'])
  stored = np.asarray(prepared.images['test'])
  x = jnp.asarray(stored / 8 - 1, jnp.float32)[..., :1]
  rows = np.asarray(restored.experiment.model.apply(restored.variables, x, method='embed'))
  head = restored.variables['params']['head']
  guess = (rows @ np.asarray(head['kernel']) + np.asarray(head['bias'])).argmax(1)
  np.testing.assert_array_equal(scores['accuracy'], guess == stored[:, 0, 0, 1])
  accuracy = scores['accuracy'].mean()
  assert accuracy > 0.3  # by chance, 0.1
  assert f'{accuracy:.4f} ±' in (workdir / 'report.md').read_text()
  records = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert any('stats/accuracy' in record for record in records)


def test_a_classifier_is_not_evaluated_as_a_model_of_images(workdir: Path):
  with pytest.raises(ValueError, match=r'Its accuracy is in .*report\.md'):
    restore.load(workdir)


def test_its_features_are_those_before_the_last_layer(workdir: Path):
  extractor = features.find(f'classifier:{workdir}', IMAGE)
  images = np.random.default_rng(0).uniform(-1, 1, (5, *IMAGE)).astype(np.float32)
  restored = restore.restore(workdir)
  expected = restored.experiment.model.apply(restored.variables, images, method='embed')
  np.testing.assert_allclose(extractors.extract(extractor, images), expected, rtol=1e-4, atol=1e-6)
  assert extractor.maps is not None
  assert [layer.shape for layer in extractor.maps(extractor.weights, jnp.asarray(images))] == [
    (5, 8, 8, 16), (5, 4, 4, 32)
  ]  # fmt: skip
  assert repr(extractor) == repr(features.find(f'classifier:{workdir}', IMAGE))


def test_other_runs_are_refused(workdir: Path, tmp_path: Path):
  with pytest.raises(ValueError, match=r'has images of 8 x 8 x 1, but .* have 8 x 8 x 3'):
    features.find(f'classifier:{workdir}', ImageShape(8, 8, 3))
  with pytest.raises(FileNotFoundError, match='There is no run in'):
    features.find(f'classifier:{tmp_path}', IMAGE)
  shutil.copy(workdir / 'run.json', tmp_path)
  with pytest.raises(FileNotFoundError, match="has no checkpoint"):
    features.find(f'classifier:{tmp_path}', IMAGE)
  run = workdirs.read(tmp_path)
  run['config']['model']['kind'] = 'vae'
  workdirs.write(tmp_path, run)
  with pytest.raises(ValueError, match=r"model\.kind='vae'; name the run of a classifier"):
    features.find(f'classifier:{tmp_path}', IMAGE)


@pytest.mark.parametrize(
  'name', ['', 'lpips', 'classifier', 'classifier:', 'inception:', 'random_conv:3']
)
def test_unknown_features_are_refused(name: str):
  with pytest.raises(ValueError, match='one of bands, self, random_conv, classifier:WORKDIR, inception'):
    features.find(name, IMAGE)


def test_random_features_need_nothing():
  assert features.find('random_conv', IMAGE) is random_conv.random_conv(IMAGE)
  assert features.find('bands', IMAGE) is bands.bands(IMAGE)


@pytest.mark.parametrize(
  ('section', 'field', 'value', 'said'),
  [
    ('data', 'labels', False, 'data.labels must be True'),
    ('likelihood', 'family', 'low_rank', 'likelihood.family=.* has no effect with'),
    ('optim', 'stages', ('mean:2',), 'optim.stages=.* has no effect with'),
  ],
)
def test_what_a_classifier_has_not_is_refused(section: str, field: str, value: object, said: str):
  config = classifier.get_config()
  setattr(config, section, dataclasses.replace(getattr(config, section), **{field: value}))
  with pytest.raises(ValueError, match=said):
    configuration.resolve(config)
  with pytest.raises(ValueError, match='no variants'):
    classifier.get_config('large')
