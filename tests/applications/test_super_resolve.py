"""Super-resolution: what is compared, how consistency is measured, and files as they are."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from structured_obs.applications import super_resolve
from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.runs.trained import Trained
from tests.models import test_sr_vae
from tests.train import stub

SHAPE = (8, 12, 3)


@functools.cache
def trained() -> Trained:
  made = test_sr_vae.make(SHAPE)
  spec = stub.make_prepared().spec._replace(height=8, width=12, channels=3)
  return Trained('small', '', Config(), spec, made.model, made.variables, 7)


def images() -> np.ndarray:
  return np.asarray(test_sr_vae.make(SHAPE).x)


def test_draws_do_not_depend_on_the_batch_and_are_scored(tmp_path: Path):
  x = images()
  y = super_resolve.compress(trained(), x)
  assert y.shape == (4, 4, 6, 3)
  settings = super_resolve.Settings(samples=2, batch_size=4)
  found = super_resolve.resolve(trained(), y, settings)
  parts = super_resolve.resolve(trained(), y, settings._replace(batch_size=2))
  assert found.samples.shape == (2, 4, *SHAPE)
  assert np.mean(found.samples != parts.samples) < 0.01  # but for round-off at a level's edge
  assert set(found.methods) == {'bilinear', 'bicubic', 'sample', 'mean of draws'}
  again = super_resolve.compress(trained(), found.samples[0])
  distance = np.mean(np.abs(again - y) * 127.5, axis=(1, 2, 3), dtype=np.float64)
  np.testing.assert_allclose(found.consistency['sample'], distance, rtol=1e-5)
  text = super_resolve.write(tmp_path, 'title', found, x)
  assert 'PSNR - bilinear' in text
  assert {path.name for path in tmp_path.iterdir()} == {
    'super_resolution.png', 'images.npz', 'report.md', 'scores.json'
  }  # fmt: skip
  with np.load(tmp_path / 'images.npz') as arrays:
    assert arrays['mean_of_draws'].shape == x.shape


def test_baselines_are_interpolations_of_y():
  y = super_resolve.compress(trained(), images())
  found = super_resolve.resolve(trained(), y, super_resolve.Settings(samples=1, sample_mode='mode'))
  large = jax.image.resize(jnp.asarray(y), images().shape, 'bilinear')
  np.testing.assert_allclose(found.methods['bilinear'], large, atol=1.01 / 255)
  assert 'mode' in found.methods


def test_files_may_be_small_images_of_any_size(tmp_path: Path):
  levels = np.random.default_rng(1).integers(0, 256, (2, 6, 4, 3)).astype(np.uint8)
  paths = [str(tmp_path / f'{i}.png') for i in range(2)]
  for path, image in zip(paths, levels, strict=True):
    Image.fromarray(image).save(path)
  y = super_resolve.read_small(trained(), paths)
  np.testing.assert_allclose(y, levels / 127.5 - 1, atol=1e-6)
  other = super_resolve.of_any_size(trained(), ImageShape(6, 4, 3))
  found = super_resolve.resolve(other, y, super_resolve.Settings(samples=1))
  assert found.samples.shape == (1, 2, 12, 8, 3)
  Image.fromarray(levels[0, :4]).save(paths[1])
  with pytest.raises(ValueError, match='must have one size'):
    super_resolve.read_small(trained(), paths)


def test_what_cannot_be_is_refused():
  with pytest.raises(ValueError, match='needs a model with two levels'):
    super_resolve.check(stub.StubVAE(12))
  with pytest.raises(ValueError, match='at least one draw'):
    super_resolve.resolve(trained(), images()[:0], super_resolve.Settings())
  with pytest.raises(ValueError, match='small images of 3 channel'):
    super_resolve.of_any_size(trained(), ImageShape(4, 4, 1))
