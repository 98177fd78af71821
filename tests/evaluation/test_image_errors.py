"""Squared error, PSNR, SSIM, sharpness and the table of a comparison, by definition."""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from skimage import metrics

from structured_obs.applications import denoising
from structured_obs.evaluation.metrics import image_errors

RNG = np.random.default_rng(0)
TRUE = RNG.uniform(-1, 1, (6, 4, 5, 1))
METHODS = {'noisy': TRUE + 0.1 * RNG.normal(size=TRUE.shape), 'better': TRUE + 0.01}


def test_psnr_of_a_constant_error():
  np.testing.assert_allclose(image_errors.mean_squared_error(METHODS['better'], TRUE), 1e-4)
  decibels = image_errors.peak_signal_to_noise(METHODS['better'], TRUE)
  np.testing.assert_allclose(decibels, 10 * np.log10(4 / 1e-4))
  assert np.all(np.isposinf(image_errors.peak_signal_to_noise(TRUE, TRUE)))
  assert np.all(np.isposinf(image_errors.ratio(jnp.asarray([0.0, 1e-12]))))
  np.testing.assert_allclose(image_errors.ratio(np.array([4e-9, np.nan])), [90, np.nan])
  pair = image_errors.without_exact(np.array([np.inf, 1, np.nan, 2]), np.array([1, 2, 3, np.inf]))
  np.testing.assert_array_equal(pair, [[1, np.nan], [2, 3]])


def _smooth(channels: int) -> tuple[np.ndarray, np.ndarray]:
  """Images with structure, and ones that are near them, so that their SSIM is neither 0 nor 1."""
  rows, columns = np.mgrid[:20, :17] / 4
  shifts = RNG.uniform(0, 6, (5, 1, 1, channels))
  true = 0.8 * np.sin(rows[None, ..., None] + shifts) * np.cos(columns[None, ..., None] - shifts)
  return true, np.clip(0.7 * true + 0.1 + 0.1 * RNG.normal(size=true.shape), -1, 1)


@pytest.mark.parametrize('channels', [1, 3])
def test_psnr_and_ssim_are_scikit_images(channels: int):
  true, found = _smooth(channels)
  psnr = [metrics.peak_signal_noise_ratio(a, b, data_range=2) for a, b in zip(true, found, strict=True)]
  np.testing.assert_allclose(image_errors.peak_signal_to_noise(found, true), psnr, rtol=1e-12)
  expected: Any = [
    metrics.structural_similarity(
      (1 + a) / 2, (1 + b) / 2, data_range=1, gaussian_weights=True, sigma=1.5,
      use_sample_covariance=False, channel_axis=2,
    )
    for a, b in zip(true, found, strict=True)
  ]  # fmt: skip
  similarity = image_errors.structural_similarity(found, true)
  assert similarity.dtype == np.float64
  np.testing.assert_allclose(similarity, expected, rtol=2e-5)
  np.testing.assert_allclose(image_errors.structural_similarity(true, true), 1, atol=1e-6)
  assert np.all((np.array(expected) > 0.2) & (np.array(expected) < 0.95))


def test_windows_of_ssim_fit_into_small_images():
  similarity = image_errors.structural_similarity(METHODS['noisy'], TRUE)
  assert similarity.shape == (6,)
  assert np.all((similarity > 0.5) & (similarity < 1))


def test_sharpness_is_the_variance_of_the_laplacian():
  rows, columns = np.mgrid[:6, :7].astype(float)
  flat = np.stack([rows + 2 * columns, rows - columns], axis=-1)
  images = np.stack([flat, flat + RNG.normal(size=flat.shape)])
  found = image_errors.laplacian_variance(images)
  gray = images[1].mean(axis=-1)
  laplacian: Any = [
    gray[i - 1, j] + gray[i + 1, j] + gray[i, j - 1] + gray[i, j + 1] - 4 * gray[i, j]
    for i in range(1, 5)
    for j in range(1, 6)
  ]
  np.testing.assert_allclose(found, [0, float(np.var(laplacian))], atol=1e-12)


def test_a_comparison_is_paired(tmp_path: Path):
  table, tree = denoising.comparison(METHODS, TRUE, 'better')
  difference = np.mean(np.square(METHODS['noisy'] - TRUE), axis=(1, 2, 3)) - 1e-4
  told = tree['noisy']['mse_minus_better']
  np.testing.assert_allclose(told['mean'], difference.mean())
  np.testing.assert_allclose(told['standard_error'], difference.std(ddof=1) / 6**0.5)
  assert f'{1000 * difference.mean():.3f} ±' in table
  report = denoising.write_scores(tmp_path, table, tree, 'about it').read_text()
  assert table in report
  assert 'about it' in report


def test_the_mean_leaves_an_exact_image_out_and_says_so():
  true = RNG.uniform(-1, 1, (4, 3, 3, 1))
  close = true + 0.02
  methods = {'noisy': close, 'one': np.concatenate([true[:1], close[1:]])}
  table, tree = denoising.comparison(methods, true, 'noisy')
  assert tree['noisy']['psnr_db']['mean'] == pytest.approx(40)
  assert tree['one']['psnr_db']['mean'] == pytest.approx(40)
  assert tree['one']['psnr_db']['num_images'] == 3
  assert math.isfinite(tree['one']['psnr_db']['standard_error'])
  assert tree['one']['mse']['mean'] == pytest.approx(0.75 * 4e-4)
  assert 'Exact images, whose PSNR is infinite, are left out of its means: 1 of 4 (one).' in table
  assert 'Exact' not in denoising.comparison({'noisy': close}, true, 'noisy')[0]


def test_images_of_other_shapes_are_refused():
  with pytest.raises(ValueError, match='differ in shape'):
    image_errors.mean_squared_error(TRUE, TRUE[:1])
