"""Log spectra of a known sinusoid, and the error of their difference against drawing anew."""

import numpy as np
import pytest

from structured_obs.evaluation.metrics import spectrum

FLOOR = np.log(2 / 255 / 12**0.5)


def test_a_sinusoid_has_two_frequencies():
  rows, columns = np.mgrid[:12, :16]
  wave = 0.3 * np.cos(2 * np.pi * (2 * rows / 12 + 3 * columns / 16) + 0.4)
  found = spectrum.log_spectra(np.stack([wave, 0 * wave], axis=-1)[None])
  assert found.shape == (1, 12, 16)
  expected = np.full((12, 16), FLOOR)
  # Half the amplitude times the root of the number of pixels; the other channel is flat.
  peak = 0.5 * np.log((0.15 * (12 * 16) ** 0.5) ** 2 + np.exp(2 * FLOOR))
  expected[2, 3] = expected[-2, -3] = (peak + FLOOR) / 2
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_noise_is_as_strong_at_all_frequencies():
  noise = np.random.default_rng(0).normal(size=(2000, 6, 5, 1))
  found = spectrum.log_spectra(noise).mean(axis=0)
  # |F|^2 of variance 1 is exponential where F is complex, and chi-squared at frequency 0.
  assert found[2, 2] == pytest.approx(-np.euler_gamma / 2, abs=0.05)
  assert found[0, 0] == pytest.approx(-(np.euler_gamma + np.log(2)) / 2, abs=0.1)


def test_difference_is_that_of_the_mean_spectra():
  rng = np.random.default_rng(0)
  found, true = rng.normal(size=(2, 7, 3, 4))
  signed, absolute = spectrum.difference(found, true)
  mean = (found - true).mean(axis=0)
  np.testing.assert_allclose(signed.mean(), mean.mean())
  np.testing.assert_allclose(absolute.mean(), np.abs(mean).mean())
  left = np.array([np.abs(np.delete(found - true, i, axis=0).mean(axis=0)).mean() for i in range(7)])
  jackknife = np.sqrt(6 / 7 * np.sum((left - left.mean()) ** 2))
  np.testing.assert_allclose(absolute.std(ddof=1) / 7**0.5, jackknife)


def test_the_standard_error_is_what_drawing_anew_shows():
  rng = np.random.default_rng(1)
  draws, errors = [], []
  for _ in range(400):
    scale = 1 + 0.3 * rng.normal(size=(30, 1, 1))  # of a whole image: frequencies are not independent
    each = 0.4 + scale * rng.normal(size=(30, 4, 4))
    _, absolute = spectrum.difference(each, np.zeros_like(each))
    draws.append(absolute.mean())
    errors.append(absolute.std(ddof=1) / 30**0.5)
  assert np.std(draws) == pytest.approx(np.mean(errors), rel=0.15)


def test_one_image_has_a_difference_too():
  one = np.full((1, 2, 2), 0.5)
  signed, absolute = spectrum.difference(-one, np.zeros_like(one))
  assert (signed.item(), absolute.item()) == (-0.5, 0.5)
