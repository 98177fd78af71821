"""One pass over a model's images: its numbers by definition, of any batch and devices the same."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.evaluation import passes
from structured_obs.evaluation.features import extractor
from structured_obs.evaluation.metrics import image_errors
from structured_obs.evaluation.sections import image_measures
from structured_obs.models import autoencoder, vae
from structured_obs.runs.trained import Trained
from tests.evaluation.test_supn import IMAGE, trained

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, *IMAGE)).astype(np.uint8)
OTHERS = RNG.integers(0, 256, (9, *IMAGE)).astype(np.uint8)
ORIGINALS = image_measures.Originals(IMAGES, OTHERS)
PIXELS = IMAGES / 127.5 - 1
MAPS = (slice(0, 2), slice(1, 3))  # columns that the test's two layers see


def _mixed(weights: Any, images: jax.Array) -> tuple[jax.Array, ...]:
  return tuple(images[:, :, columns] * jnp.asarray(weights, images.dtype) for columns in MAPS)


def _pooled(weights: Any, images: jax.Array) -> jax.Array:
  return _mixed(weights, images)[0].mean((1, 2))


WEIGHTS = np.array([[[[1.0, -2.0, 0.5]]]], np.float32)
EXTRACTOR = extractor.Extractor('two layers', 'none', _pooled, _mixed, WEIGHTS)


@pytest.fixture(scope='module')
def found() -> list[dict[str, image_measures.Measured]]:
  """What is found on one device in one batch, and on four in batches of as many."""
  results = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(image_measures, 'KEPT', 2)
    patch.setattr(image_measures, 'LIMIT', 6)
    for where, size in ((passes.HERE, 64), (passes.Where(jax.make_mesh((4,), (passes.AXIS,))), 3)):
      model = _model(vae.VAE, 'diagonal', size)
      results.append(image_measures.of_models([model], ORIGINALS, EXTRACTOR, 0, where))
  return results


def _model(kind: Any, family: str, batch_size: int = 64) -> Trained:
  model = trained(kind, family)
  evaluation = dataclasses.replace(model.config.eval, batch_size=batch_size)
  config = dataclasses.replace(model.config, eval=evaluation)
  return model._replace(spec=model.spec._replace(levels=256), config=config)


def _means() -> np.ndarray:
  model = _model(vae.VAE, 'diagonal')
  x = jnp.asarray(PIXELS, jnp.float32)
  params: Any = model.model.apply(model.variables, None, x, method='reconstruct')
  return np.clip(np.asarray(params.mean, np.float64), -1, 1)


def _arrays(one: image_measures.Measured) -> Any:
  return one.scores, one.features, one.images, dict(one.errors)


def test_neither_batch_nor_devices_matter(found: list[dict[str, image_measures.Measured]]):
  first, second = found
  assert [*first] == [*second] == ['original images', 'diagonal']
  assert first['original images'].rungs == second['original images'].rungs
  leaves, others = (jax.tree.leaves([_arrays(one) for one in each.values()]) for each in found)
  assert len(leaves) > 20
  for one, other in zip(leaves, others, strict=True):
    assert one.dtype == np.float64
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-5)


def test_the_first_images_alone_are_kept(found: list[dict[str, image_measures.Measured]]):
  one = found[0]['diagonal']
  assert [*one.images] == [*one.features] == list(image_measures.KINDS)
  assert 'new samples without pixel noise' in one.features  # a diagonal has a floor
  assert {len(images) for images in one.images.values()} == {2}
  assert {len(rows) for rows in one.features.values()} == {6}
  assert {len(values) for values in one.scores.values()} == {7}
  original = found[0]['original images']
  assert [len(rows) for rows in original.features.values()] == [6] * 8
  assert len(original.images['original images']) == 4


def test_scores_are_those_of_the_means(found: list[dict[str, image_measures.Measured]]):
  means, scores = _means(), found[0]['diagonal'].scores
  np.testing.assert_allclose(
    scores['psnr_db'], image_errors.peak_signal_to_noise(means, PIXELS), rtol=1e-5
  )
  sharpness = image_errors.laplacian_variance(means)
  np.testing.assert_allclose(scores['laplacian_variance'], sharpness, rtol=1e-4)
  ssim = image_errors.structural_similarity(means, PIXELS)
  np.testing.assert_allclose(scores['ssim'], ssim, rtol=1e-4, atol=1e-6)


def test_the_perceptual_distance_is_that_of_lpips(found: list[dict[str, image_measures.Measured]]):
  expected = np.zeros(7)
  for columns in MAPS:
    a, b = (x[:, :, columns] * WEIGHTS for x in (_means(), PIXELS))
    a, b = (y / np.linalg.norm(y, axis=-1, keepdims=True) for y in (a, b))
    expected += np.sum((a - b) ** 2, axis=-1).mean((1, 2)) / len(MAPS)
  told = found[0]['diagonal'].scores['perceptual_distance']
  np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-6)
  assert expected.min() > 0.01


def test_features_are_of_the_images(found: list[dict[str, image_measures.Measured]]):
  one, original = found[0]['diagonal'], found[0]['original images']
  for kind, images in one.images.items():
    np.testing.assert_allclose(one.features[kind][:2], _rows(images), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(original.features['original images'], _rows(PIXELS[:6]), atol=1e-5)
  known = original.features['0']  # the first rung of the ladder: others as they are
  distance = np.abs(known[:, None] - _rows(OTHERS / 127.5 - 1)[None]).max(-1)
  assert len({*distance.argmin(1)}) == 6
  assert distance.min(1).max() < 1e-5


def _rows(images: np.ndarray) -> np.ndarray:
  return (images[:, :, :2] * WEIGHTS).mean((1, 2))


def test_new_images_are_drawn_anew_by_each_seed_and_index(
  found: list[dict[str, image_measures.Measured]],
):
  rows = found[0]['diagonal'].features
  assert np.abs(np.diff(rows['new means'], axis=0)).max(1).min() > 0.01
  assert np.abs(rows['new means'] - rows['new samples']).max(1).min() > 0.01
  other = image_measures.of_models([_model(vae.VAE, 'diagonal')], ORIGINALS, EXTRACTOR, seed=1)
  assert np.abs(other['diagonal'].features['new means'][:6] - rows['new means']).max(1).min() > 0.001


def test_a_model_without_a_prior_has_no_new_images():
  model, bare = _model(autoencoder.Autoencoder, 'low_rank'), EXTRACTOR._replace(maps=None)
  found = image_measures.of_models([model], image_measures.Originals(IMAGES, OTHERS[:3]), bare)
  assert [*found['low_rank'].features] == ['reconstructions']
  assert 'perceptual_distance' not in found['low_rank'].scores


def test_a_half_of_the_originals_stands_in_for_others():
  """One other original is too few, beside 7."""
  model, bare = _model(autoencoder.Autoencoder, 'low_rank'), EXTRACTOR._replace(maps=None)
  found = image_measures.of_models([model], image_measures.Originals(IMAGES, OTHERS[:1]), bare)
  rows = found['original images'].features
  assert [*rows] == ['original images', image_measures.HALF, *'0123456']
  np.testing.assert_allclose(rows[image_measures.HALF], _rows(PIXELS[:3]), atol=1e-5)
  np.testing.assert_allclose(rows['0'], _rows(PIXELS[3:]), atol=1e-5)


def test_images_to_compare_with_and_as_many_new_ones_as_wanted():
  model, bare = _model(vae.VAE, 'diagonal'), EXTRACTOR._replace(maps=None)
  originals = image_measures.Originals(IMAGES[:2], OTHERS[:4], OTHERS)
  found = image_measures.of_models([model], originals, bare, generated=11)
  rows = found['original images'].features
  np.testing.assert_allclose(rows['original images'], _rows(OTHERS / 127.5 - 1), atol=1e-5)
  assert len(rows['0']) == 4
  counts = {kind: len(own) for kind, own in found['diagonal'].features.items()}
  assert counts == dict(zip(image_measures.KINDS, (2, 11, 11, 11), strict=True))


def test_samples_without_pixel_noise_of_independent_pixels_are_means():
  """All of the noise of a diagonal is its floor."""
  model = _model(vae.VAE, 'diagonal')
  found = image_measures.generate(model.bound, jax.random.split(jax.random.key(0), 3))
  means, samples, without = (found[kind] for kind in image_measures.KINDS[1:])
  np.testing.assert_allclose(without, means, atol=1e-6)
  assert np.abs(samples - means).max() > 0.1
