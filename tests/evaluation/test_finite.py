"""One image that is not finite: no number of all images, and a sentence that names it.

Right values are by hand: NaN wherever the image has a part, and the plain number wherever it has none.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import plotting, strict_json
from structured_obs.applications import denoise, denoising
from structured_obs.evaluation import comparison_table, finite, likelihood, tables
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.figures import kernel_development
from structured_obs.evaluation.metrics import (
  autocorrelation,
  calibration,
  feature_distances,
  spectrum,
  temperature,
  variance_inflation,
)
from structured_obs.evaluation.sections import (
  image_measures,
  image_quality,
  recalibration,
  reconstruction_quality,
  sample_quality,
  true_covariance,
  whiteness,
)

RNG = np.random.default_rng(0)
BAD = pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e300])
REAL = RNG.normal(size=(30, 4))


def _with(values: np.ndarray, row: int, bad: float) -> np.ndarray:
  changed = values.copy()
  changed.reshape(len(values), -1)[row, 0] = bad
  return changed


def test_sentences_name_how_many_and_the_first():
  good, one = np.ones(4), np.array([1, math.nan, 2, math.inf])
  many = np.full((9, 3), math.inf)
  levels, none = np.ones((2, 2), np.uint8), np.zeros((0, 3))
  assert not finite.sentences({'good': good, 'levels': levels, 'none': none})
  assert finite.sentences({'a: ELBO': one, 'good': good, 'a: KL': one}) == (
    'Not finite for 2 of 4 images (indices 1, 3), so the result is NaN: a: ELBO; a: KL.'
  )
  assert 'Not finite for 9 of 9 images (indices 0, 1, 2, 3, 4, ...)' in finite.sentences({'x': many})
  assert '1 of 30 faces (index 7)' in finite.sentences({'x': _with(REAL, 7, math.nan)}, 'faces')


@BAD
@pytest.mark.parametrize('first', [True, False])
def test_features_that_are_not_finite_have_no_distance(bad: float, first: bool):
  sets = _with(REAL, 3, bad), REAL + 1
  real, new = sets if first else sets[::-1]
  assert math.isnan(feature_distances.frechet(real, new))
  assert np.isnan(feature_distances.kernel_distance(real, new)).all()
  # Few subsets of two images would hold the bad one.
  assert np.isnan(feature_distances.kernel_distance(real, new, subsets=2, size=2)).all()
  assert np.isnan(feature_distances.fidelity(real, new)).all()


def test_features_as_large_as_float32_have_distances():
  sets = 3e38 * REAL / np.abs(REAL).max(), 3e38 * REAL[::-1] / np.abs(REAL).max()
  assert math.isfinite(feature_distances.frechet(*sets))
  assert math.isfinite(feature_distances.kernel_distance(*sets).value)
  assert feature_distances.fidelity(*sets).coverage == 1


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_distances_that_are_not_finite_are_not_calibrated(bad: float, tmp_path: Path):
  distances = _with(np.linspace(0.5, 1.5, 20), 4, bad)
  assert np.isnan(calibration.calibration(distances, 12)).all()
  assert math.isnan(calibration.law_distance(distances, 12))
  curves = calibration.quantiles(distances, 12)
  assert np.isnan(curves[1]).all()
  assert np.isfinite(curves[0]).all()
  assert plotting.quantile_quantile(tmp_path / 'q.png', {'x': curves}).is_file()
  assert plotting.uniformity(tmp_path / 'pit.png', {'x': np.full(50, math.nan)}).is_file()


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_summary_is_of_all_images_or_nan(bad: float):
  values = np.array([1.0, bad, 3.0])
  assert np.isnan(likelihood.summarize(values)[:2]).all()
  assert np.isnan(likelihood.paired_difference(values, values)[:2]).all()
  assert tables.cell(likelihood.summarize(values), 2) == 'nan'
  tree = json.loads(strict_json.text({'a': likelihood.summarize(values)._asdict(), 'b': values}))
  assert tree == {'a': {'mean': None, 'standard_error': None, 'num_images': 3}, 'b': [1, None, 3]}
  assert math.isnan(likelihood.summarize(np.zeros(0)).mean)


def test_an_image_that_is_not_finite_is_named_in_a_comparison():
  true = RNG.uniform(-1, 1, (4, 3, 3, 1))
  methods = {'good': true + 0.1, 'bad': _with(true, 2, math.nan)}
  table, tree = denoising.comparison(methods, true, 'good')
  assert math.isnan(tree['bad']['psnr_db']['mean'])
  assert tree['good']['psnr_db']['mean'] == pytest.approx(26.0206, abs=1e-4)
  assert 'Not finite for 1 of 4 images (index 2)' in table


def test_spectra_of_an_image_that_is_not_finite():
  images = RNG.normal(size=(5, 4, 4, 1))
  true = spectrum.log_spectra(images)
  found = spectrum.difference(spectrum.log_spectra(_with(images, 1, math.nan)), true)
  assert [*np.isnan(found.signed)] == [False, True, False, False, False]
  assert np.isnan(found.absolute).all()  # one number of all images


def _scores(log_prob: np.ndarray, mahalanobis: np.ndarray) -> likelihood.Scores:
  fields: Any = dict.fromkeys(likelihood.Scores._fields, np.zeros(len(log_prob)))
  return likelihood.Scores(**{**fields, 'log_prob': log_prob, 'mahalanobis': mahalanobis})


@pytest.mark.parametrize('found_on', [[1.0, math.nan, 1.0], [1.0, math.inf, 1.0], [0.0, 0.0, 0.0]])
def test_a_temperature_that_is_unknown(found_on: list[float]):
  """The last one is of residuals that are all 0: every covariance is infinitely too large."""
  good = _scores(np.zeros(2), np.array([0.9, 1.1]))
  one = temperature.recalibrate(np.array(found_on), good, 12)
  text = recalibration.text({'model': one})
  assert not np.isfinite(one.tempered).any()
  assert np.isnan(one.after).all()
  assert one.before.mean == pytest.approx(1)
  assert ('1 of 3 validation images (index 1)' in text) == (not np.isfinite(found_on).all())
  assert json.loads(strict_json.text(recalibration.as_json({'model': one})))


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_white_images_that_are_not_finite_are_not_white(bad: float, tmp_path: Path):
  """Products of float32 may overflow in the middle alone, and all correlations would seem to be 0."""
  lags = np.zeros((3, 3, 3))
  lags[:, 1, 1] = 1
  good, one = autocorrelation.summarize(lags), autocorrelation.summarize(_with_middle(lags, bad))
  assert good.root_mean_square == 0
  assert math.isnan(one.root_mean_square)
  assert np.isnan(one.autocorrelation).all()
  found = {autocorrelation.RESIDUAL: good, 'model': one}
  expected = 'Not finite for 1 of 3 images (index 2), so the result is NaN: model.'
  assert expected in whiteness.text(found)
  for some in (found, {'model': one}):
    assert whiteness.draw(tmp_path / 'whiteness.png', some).is_file()


def _with_middle(lags: np.ndarray, value: float) -> np.ndarray:
  changed = lags.copy()
  changed[2, 1, 1] = value
  return changed


@pytest.mark.parametrize('bad', [math.nan, math.inf, 0.0])
def test_a_precision_without_an_inverse(bad: float):
  """Zero makes it singular."""
  covariance = np.stack([np.diag([1.0, 2.0]), np.diag([0.5, 1.0])])
  precision = np.linalg.inv(covariance)
  truth = true_covariance.Truth(
    np.zeros((2, 1, 2, 1)), np.zeros((2, 2)), covariance, precision, np.linalg.slogdet(covariance)[1]
  )
  precision[1, 0, 0] = bad
  found = true_covariance.errors(precision, truth)
  for values in found:
    assert np.isfinite(values[0])
    assert not np.isfinite(values[1])
  text = true_covariance.text({true_covariance.TRUTH: found})
  assert 'Not finite for 1 of 2 images (index 1)' in text


def _measured(bad: float) -> dict[str, image_measures.Measured]:
  """Of originals and of one model, whose image 5 is exact and whose image 7 is bad."""
  psnr, sharp = np.full(30, 20.0), np.ones(30)
  psnr[5], psnr[7] = math.inf, bad
  originals = {image_measures.ORIGINAL: REAL, image_measures.OTHERS: REAL[::-1] + 0.1}
  images = RNG.normal(size=(30, 4, 4, 1))
  return {
    image_measures.ORIGINAL: image_measures.Measured(
      {'laplacian_variance': sharp}, originals, {image_measures.ORIGINAL: images}
    ),
    'model': image_measures.Measured(
      {'psnr_db': psnr, 'laplacian_variance': sharp},
      dict.fromkeys(image_measures.KINDS, _with(REAL, 7, bad)),
      dict.fromkeys(image_measures.KINDS, _with(images, 7, bad)),
    ),
  }


def test_sections_on_images_name_the_one_that_is_not_finite(tmp_path: Path):
  measured = _measured(math.nan)
  extractor = extractors.of_user(lambda x: x, 'pixels')
  distances = sample_quality.of_measured(measured, extractor, 'validation')
  assert distances is not None
  text, tree = sample_quality.text(distances), sample_quality.as_json(distances)
  assert 'nan' not in text
  named = 'Not finite for 1 of 30 {} images (index 7), so they have no distance: model: features of {}'
  assert named.format('validation', 'reconstructions') in text
  assert named.format('new', 'new means; model: features of new samples') in text
  assert 'The Frechet distance needs' not in text
  strict = json.loads(strict_json.text(tree))['distances']
  assert strict['model new samples']['frechet'] is None
  assert strict['model new samples']['kid'] is None
  assert strict[image_measures.OTHERS]['coverage'] > 0
  first = measured[image_measures.ORIGINAL]
  features = {**first.features, image_measures.ORIGINAL: _with(REAL, 2, math.inf)}
  bad = {**measured, image_measures.ORIGINAL: first._replace(features=features)}
  distances = sample_quality.of_measured(bad, extractor)
  assert distances is not None
  text = sample_quality.text(distances)
  assert '|' not in text
  assert '1 of 30 test images (index 2), so they have no distance: original images' in text
  quality = reconstruction_quality.of_measured(measured)
  text = image_quality.text(quality, extractor)
  row = next(line for line in text.splitlines() if line.startswith('| PSNR'))
  assert row.split('|')[3].strip() == 'nan'
  assert '1 of 30 (model)' in text
  assert 'Not finite for 1 of 30 images (index 7)' in text
  assert json.loads(strict_json.text(image_quality.as_json(quality, extractor)))
  assert image_quality.draw_spectra(tmp_path / 'spectra.png', quality).is_file()
  assert image_quality.draw_grid(tmp_path / 'grid.png', quality).is_file()


def test_sections_on_images_that_are_finite_say_nothing_of_it():
  measured = _measured(25.0)
  quality = reconstruction_quality.of_measured(measured)
  tree = image_quality.as_json(quality, extractors.of_user(lambda x: x, 'pixels'))
  told = tree['models']['model']['psnr_db']
  assert told['num_images'] == 29  # without the exact one
  assert told['mean'] == pytest.approx((28 * 20 + 25) / 29)
  distances = sample_quality.of_measured(measured, extractors.of_user(lambda x: x, 'pixels'))
  assert distances is not None
  assert not distances.not_finite
  assert distances.distances['model', 'new samples'].frechet is not None


def test_infinite_pixels_are_not_white():
  x = jnp.asarray([0.5, 3.0, -math.inf, math.inf, math.nan], jnp.float32)
  np.testing.assert_array_equal(image_measures.clipped(x), [0.5, 1, math.nan, math.nan, math.nan])


def test_kernels_that_are_not_finite(tmp_path: Path):
  good = np.zeros((2, 3, 3))
  good[:, 1, 1] = 1
  images = np.zeros((2, 4, 4, 1))
  moments = [
    kernel_development.Moment(1, good, images),
    kernel_development.Moment(2, _with(good, 1, math.nan), images),
  ]
  expected = 'Not finite for 1 of 2 images (index 1), so the result is NaN: step 2'
  assert expected in kernel_development.table(moments)
  assert kernel_development.draw(tmp_path / 'kernels.png', moments, images).is_file()


def test_the_number_of_eigenvectors_is_not_chosen_by_errors_that_are_not_finite(monkeypatch):
  errors = _with(np.ones((3, 4)), 1, math.nan)
  monkeypatch.setattr(denoising.pixels, 'to_unit', lambda images, levels: images)
  monkeypatch.setattr(denoising.denoise, 'add_noise', lambda key, images, scale: images)
  projected = denoise.Projected(np.zeros((3, 2, 2, 1)), errors)
  monkeypatch.setattr(denoising.denoise, 'projection', lambda *arguments: projected)
  model: Any = SimpleNamespace(image=SimpleNamespace(size=4))
  run: Any = SimpleNamespace(model=model, bound=None, spec=SimpleNamespace(levels=256))
  with pytest.raises(ValueError, match=r'1 of 3 validation images .index 1.*Omit --best_components'):
    denoising._best_components(run, np.zeros((3, 2, 2, 1)), denoising.Settings(0.1))


def test_a_warning_of_variances_that_are_not_finite():
  assert (
    'in 1 of 2 images variances are not finite'.lower()
    in variance_inflation.warning(np.array([1.0, math.nan]), 10.0).lower()
  )
  assert 'up to 20 times' in variance_inflation.warning(np.array([1.0, 20.0]), 10.0)


def test_a_table_over_seeds_shows_nan_where_json_has_null():
  scores = {'kl_nats': {'mean': 1.0, 'standard_error': 0.1}}
  trees = [
    {
      'models': {'a': {'scores': scores}, 'b': {'scores': {}}},
      'sample_quality': {'distances': {'a new samples': {'kid': kid}}},
    }
    for kid in (0.5, None)
  ]
  for some in (trees, trees[1:]):
    *_, a, b = (line for line in comparison_table.text(some).splitlines() if line.startswith('|'))
    assert a.split('|')[2].strip() == 'nan'
    assert not b.split('|')[2].strip()
