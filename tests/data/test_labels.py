"""The class behind an image: stored, counted, and the same after everything that happens to an image."""

from typing import Any

import jax
import numpy as np
import pytest

from structured_obs.config import Config, DataConfig
from structured_obs.data import labels, pipeline, prepare
from structured_obs.distributions.base import ImageShape
from structured_obs.models import classes
from structured_obs.runs import configuration, initial
from tests.data import helpers


def source(tmp_path: Any, numbers: Any, **fields: Any) -> DataConfig:
  """A configuration of 12 images in an npz file, with these labels."""
  path = tmp_path / 'data.npz'
  images = helpers.random_images(12)
  np.savez(path, images=images, **({} if numbers is None else {'labels': numbers}))
  return helpers.config(tmp_path, f'npz:{path}', labels=True, **fields)


def test_classes_are_stored_counted_and_apart_from_images_without(tmp_path):
  numbers = np.arange(12) % 5 * 60
  config = source(tmp_path, numbers, height=9, width=4)
  found = prepare.prepare(config)
  assert found.spec.condition == 1
  assert found.spec.stored == (9, 4, 4)
  for split, images in found.images.items():
    expected = np.broadcast_to(helpers.labels(found, split)[:, None, None], images.shape[:3])
    np.testing.assert_array_equal(images[..., 3], expected)
  train = helpers.labels(found, 'train')
  assert list(found.spec.class_counts) == np.bincount(train, minlength=241).tolist()
  plain = prepare.prepare(helpers.config(tmp_path, config.source, height=9, width=4))
  assert plain.path != found.path
  assert plain.spec.class_counts == []
  np.testing.assert_array_equal(plain.images['train'], found.images['train'][..., :3])


def test_a_class_goes_through_the_pipeline_unchanged(tmp_path):
  data = helpers.config(tmp_path, 'digits', labels=True, flip=True, turn=True, shift=3)
  prepared = prepare.prepare(data)
  indices = pipeline.batch_indices(0, 3, prepared.spec.counts['train'], 64)
  batch = pipeline.gather(prepared.images['train'], indices)
  preprocess = jax.jit(initial.make_preprocess(Config(data=data), prepared.spec))
  x = preprocess(jax.random.split(jax.random.key(0), 64), batch)
  known = classes.Classes(tuple(prepared.spec.class_counts), prepared.spec.levels)
  found = classes.of_images(known, x, ImageShape(8, 8, 1))
  np.testing.assert_array_equal(np.argmax(found, 1), helpers.labels(prepared, 'train')[indices])
  assert not np.any(x[..., 1] != x[:, :1, :1, 1])
  levels = (np.asarray(x[..., 0]) + 1) * 8
  assert np.mean(levels != np.round(levels)) > 0.99  # the image itself is dequantised


@pytest.mark.parametrize(
  ('numbers', 'message'),
  [
    (None, 'but .* has none'),
    (np.arange(12) + 250, r'has the label 256'),
    (np.arange(12) - 1, r'has the label -1'),
  ],
)
def test_a_source_without_fit_labels_is_refused(tmp_path, numbers, message):
  with pytest.raises(ValueError, match=message):
    prepare.prepare(source(tmp_path, numbers))
  assert not list((tmp_path / 'cache').iterdir())


def test_images_of_real_numbers_carry_no_label():
  with pytest.raises(ValueError, match='has real numbers'):
    labels.behind((np.zeros((2, 2, 1), np.float32), 1), 'image 0')


@pytest.mark.parametrize('kind', ['ae', 'covariance', 'distribution'])
def test_kinds_that_cannot_be_given_a_class_are_refused(kind):
  config = Config(data=DataConfig(labels=True))
  config.model.kind = kind
  with pytest.raises(ValueError, match=r"data\.labels must be False with .*model\.kind='"):
    configuration.resolve(config)
