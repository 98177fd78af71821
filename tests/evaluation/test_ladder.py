"""The ladder of noise and blur: equal errors in pairs, what it says of features, and the default's."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import sklearn.datasets

from structured_obs.evaluation import blur, comparison_table, ladder
from structured_obs.evaluation.features import bands, random_conv
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.sections import image_measures, sample_quality
from structured_obs.models import vae
from tests.evaluation.test_supn import trained

DIGITS: Any = sklearn.datasets.load_digits()
IMAGES = np.random.default_rng(0).permutation(DIGITS.images)[:600].astype(np.uint8)[..., None]


def test_the_blur_is_gaussian():
  x = np.random.default_rng(0).uniform(-1, 1, (2, 40, 44, 1))
  found = blur.blurred(jnp.asarray(x), jnp.asarray([1.0, 2.0]))
  for one, image, width in zip(found, x, (1.0, 2.0), strict=True):
    expected = scipy.ndimage.gaussian_filter(image[..., 0], width, truncate=9)
    np.testing.assert_allclose(one[10:-10, 10:-10, 0], expected[10:-10, 10:-10], atol=1e-6)
  flat = jnp.full((1, 5, 6, 3), 0.3)
  np.testing.assert_allclose(blur.blurred(flat, 2.0), flat, rtol=1e-6)
  np.testing.assert_allclose(blur.blurred(jnp.asarray(x), 0.0), x, rtol=1e-6)


def test_noise_and_blur_of_a_pair_have_the_same_squared_error():
  rungs = ladder.rungs_of(IMAGES, 17)
  assert [rung.noise for rung in rungs] == [0, 0.1, 0.2, 0, 0, 0.1, 0.2]
  assert [rung.width for rung in rungs[3:5]] == [rung.width for rung in rungs[5:]]
  x = IMAGES / 8 - 1.0
  noise = np.random.default_rng(5).normal(size=x.shape)
  for first, second in ladder.PAIRS:
    noisy = np.mean((np.clip(x + rungs[first].noise * noise, -1, 1) - x) ** 2)
    blurred = np.mean((np.asarray(blur.blurred(jnp.asarray(x), rungs[second].width)) - x) ** 2)
    assert blurred == pytest.approx(noisy, rel=0.1)
  assert rungs[5].name == f'blur {rungs[5].width:.2f}, noise 0.1'


def _found(extractor: extractors.Extractor) -> sample_quality.Found:
  """What a ladder of 300 digits beside 300 others says about features, without a model's images."""
  model = trained(vae.VAE, 'diagonal')
  model = model._replace(spec=model.spec._replace(levels=17), model=model.model.clone(image=(8, 8, 1)))
  drawing = image_measures.Drawing(extractor, 0, jax.random.key(0), image_measures.passes.HERE)
  model = model._replace(model=model.model.clone(image=image_measures.base.ImageShape(8, 8, 1)))
  originals = image_measures.Originals(IMAGES[:300], IMAGES[300:])
  known = image_measures._of_originals(model, originals, drawing, 0)
  found = sample_quality.of_measured({image_measures.ORIGINAL: known}, extractor)
  assert found is not None
  return found


def test_the_default_features_see_noise_and_blur_of_digits():
  found = _found(bands.bands(image_measures.base.ImageShape(8, 8, 1)))
  assert found.ladder is not None
  assert found.ladder.tree['in_order'], found.ladder.text
  assert 'noise counts' in sample_quality.text(found)
  errors = [rung['squared_error'] for rung in found.ladder.tree['rungs']]
  assert errors[1] == pytest.approx(errors[3], rel=0.1)
  assert errors[2] == pytest.approx(errors[4], rel=0.1)
  kids = [rung['kid'] for rung in found.ladder.tree['rungs']]
  assert found.distances['other originals', 'noise 0.1'].kernel.value == kids[1]


def test_features_that_see_no_noise_rank_nothing():
  blind = extractors.of_user(lambda x: x.mean((1, 2)), 'brightness')
  found = _found(blind)
  assert found.ladder is not None
  assert not found.ladder.tree['in_order']
  text = sample_quality.text(found)
  assert "is not told from 'other originals'" in text or 'is nearer than' in text
  assert 'Do not rank samples by these distances.' in text
  assert 'noise counts' not in text


def test_a_table_over_seeds_shows_the_ladder():
  rung = {'blur': 0.0, 'noise': 0.0, 'squared_error': 0.0, 'kid': 0.001}
  step = {'worse': 'noise 0.1', 'better': 'other originals', 'passed': False}
  ladder_tree = {
    'in_order': False,
    'rungs': [rung, {**rung, 'noise': 0.1, 'kid': 0.0005}],
    'steps': [step],
  }
  tree = {'models': {'a': {'scores': {}}}, 'sample_quality': {'ladder': ladder_tree, 'distances': {}}}
  text = comparison_table.text([tree, tree])
  assert '| other originals | noise 0.1 |' in text
  assert '0.50' in text
  assert "'noise 0.1' beside 'other originals'. Do not rank samples" in text
  assert 'Do not rank' not in comparison_table.text(
    [{**tree, 'sample_quality': {'ladder': {**ladder_tree, 'in_order': True}}}]
  )


def test_random_convolutions_are_part_of_the_bands():
  x = jnp.asarray(IMAGES[:3] / 8 - 1, jnp.float32)
  shape = image_measures.base.ImageShape(8, 8, 1)
  whole, part = (one(shape) for one in (bands.bands, random_conv.random_conv))
  rows, own = (one.apply(one.weights, x) for one in (whole, part))
  np.testing.assert_allclose(rows[:, -own.shape[1] :], own, rtol=1e-6)
  size = np.abs(np.diff(np.asarray(x), axis=2)[:, :-1] + np.diff(np.asarray(x), axis=2)[:, 1:]) / 2
  expected = (size / (size + 1 / 16)).mean((1, 2))
  np.testing.assert_allclose(rows[:, :1], expected, rtol=1e-5)
