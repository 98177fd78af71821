"""The pictures: residual samples, a way with fixed noise, and what each kind of model allows."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.figures import supn
from structured_obs.models import autoencoder, vae
from structured_obs.runs.trained import Trained
from tests.train import stub

IMAGE = ImageShape(3, 4, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, *IMAGE)).astype(np.uint8)


@functools.cache
def trained(kind: Any, family: str) -> Trained:
  """An untrained model as an evaluation has it, its weights enlarged so that z matters."""
  model = kind(distributions.family(family), IMAGE, latents=2, features=(4,), blocks=0)
  x = jnp.zeros((1, *IMAGE), jnp.float32)
  variables = dict(model.init(jax.random.key(0), jax.random.split(jax.random.key(1), 1), x))
  variables = jax.tree.map(lambda leaf: 3 * leaf, variables)
  return Trained(family, '', Config(), stub.make_prepared().spec, model, variables, 0)


def test_equal_keys_are_equal_noise_and_residuals_have_the_covariance():
  model = trained(vae.VAE, 'diagonal')
  keys = jax.random.split(jax.random.key(3), 3)
  params: Any = model.model.apply(model.variables, jnp.ones((3, 2), jnp.float32), method='decode')
  drawn = supn.draw(model.model.family, params, jnp.stack([keys[0], keys[0], keys[1]]))
  np.testing.assert_array_equal(drawn.residual[0], drawn.residual[1])
  assert np.abs(drawn.residual[0] - drawn.residual[2]).max() > 0.1
  noise = jax.random.normal(keys[0], IMAGE, jnp.float32)
  np.testing.assert_allclose(drawn.residual[0], np.exp(params.log_scale[0]) * noise, rtol=1e-5)


def test_a_way_leads_from_one_image_to_the_other_with_one_noise():
  model = trained(vae.VAE, 'diagonal')
  ends = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, *IMAGE)), jnp.float32)
  way = supn.interpolation(model, ends, jax.random.key(0), 5)
  expected: Any = model.model.apply(model.variables, None, ends, method='reconstruct')
  np.testing.assert_allclose(way.mean[[0, -1]], expected.mean, rtol=1e-5, atol=1e-5)
  scale = np.exp(np.asarray(expected.log_scale))
  np.testing.assert_allclose(way.residual[0] / scale[0], way.residual[-1] / scale[1], rtol=1e-3)
  assert np.abs(way.mean[2] - way.mean[0]).max() > 0


@pytest.mark.parametrize(
  ('kinds', 'names'),
  [
    (
      (vae.VAE, autoencoder.Autoencoder),
      {'residuals', 'deviations', 'correlations', 'prior', 'interpolation'},
    ),
    ((autoencoder.Autoencoder,), {'residuals', 'deviations', 'correlations', 'interpolation'}),
  ],
)
def test_every_picture_that_the_models_allow(kinds: Any, names: set[str], tmp_path: Path):
  models = [
    trained(kind, family) for kind, family in zip(kinds, ('sparse_precision', 'diagonal'), strict=False)
  ]
  found = supn.write(tmp_path, models, IMAGES)
  assert {path.stem for path in found.values()} == names
  assert all(path.stat().st_size > 3000 for path in found.values())
