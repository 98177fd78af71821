"""Features and their section: of any batch the same, and as close to the data as the images are."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets

from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.features import random_conv
from structured_obs.evaluation.metrics import feature_distances
from structured_obs.evaluation.sections import image_measures, sample_quality
from structured_obs.models import vae
from tests.evaluation.test_supn import IMAGE, trained


def test_random_features_tell_sharp_images_from_blurred_ones():
  rng = np.random.default_rng(0)
  sharp = rng.uniform(-1, 1, (400, 8, 8, 1)).astype(np.float32)
  blurred = (sharp + np.roll(sharp, 1, axis=1) + np.roll(sharp, 1, axis=2)) / 3
  extractor = random_conv.random_conv(ImageShape(8, 8, 1))
  assert random_conv.random_conv(ImageShape(8, 8, 1)) is extractor  # compiled once
  sets = sharp[:200], sharp[200:], blurred[200:]
  first, second, third = (extractors.extract(extractor, x) for x in sets)
  same, other = (feature_distances.kernel_distance(first, x).value for x in (second, third))
  assert other > 10 * abs(same)


def test_random_features_hardly_see_white_noise():
  """On 300 digits beside 300 others: what README says about distances of samples with pixel noise."""
  digits: Any = sklearn.datasets.load_digits()
  rng = np.random.default_rng(0)
  images = rng.permutation(digits.images)[:600]
  first, second = np.split(images.astype(np.float32)[..., None] / 8 - 1, 2)
  noisy = np.clip(second + 0.1 * rng.normal(size=second.shape), -1, 1)
  blurred = (second + sum(np.roll(second, step, axis) for step in (1, -1) for axis in (1, 2))) / 5
  extractor = random_conv.random_conv(ImageShape(8, 8, 1))
  real, *others = (extractors.extract(extractor, x) for x in (first, second, noisy, blurred))
  found = [1000 * feature_distances.kernel_distance(real, new).value for new in others]
  assert abs(found[1] - found[0]) < 1.5
  assert found[2] - found[0] > 25


def test_features_do_not_depend_on_the_batches():
  x = np.random.default_rng(0).uniform(-1, 1, (7, 5, 6, 3)).astype(np.float32)
  extractor = random_conv.random_conv(ImageShape(5, 6, 3))
  found = [extractors.extract(extractor, x, size) for size in (64, 3)]
  np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
  assert found[0].shape == (7, sum(random_conv.WIDTHS[:2]) + 4 * random_conv.WIDTHS[2])


def test_an_extractor_of_ones_own():
  extractor = extractors.of_user(lambda x: x.reshape(len(x), -1), 'pixels', [np.ones(3)])
  x = np.random.default_rng(0).normal(size=(4, 2, 2, 1))
  np.testing.assert_allclose(extractors.extract(extractor, x), x.reshape(4, 4), rtol=1e-6)
  assert extractor.fingerprint != extractors.of_user(lambda x: x, 'pixels').fingerprint
  with pytest.raises(ValueError, match="'sums' must return one row of features per image"):
    extractors.extract(extractors.of_user(jnp.sum, 'sums'), x)


def test_the_section_of_a_model():
  model = trained(vae.VAE, 'diagonal')
  model = model._replace(spec=model.spec._replace(levels=256))
  images = np.random.default_rng(0).integers(0, 256, (20, *IMAGE)).astype(np.uint8)
  extractor = extractors.of_user(lambda x: x[:, 0, :2, 0], 'two pixels')

  def found_in(extractor: extractors.Extractor, count: int) -> sample_quality.Found | None:
    originals = image_measures.Originals(images[:count], images[10:])
    return sample_quality.of_measured(image_measures.of_models([model], originals, extractor), extractor)

  found = found_in(extractor, 10)
  assert found is not None
  kinds = [pair[1] for pair in found.distances if pair[0] == 'diagonal']
  assert kinds == [*image_measures.KINDS]
  x = images[..., 0] / 127.5 - 1
  expected = feature_distances.frechet(x[:10, 0, :2], x[10:, 0, :2])
  assert found.distances[image_measures.OTHERS, ''].frechet == pytest.approx(expected, rel=1e-4)
  assert 'two pixels' in sample_quality.text(found)
  assert len(sample_quality.as_json(found)['distances']) == 7 + 4
  few = found_in(random_conv.random_conv(IMAGE), 6)
  assert few is not None
  assert few.distances['diagonal', 'new means'].frechet > 0
  assert 'more images than features: with 6 images and 176 features' in sample_quality.text(few)
  assert found_in(extractor, 5) is None
