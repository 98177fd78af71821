"""Up-scaling by regression, which locations of srVAE begin at."""

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
from structured_obs.models.networks import sr_vae_networks, upscaling
from tests.models import programs


def pair(shape: tuple[int, int, int], number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Returns small images and large ones that are a smooth function of them, and some noise."""
  random, (height, width, channels) = np.random.default_rng(seed), shape
  y = random.normal(size=(number, height // 2, width // 2, channels)).astype(np.float32)
  large = np.repeat(np.repeat(y, 2, 1), 2, 2)
  return y, 0.1 * (large + np.sin(3 * large) + random.normal(size=large.shape)).astype(np.float32)


@pytest.mark.parametrize('shape', [(4, 8, 3), (6, 6, 1)])
def test_the_linear_part_is_a_regression_on_the_first_batch(
  shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(regression, 'RIDGE', upscaling.RIDGE)
  (y, x), (other, _) = pair(shape, 30), pair(shape, 2, 1)
  linear = upscaling.LinearRegression(ImageShape(*shape))
  variables = linear.init(jax.random.key(0), y, x)
  found = cast(jax.Array, linear.apply(variables, other))
  np.testing.assert_allclose(found, regression.local_linear(y, x)(other), atol=2e-5)
  slope = jax.grad(lambda variables: jnp.sum(cast(jax.Array, linear.apply(variables, other))))(variables)
  np.testing.assert_array_equal(jax.tree.leaves(slope)[0], 0)  # and so no step moves it
  unfitted = linear.apply(linear.init(jax.random.key(0), y), other)
  np.testing.assert_array_equal(cast(jax.Array, unfitted), 0)
  whole = upscaling.Regression(ImageShape(*shape), 4, 1)
  begun = cast(jax.Array, whole.apply(whole.init(jax.random.key(0), y, x), other))
  np.testing.assert_allclose(begun, found, atol=1e-6)  # its network begins at nothing


def test_the_network_learns_what_is_not_linear():
  y, x = map(jnp.asarray, pair((6, 6, 1), 60))
  network = upscaling.Regression(ImageShape(6, 6, 1), 16, 1)
  variables: Any = network.init(jax.random.key(0), y, x)

  def loss(variables: Any) -> jax.Array:
    return -jnp.mean(upscaling.learning(x, cast(jax.Array, network.apply(variables, y))))

  @jax.jit
  def step(variables: Any, velocity: Any) -> tuple[Any, Any]:
    velocity = jax.tree.map(lambda v, g: 0.9 * v - 1e-4 * g, velocity, jax.grad(loss)(variables))
    return jax.tree.map(jnp.add, variables, velocity), velocity

  error = lambda variables: np.mean(np.square(x - cast(jax.Array, network.apply(variables, y))))  # noqa: E731
  before, velocity = error(variables), jax.tree.map(jnp.zeros_like, variables)
  for _ in range(200):
    variables, velocity = step(variables, velocity)
  assert float(loss(variables)) == 0
  assert error(variables) < 0.8 * before


def test_its_loss_is_that_of_each_image_at_its_best_variance():
  x, begun = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 1))
  slope = jax.grad(lambda begun: jnp.sum(upscaling.learning(x, begun)))(begun)
  variance = np.mean((x - begun) ** 2, axis=(1, 2, 3), keepdims=True)
  np.testing.assert_allclose(slope, (x - begun) / variance, rtol=1e-4)
  at_its_image = jax.grad(lambda begun: jnp.sum(upscaling.learning(begun, begun)))(begun)
  np.testing.assert_array_equal(at_its_image, 0)  # no image is so well predicted that it is not a number
  np.testing.assert_array_equal(upscaling.learning(x, None), np.zeros(3))


def test_locations_of_a_model_begin_at_it():
  sizes: dict[str, Any] = {
    name: 2 if 'growth' in name else 1
    for name in sr_vae_networks.Options._fields
    if name.endswith(('growth', 'depth', 'blocks'))
  }
  options = sr_vae_networks.Options(consistent=True, skip='learnt', **sizes)
  family = distributions.family('discretized_logistic_mixture', components=2)
  model = sr_vae.SrVAE(family, ImageShape(8, 8, 3), 2, options, 'normal')
  model = sr_vae.with_consistent_images(model)
  levels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
  keys, x = jax.random.split(jax.random.key(0), 4), pixels.to_unit(jnp.asarray(levels))
  variables = programs.init(model, jax.random.key(1), keys, x)
  y = programs.apply(model, variables, x, method='compress')
  z = programs.apply(model, variables, x, method='encode_x').mean
  params = variables['params']
  fitted = params['start']['regression']['linear']['weights']
  assert np.max(np.abs(fitted)) > 0.01
  without = jax.tree.map(jnp.zeros_like, params['start'])
  old, new = (
    programs.apply(model, {'params': {**params, 'start': start}}, y, z, method='decode_x').mixture.locs
    for start in (without, params['start'])
  )
  linear = upscaling.LinearRegression(model.image)
  shift = cast(jax.Array, linear.apply({'params': {'weights': fitted}}, y))[..., None]
  inside = (np.abs(old) < 0.99) & (np.abs(new) < 0.99)  # others are clipped
  np.testing.assert_allclose(jnp.where(inside, new, 0), jnp.where(inside, old + shift, 0), atol=1e-3)
  assert inside.mean() > 0.2

  def bound(start: Any, x: jax.Array) -> jax.Array:
    terms: Any = model.apply({'params': {**params, 'start': start}}, keys, x)
    return jnp.sum(terms.log_p['x'])

  slopes = jax.jit(jax.grad(bound))(params['start'], x)['regression']
  assert np.max(np.abs(slopes['last']['kernel'])) > 0
  np.testing.assert_array_equal(slopes['linear']['weights'], 0)
