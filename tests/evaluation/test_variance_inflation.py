"""A covariance that explodes while its likelihood is finite is found, and told."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.metrics import variance_inflation
from structured_obs.models import vae
from structured_obs.models.base import Bound

IMAGE = ImageShape(2, 24, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (10, *IMAGE)).astype(np.uint8)


def with_weight(weight: float) -> Bound:
  """A model in which each pixel is `weight` times its right neighbour, plus noise."""
  family = distributions.family('sparse_precision', filter_size=3)
  model = vae.VAE(family, IMAGE, latents=2, features=(4,), blocks=0)
  keys = jax.random.split(jax.random.key(0), 1)
  variables: Any = model.init(jax.random.key(1), keys, jnp.zeros((1, *IMAGE), jnp.float32))
  heads = jax.tree.map(jnp.zeros_like, variables['params']['decoder']['heads'])
  heads['off_diag']['bias'] = heads['off_diag']['bias'].at[0].set(weight)
  variables['params']['decoder']['heads'] = heads
  return Bound(model, variables)


@pytest.mark.parametrize('weight', [0.0, 0.5, 1.3])
def test_inflation_is_that_of_an_autoregression(weight):
  """Along a row the variance sums up: 1 + w^2 + w^4 + ..."""
  found = variance_inflation.variance_inflation(with_weight(weight), IMAGES, 256)
  assert found is not None
  assert found.shape == (variance_inflation.CHECKED,)
  expected = np.sum(np.float64(weight) ** (2 * np.arange(IMAGE.width)))
  np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_model_made_to_explode_is_told_although_its_likelihood_is_finite():
  bound = with_weight(1.5)
  keys = jax.random.split(jax.random.key(0), 1)
  terms = bound.terms(keys, jnp.zeros((1, *IMAGE), jnp.float32))
  assert np.isfinite(terms.log_p['x'])
  found = variance_inflation.variance_inflation(bound, IMAGES[:2], 256)
  text = variance_inflation.warning(found, 1e4)
  assert 'the covariance explodes. In 2 of 2 images' in text
  assert not variance_inflation.warning(found, 1e12)


def test_values_that_are_not_finite_are_told():
  assert 'In 1 of 2 images' in variance_inflation.warning(np.array([2.0, np.nan]), 1e4)


def test_other_families_cannot_explode():
  family = distributions.family('diagonal')
  model = vae.VAE(family, IMAGE, latents=2, features=(4,), blocks=0)
  assert variance_inflation.variance_inflation(Bound(model, {}), IMAGES, 256) is None
  assert not variance_inflation.warning(None, 1.0)
