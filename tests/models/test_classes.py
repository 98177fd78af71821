"""Label-conditional models: classes are read back exactly, seen by both networks, and made use of."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs import distributions
from structured_obs.data import pixels
from structured_obs.distributions.base import ImageShape
from structured_obs.models import classes
from structured_obs.models.classes import Classes
from structured_obs.models.vae import VAE
from structured_obs.objectives import bounds

IMAGE = ImageShape(4, 3, 1)
THREE = Classes((2, 1, 0), 256)


def stored(labels: np.ndarray, levels: int = 256) -> jax.Array:
  """Noise with a class behind it, as the pipeline gives it to a model: scaled, dequantised."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, levels, (len(labels), *IMAGE)).astype(np.uint8)
  plane = np.broadcast_to(labels[:, None, None, None], images.shape).astype(np.uint8)
  x = pixels.to_unit(jnp.asarray(np.concatenate([images, plane], axis=-1)), levels)
  keys = jax.random.split(jax.random.key(0), len(labels))
  return jax.vmap(lambda key, image: pixels.dequantize(key, image, levels, 1))(keys, x)


def make(**fields: Any) -> tuple[VAE, Any, Any]:
  """A small conditional model, its variables and keys of four images."""
  family = distributions.family('diagonal', initial_scale=0.3)
  model = VAE(family, IMAGE, latents=2, features=(4,), blocks=0, label_classes=THREE, **fields)
  keys = jax.random.split(jax.random.key(1), 4)
  x = stored(np.array([0, 1, 2, 1]))
  return model, jax.jit(model.init)(jax.random.key(2), keys, x), keys


@pytest.mark.parametrize('levels', [2, 17, 256])
def test_every_class_is_read_back_exactly(levels):
  labels = np.arange(256)
  found = classes.of_images(Classes((1,) * 256, levels), stored(labels, levels), IMAGE)
  np.testing.assert_array_equal(found, np.eye(256))


def test_classes_are_drawn_as_often_as_they_were_trained_on():
  found = classes.draw(THREE, jax.random.split(jax.random.key(0), 3000))
  np.testing.assert_allclose(np.bincount(found, minlength=3) / 3000, [2 / 3, 1 / 3, 0], atol=0.03)


@pytest.mark.parametrize('architecture', ['mirror', 'resnet'])
def test_the_density_is_of_the_image_alone_and_both_networks_see_its_class(architecture):
  model, variables, keys = make(architecture=architecture)
  x = stored(np.array([0, 1, 2, 1]))
  terms: Any = jax.jit(model.apply)(variables, keys, x)
  z: Any = model.apply(variables, None, x, method='infer')
  chex.assert_shape(z, (4, 5))
  np.testing.assert_array_equal(z[:, 2:], np.eye(3)[[0, 1, 2, 1]])
  decode = jax.jit(lambda z: model.apply(variables, z, method='decode'))
  drawn: Any = model.apply(variables, keys, x, method='infer')
  expected = jax.vmap(model.family.log_prob)(decode(drawn), x[..., :1])
  np.testing.assert_allclose(terms.log_p['x'], expected, rtol=1e-4)
  other = x.at[..., 1].set(x[::-1, ..., 1])  # the same images, said to be of classes 1, 2, 1, 0
  moved: Any = model.apply(variables, None, other, method='infer')
  assert np.min(np.max(np.abs(moved - z)[:, :2], axis=1)) > 1e-5
  changed = decode(jnp.concatenate([z[:, :2], moved[:, 2:]], axis=1)).mean - decode(z).mean
  assert np.min(np.max(np.abs(changed), axis=(1, 2, 3))) > 1e-4


def test_an_image_without_its_class_is_refused():
  model, variables, keys = make()
  with pytest.raises(ValueError, match=r'\(batch, 4, 3, 2\).*with the class of each behind'):
    model.apply(variables, keys, jnp.zeros((4, *IMAGE), jnp.float32))


def test_a_model_learns_to_use_a_class_that_determines_the_image():
  model, variables, _ = make()
  patterns = np.sign(np.random.default_rng(1).normal(size=(3, *IMAGE))).astype(np.float32) / 2
  labels = np.random.default_rng(2).integers(0, 3, 64)
  x = np.array(stored(labels))
  x[..., :1] = patterns[labels] + 0.05 * np.random.default_rng(3).normal(size=x[..., :1].shape)
  optimizer = optax.adam(0.02)
  objective = bounds.negative_elbo()

  def loss(params: Any, keys: Any) -> Any:
    terms: Any = model.apply({'params': params}, keys, jnp.asarray(x))
    return objective(terms, {})[0]

  @jax.jit
  def train(params: Any) -> Any:
    def step(carry: Any, key: Any) -> Any:
      params, state = carry
      grads = jax.grad(loss)(params, jax.random.split(key, 64))
      with jax.numpy_dtype_promotion('standard'):
        updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(5), 150)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

  trained = {'params': train(variables['params'])}

  def shown(*labels: Any) -> np.ndarray:
    """Which pattern each of 30 new images has."""
    keys = jax.random.split(jax.random.key(6), 30)
    drawn: Any = model.apply(trained, keys, *labels, method='generate')
    near = np.abs(np.asarray(drawn.mean)[:, None] - patterns).max(axis=(2, 3, 4)) < 0.2
    assert np.all(near.sum(axis=1) == 1)
    return near.argmax(axis=1)

  chosen = np.arange(30, dtype=np.int32) % 3
  np.testing.assert_array_equal(shown(jnp.asarray(chosen)), chosen)
  # Classes 0 and 1 are drawn two to one, and class 2 never: see THREE.
  first, second = np.bincount(shown())
  assert first > second > 0
