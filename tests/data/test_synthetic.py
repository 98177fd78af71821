"""Splines and ellipses: the generators against their definitions, and as sources."""

import math
import re

import numpy as np
import pytest
import scipy.interpolate

from structured_obs.config import DataConfig
from structured_obs.data import prepare
from structured_obs.data.sources import synthetic
from tests.data import helpers

BOTH = pytest.mark.parametrize('name', list(synthetic.GENERATORS))


@BOTH
def test_an_example_is_a_function_of_seed_and_number(name: str):
  generate = synthetic.GENERATORS[name]
  for first, again in zip(generate(3, 5), generate(3, 5), strict=True):
    np.testing.assert_array_equal(first, again)
  assert not np.allclose(generate(3, 5).mean, generate(3, 6).mean)
  assert not np.allclose(generate(3, 5).mean, generate(4, 5).mean)


@BOTH
def test_images_are_samples_of_their_distribution(name: str):
  """Squared Mahalanobis distances add up to a chi-square number, and so do single whitened pixels."""
  examples = [synthetic.GENERATORS[name](1, index) for index in range(40)]
  distances = [
    (e.x - e.mean).ravel() @ np.linalg.solve(e.covariance, (e.x - e.mean).ravel()) for e in examples
  ]
  degrees = len(examples) * examples[0].mean.size
  assert abs(sum(distances) - degrees) < 4 * math.sqrt(2 * degrees)
  assert all(np.linalg.eigvalsh(e.covariance).min() > 0 for e in examples[:3])


def test_spline_covariance_is_its_formula():
  example = synthetic.spline(0, 2)
  mean = example.mean.ravel()
  knots = scipy.interpolate.CubicSpline(np.linspace(0, 49, 7), np.eye(7), bc_type='natural')
  weights, *_ = np.linalg.lstsq(knots(np.arange(50)), np.arctanh(mean), rcond=None)
  np.testing.assert_allclose(knots(np.arange(50)) @ weights, np.arctanh(mean), atol=1e-12)
  for i, j in ((4, 4), (10, 11), (30, 26)):
    a, b = 1.95 * math.exp(-0.8 * mean[i]), 1.95 * math.exp(-0.8 * mean[j])
    gibbs = math.sqrt(2 * a * b / (a * a + b * b)) * math.exp(-((i - j) ** 2) / (a * a + b * b))
    correlation = 1 if i == j else 0.89 * gibbs
    scale = 0.56**2 * math.exp(0.8 * (mean[i] + mean[j]))
    assert math.isclose(example.covariance[i, j], scale * correlation, rel_tol=1e-12)


def test_noise_of_an_ellipse_runs_along_its_longer_axis():
  rows, columns = np.mgrid[:16, :16]
  place = np.stack([rows.ravel(), columns.ravel()])
  aligned = []
  for index in range(30):
    example = synthetic.ellipse(0, index)
    mass = (example.mean.ravel() + 0.8) ** 4  # of the inside alone, that no edge of the image cuts
    shape = np.cov(place, aweights=mass)
    lines = np.cov(place, aweights=example.covariance[np.argmax(mass)])
    (short, long), axes = np.linalg.eigh(shape)
    if long > 2 * short:
      aligned.append(abs(axes[:, 1] @ np.linalg.eigh(lines)[1][:, 1]))
  assert len(aligned) > 10
  assert min(aligned) > 0.95


def test_covariance_of_an_ellipse_is_a_function_of_its_mean():
  """One pixel's variance, and the correlation of two, by the formula of the docstring."""
  example = synthetic.ellipse(0, 3)
  mask = (example.mean.ravel() + 0.8) / 1.6
  variance = (0.477 * (0.137 + 0.863 * mask)) ** 2 + 0.0572**2
  np.testing.assert_allclose(np.diag(example.covariance), variance, rtol=1e-12)
  scale = 0.477 * (0.137 + 0.863 * mask)
  correlation = example.covariance / np.outer(scale, scale)
  exponent = -2 * np.log(correlation[0, [1, 16, 17]])  # of steps to the right, down, and both
  # A quadratic form in the step, with the eigenvalues 1 / 12^2 and 1 / 0.4^2.
  cross = (exponent[2] - exponent[0] - exponent[1]) / 2
  found = np.linalg.eigvalsh([[exponent[0], cross], [cross, exponent[1]]])
  np.testing.assert_allclose(found, [1 / 144, 6.25], rtol=1e-6)


def test_blocks_give_the_cholesky_factor():
  matrix = synthetic.ellipse(0, 1).covariance[:50, :50]
  np.testing.assert_allclose(synthetic._cholesky(matrix), np.linalg.cholesky(matrix), atol=1e-13)


# Over the first 100 examples; the published tables have 18.65 and 42.64, -286 and -149.
@pytest.mark.parametrize(
  ('name', 'entropy', 'independent'), [('splines', 18.4, 42.1), ('ellipses', -287.5, -148.5)]
)
def test_the_rows_of_the_paper_that_need_no_network(name: str, entropy: float, independent: float):
  found = []
  for index in range(100):
    covariance = synthetic.GENERATORS[name](0, synthetic.TRAIN + index).covariance
    constant = len(covariance) * (1 + math.log(2 * math.pi))
    log_dets = np.linalg.slogdet(covariance)[1], np.sum(np.log(np.diag(covariance)))
    found.append([(constant + log_det) / 2 for log_det in log_dets])
  error = np.std(found, axis=0) / 10
  assert np.all(np.abs(np.mean(found, axis=0) - (entropy, independent)) < 4 * error)


@BOTH
def test_as_a_source_of_real_numbers(tmp_path, name: str):
  config = helpers.config(tmp_path, name, limit=144, validation_fraction=0.1)
  prepared = prepare.prepare(config)
  spec = prepared.spec
  assert (spec.levels, spec.channels, spec.condition, spec.dtype) == (0, 1, 1, np.float32)
  assert prepared.images['train'].shape[1:] == spec.stored == (*spec[:2], 2)
  assert prepare.prepare(config, verify=True).spec == spec
  for split, images in prepared.images.items():
    examples = list(synthetic.split_examples(config, split))
    assert len(examples) == spec.counts[split] == len(images)
    expected = np.concatenate([[e.x for e in examples], [e.mean for e in examples]], axis=-1)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_the_test_split_is_the_same_whatever_is_left_out(tmp_path):
  whole = DataConfig(source='splines')
  first = next(synthetic.split_examples(whole, 'test'))
  np.testing.assert_array_equal(first.x, synthetic.spline(0, synthetic.TRAIN).x)
  assert sum(1 for _ in synthetic.split_examples(whole, 'test')) == 1000


def test_what_cannot_be_is_refused(tmp_path):
  with pytest.raises(ValueError, match='size is fixed'):
    prepare.prepare(helpers.config(tmp_path, 'splines', limit=20, height=8))
  with pytest.raises(ValueError, match=re.escape("only; got 'digits'")):
    next(synthetic.split_examples(DataConfig(), 'test'))
  with pytest.raises(ValueError, match='train, validation, test'):
    next(synthetic.split_examples(DataConfig(source='splines'), 'tset'))
