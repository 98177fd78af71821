"""Distances of features, by definition: roots of matrices, moments of Gaussians, small examples."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg

from structured_obs.evaluation.metrics import feature_distances


def features(rng, count, mean, root):
  return mean + rng.normal(size=(count, len(root))) @ root


@pytest.mark.parametrize(('real', 'new'), [(200, 300), (40, 8), (6, 5)])
def test_frechet_is_that_of_the_matrix_root(real, new):
  rng = np.random.default_rng(0)
  first = features(rng, real, np.ones(7), rng.normal(size=(7, 7)))
  second = features(rng, new, np.zeros(7), rng.normal(size=(7, 7)))
  covariances = [np.cov(x, rowvar=False) for x in (first, second)]
  # A root of a product of rank-deficient matrices needs a ridge: its effect is below the tolerance.
  ridge = 1e-13 * np.eye(7)
  root: Any = scipy.linalg.sqrtm((covariances[0] + ridge) @ (covariances[1] + ridge))
  expected = np.sum((first.mean(0) - second.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root.real)
  assert feature_distances.frechet(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_a_set_from_itself_is_0():
  x = np.random.default_rng(0).normal(size=(50, 5))
  assert abs(feature_distances.frechet(x, x[::-1])) < 1e-10


def test_kernel_distance_is_unbiased():
  """Of N(a, 1) and N(b, s^2): E (xy + 1)^3 by the moments of each."""
  (a, b), s, count = (0.3, -0.2), 1.4, 12
  moments = [np.array([1, m, m**2 + v, m**3 + 3 * m * v]) for m, v in ((a, 1), (b, s**2))]
  binomial = np.array([1, 3, 3, 1])
  product = [[np.sum(binomial * p * q) for q in moments] for p in moments]
  expected = product[0][0] + product[1][1] - 2 * product[0][1]
  rng = np.random.default_rng(0)
  found = [
    feature_distances.kernel_distance(a + first, b + s * second)
    for first, second in rng.normal(size=(4000, 2, count, 1))
  ]
  values = np.array([one.value for one in found])
  error = values.std() / np.sqrt(len(values))
  assert abs(values.mean() - expected) < 4 * error
  assert error < 0.1 * expected  # else the line above would hold of anything


def test_kernel_distance_by_subsets():
  rng = np.random.default_rng(0)
  real, new = rng.normal(size=(300, 3)), 0.5 + rng.normal(size=(200, 3))
  whole = feature_distances.kernel_distance(real[:200], new)
  by_subsets = feature_distances.kernel_distance(real[:200], new, subsets=400, size=50)
  assert np.isnan(whole.deviation)
  assert by_subsets.value == pytest.approx(whole.value, abs=4 * by_subsets.deviation / 20)
  again = feature_distances.kernel_distance(real[:200], new, subsets=400, size=50)
  assert again == by_subsets


def test_a_difference_of_kernel_distances_and_its_standard_error():
  """The value is that of two distances; the error is that of many draws."""
  rng = np.random.default_rng(0)

  def draw(count: int) -> tuple[Any, Any, Any]:
    real, new = rng.normal(size=(count, 2)), rng.normal(0.3, 1.0, size=(count, 2))
    return real, new + 0.4 * rng.normal(size=new.shape), new

  real, worse, better = draw(60)
  found = feature_distances.kernel_difference(real, worse, better)
  distance = lambda x: feature_distances.kernel_distance(real, x).value  # noqa: E731
  assert found.value == pytest.approx(distance(worse) - distance(better), rel=1e-9)
  several = [feature_distances.kernel_difference(*draw(60)) for _ in range(400)]
  spread = np.std([one.value for one in several])
  typical = np.mean([one.standard_error for one in several])
  assert typical == pytest.approx(spread, rel=0.25)
  few = feature_distances.kernel_difference(real, worse, better, most=20)
  assert few == feature_distances.kernel_difference(real[:20], worse[:20], better[:20])
  with pytest.raises(ValueError, match='equally many images; got 60 and 59'):
    feature_distances.kernel_difference(real, worse, better[:59])


def test_fidelity_by_definition(monkeypatch):
  monkeypatch.setattr(feature_distances, 'BLOCK', 7)  # so that there are several
  rng = np.random.default_rng(1)
  real, new, k = rng.normal(size=(30, 2)), 0.7 * rng.normal(size=(20, 2)) + 0.5, 3
  distance = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)  # noqa: E731
  radius = lambda x: np.sort(distance(x, x), axis=1)[:, k]  # noqa: E731
  inside = distance(real, new) <= radius(real)[:, None]
  found = feature_distances.fidelity(real, new, k)
  assert found.precision == inside.any(0).mean()
  assert found.recall == (distance(real, new) <= radius(new)[None]).any(1).mean()
  assert found.density == pytest.approx(inside.sum() / (k * 20))
  assert found.coverage == inside.any(1).mean()
  assert 0 < found.recall < 1
  assert 0 < found.coverage < 1


def test_fidelity_tells_collapse_and_noise():
  rng = np.random.default_rng(2)
  real = rng.normal(size=(400, 4))
  same = feature_distances.fidelity(real, rng.normal(size=(400, 4)))
  collapsed = feature_distances.fidelity(real, 0.01 * rng.normal(size=(400, 4)))
  assert same.coverage > 0.9
  assert collapsed.precision == 1
  assert collapsed.recall < 0.05
  assert collapsed.coverage < 0.2


def test_sets_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='equally many features in both sets'):
    feature_distances.frechet(np.zeros((4, 3)), np.zeros((4, 2)))
  with pytest.raises(ValueError, match='at least 2 images'):
    feature_distances.kernel_distance(np.zeros((4, 3)), np.zeros((1, 3)))
  with pytest.raises(ValueError, match='at least 6 images'):
    feature_distances.fidelity(np.zeros((9, 3)), np.zeros((5, 3)))
