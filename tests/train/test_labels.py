"""A label-conditional run from end to end: trained, told about, opened again, evaluated and drawn."""

import dataclasses

import jax
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.evaluation import results
from structured_obs.evaluation.figures import supn, views
from structured_obs.runs import restore
from structured_obs.train import run


@pytest.fixture(scope='module')
def opened(tmp_path_factory: pytest.TempPathFactory):
  """A run of two steps, opened again."""
  workdir = tmp_path_factory.mktemp('labels')
  config = Config()
  config.data = dataclasses.replace(config.data, labels=True, cache_dir=str(workdir / 'data'))
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  config.train = dataclasses.replace(config.train, steps=2, batch_size=8)
  outcome = run.run(config, run.Options(workdir=str(workdir / 'run')), say=lambda line: None)
  assert outcome is not None
  assert outcome.standing.best is not None
  assert 'nan' not in (workdir / 'run' / 'report.md').read_text()
  return restore.load(workdir / 'run')


def test_every_test_image_is_scored_with_its_class(opened):
  trained, prepared = opened
  images = np.array(prepared.images['test'][:4])
  settings = results.settings_of(trained.config, trained.spec, samples=2)
  scores = results.evaluate(trained, images, settings).scores
  assert all(np.all(np.isfinite(values)) for values in (scores.elbo, scores.iwae, scores.log_prob))
  images[..., 1] = (images[..., 1] + 1) % 10
  other = results.evaluate(trained, images, settings).scores
  assert np.all(other.log_prob != scores.log_prob)


def test_new_images_and_pictures_of_all_kinds(opened, tmp_path):
  trained, prepared = opened
  bound = trained.bound
  found = supn.write(tmp_path, [trained], prepared.images['test'][:2])
  assert len(found) == 5
  request = views.Request((0, 0, 0), samples=1, components=0, labels=(3, 7))
  key = jax.random.key(0)
  alone = [views.of_prior(bound, 2, key, request._replace(labels=(label,))).mean for label in (3, 7)]
  both = views.of_prior(bound, 2, key, request).mean
  np.testing.assert_allclose(both, [alone[0][0], alone[1][1]], atol=1e-6)
  with pytest.raises(ValueError, match='classes are from 0 to 9'):
    views.of_prior(bound, 2, key, request._replace(labels=(10,)))
