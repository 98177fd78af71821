"""The spread of q on training images: its error, the verdicts, and which images are measured."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from structured_obs.distributions import diagonal, discretized_logistic_mixture
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import results, training_spread
from structured_obs.evaluation.likelihood import Scores, Settings

IMAGE = ImageShape(4, 4, 1)
RNG = np.random.default_rng(0)


def distances(count: int, excess: float, size: int = IMAGE.size) -> np.ndarray:
  """q / D whose spread is about `excess` times that of chi-square."""
  q = RNG.chisquare(size, (count,)) / size
  return 1 + excess * (q - 1)


def result(others: np.ndarray, training: Any = None, **model: Any) -> results.Result:
  """Scores of a model of independent pixels."""
  fields: Any = dict.fromkeys(Scores._fields, np.zeros(len(others)))
  scores = Scores(**{**fields, 'mahalanobis': others, 'counted': None, 'parts': {}})
  about: Any = {'family': diagonal.family(), 'masked': False, 'image': IMAGE, **model}
  trained: Any = SimpleNamespace(name='run', model=SimpleNamespace(**about))
  known = None if training is None else (training, np.zeros(len(training)))
  return results.Result(trained, Settings(256), scores, known)


def test_the_standard_error_is_that_of_repeated_samples():
  found = [training_spread.spread(distances(200, 1.5), IMAGE.size) for _ in range(400)]
  values, errors = zip(*found, strict=True)
  np.testing.assert_allclose(np.mean(errors), np.std(values), rtol=0.1)
  np.testing.assert_allclose(np.mean(values), 1.5, rtol=0.02)


@pytest.mark.parametrize(
  ('training', 'others', 'verdict'),
  [
    (1.0, 1.0, 'neither misfit nor overfitting'),
    (1.0, 3.0, 'overfitting, as residuals'),
    (3.0, 3.0, 'misfit, not overfitting'),
    (3.0, 6.0, 'misfit, as training images .* overfitting on top'),
    (3.0, 1.0, 'neither'),
  ],
)
def test_verdicts(training: float, others: float, verdict: str):
  found = [result(distances(1000, others), distances(1000, training))]
  text = training_spread.text(found)
  assert len(text.splitlines()) == 1
  assert pytest.approx(training, rel=0.1) == float(text.split('spread of q is ')[1].split()[0])
  assert np.any([part.startswith(verdict.split(' .* ')[0]) for part in text.split(': ')])
  assert text.endswith(verdict.split(' .* ')[-1] + '.') or '.*' not in verdict


def test_chance_alone_is_no_overfitting():
  """Few images, and heavy tails: what spreads differ by is within their errors."""
  told = [training_spread.text([result(distances(20, 1.0), distances(20, 1.0))]) for _ in range(100)]
  assert sum('neither' in text for text in told) > 85


def test_an_image_that_is_not_finite_is_named_and_nothing_is_concluded():
  training = distances(30, 1.0)
  training[4] = math.nan
  text = training_spread.text([result(distances(30, 1.0), training)])
  assert 'cannot be told' in text
  assert 'Not finite for 1 of 30 training images (index 4)' in text
  assert not training_spread.text([result(distances(30, 1.0))])


def test_as_many_training_images_as_others_are_measured(monkeypatch):
  seen = []

  def measure(trained, images, where):
    seen.append(len(images))
    return np.ones(len(images)), np.zeros(len(images))

  monkeypatch.setattr(training_spread.residuals, 'distances', measure)
  levels = discretized_logistic_mixture.family(levels=17, components=2)
  images = np.zeros((1500, *IMAGE), np.uint8)
  few, many = result(np.ones(7)), result(np.ones(1200))
  rest = [result(np.ones(7), family=levels), result(np.ones(7), masked=True)]
  found = training_spread.with_training([few, many, *rest], images)
  assert seen == [7, 1000]
  assert [one.training is None for one in found] == [False, False, True, True]
  assert training_spread.with_training([few], images[:0]) == [few]
