"""The linear regression that locations of srVAE begin at."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.applications import regression
from structured_obs.data import pixels
from structured_obs.distributions.base import ImageShape
from structured_obs.models import sr_vae
from structured_obs.models.networks import sr_vae_networks
from tests.models import programs


@pytest.mark.parametrize('shape', [(4, 8, 3), (6, 6, 1)])
def test_it_is_a_regression_on_the_first_batch(
  shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(regression, 'RIDGE', sr_vae_networks.SKIP_RIDGE)
  random, (height, width, channels) = np.random.default_rng(0), shape
  small = height // 2, width // 2, channels
  y, other = (random.normal(size=(number, *small)).astype(np.float32) for number in (30, 2))
  x = (0.1 * random.normal(size=(30, *shape))).astype(np.float32)
  skip = sr_vae_networks.LinearSkip(ImageShape(*shape))
  variables = skip.init(jax.random.key(0), y, x)
  expected = regression.local_linear(y, x)(other)
  np.testing.assert_allclose(cast(jax.Array, skip.apply(variables, other)), expected, atol=2e-5)
  slope = jax.grad(lambda variables: jnp.sum(cast(jax.Array, skip.apply(variables, other))))(variables)
  np.testing.assert_array_equal(jax.tree.leaves(slope)[0], 0)  # and so no step moves it
  unfitted = skip.apply(skip.init(jax.random.key(0), y), other)
  np.testing.assert_array_equal(cast(jax.Array, unfitted), 0)


def test_locations_of_a_model_begin_at_it():
  sizes: dict[str, Any] = {
    name: 2 if 'growth' in name else 1
    for name in sr_vae_networks.Options._fields
    if name.endswith(('growth', 'depth', 'blocks'))
  }
  options = sr_vae_networks.Options(consistent=True, skip='linear', **sizes)
  family = distributions.family('discretized_logistic_mixture', components=2)
  model = sr_vae.SrVAE(family, ImageShape(8, 8, 3), 2, options, 'normal')
  model = sr_vae.with_consistent_images(model)
  levels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
  keys, x = jax.random.split(jax.random.key(0), 4), pixels.to_unit(jnp.asarray(levels))
  variables = programs.init(model, jax.random.key(1), keys, x)
  y = programs.apply(model, variables, x, method='compress')
  z = programs.apply(model, variables, x, method='encode_x').mean
  skip = sr_vae_networks.LinearSkip(model.image)
  large = cast(jax.Array, model.apply(variables, y, 'cubic', method='upscale'))
  found: Any = skip.init(jax.random.key(0), y, x - large)
  fitted = found['params']['weights']
  params = variables['params']
  np.testing.assert_allclose(params['linear_skip']['weights'], fitted, atol=1e-4)
  assert np.max(np.abs(fitted)) > 0.01
  old, new = (
    programs.apply(model, {'params': one}, y, z, method='decode_x').mixture.locs
    for one in ({**params, 'linear_skip': {'weights': 0 * fitted}}, params)
  )
  shift = cast(jax.Array, skip.apply({'params': {'weights': fitted}}, y))[..., None]
  inside = (np.abs(old) < 0.99) & (np.abs(new) < 0.99)  # others are clipped
  np.testing.assert_allclose(jnp.where(inside, new, 0), jnp.where(inside, old + shift, 0), atol=1e-3)
  assert inside.mean() > 0.2
