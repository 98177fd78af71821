"""Autocorrelations of images whose autocorrelation is known, and of a model that knows it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config, ObjectiveConfig
from structured_obs.evaluation import passes, residuals
from structured_obs.evaluation.metrics import autocorrelation
from structured_obs.models import vae
from tests.evaluation.test_supn import IMAGES, trained


def _moving_average(images: int = 400, height: int = 12, width: int = 9) -> np.ndarray:
  """Stationary images with correlation 1/2 between neighbours in a row, and none further away."""
  noise = np.random.default_rng(0).normal(size=(images, height, width + 1, 2))
  return (noise[:, :, 1:] + noise[:, :, :-1]) / np.sqrt(2)


def test_autocorrelation_of_a_moving_average_is_known():
  found = autocorrelation.autocorrelation(jnp.asarray(_moving_average()), 2)
  expected = np.zeros((5, 5))
  expected[2, 1:4] = 0.5, 1.0, 0.5
  np.testing.assert_allclose(found, expected, atol=0.02)
  np.testing.assert_allclose(found, np.asarray(found)[::-1, ::-1], rtol=1e-9)


def test_autocorrelation_is_its_definition():
  images = np.random.default_rng(1).normal(size=(2, 4, 3, 1))
  found = np.asarray(autocorrelation.autocorrelation(jnp.asarray(images), 4))
  np.testing.assert_allclose(found[4 + 2, 4 - 1], np.mean(images[:, 2:, :2] * images[:, :2, 1:]))
  assert np.isnan([found[8, 4], found[4, 7]]).all()


def test_root_mean_square_leaves_the_middle_out():
  lags = np.array([[0.0, 0.2, 0.0], [0.4, 2.0, 0.4], [0.0, 0.2, 0.0]])
  found = autocorrelation.summarize(lags[None])
  assert found.autocorrelation[1, 1] == 1
  assert found.root_mean_square == pytest.approx(np.sqrt((2 * 0.1**2 + 2 * 0.2**2) / 8))


def test_a_model_is_measured_on_all_images_whatever_the_batch(monkeypatch: pytest.MonkeyPatch):
  """Two at a time on two devices, beside the products of all images at once."""
  found = trained(vae.VAE, 'diagonal')
  plain = Config(objective=ObjectiveConfig(dequantize=False))
  found = found._replace(config=plain, spec=found.spec._replace(levels=256))
  monkeypatch.setattr(residuals, 'BATCH', 2)
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((2,), ('batch',), axis_types=auto, devices=jax.devices()[:2])
  residual, white = residuals.whitenesses([found], IMAGES, where=passes.Where(mesh)).values()
  x = IMAGES / np.float32(127.5) - 1
  params: Any = found.model.apply(found.variables, None, jnp.asarray(x), method='reconstruct')
  errors = jnp.asarray(x) - params.mean
  for one, images in ((residual, errors), (white, errors / jnp.exp(params.log_scale))):
    expected = autocorrelation.summarize(np.asarray(autocorrelation.autocorrelation(images))[None])
    np.testing.assert_allclose(one.autocorrelation, expected.autocorrelation, atol=1e-5)
  program: Any = passes._measure_batch
  compiled = program._cache_size()  # one program finds the distances as well
  distance, inverse_dof = residuals.distances(found, IMAGES, passes.Where(mesh))
  assert program._cache_size() == compiled
  expected = np.square(errors / jnp.exp(params.log_scale)).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(distance, expected, rtol=1e-5)
  assert not np.any(inverse_dof)
