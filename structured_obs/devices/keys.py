"""Keys per image: noise depends on an image's place in the global batch, on no layout of devices."""

import jax
import jax.numpy as jnp

Array = jax.Array


def step_keys(key: Array, step: Array | int, count: int, axis_name: str | None) -> tuple[Array, Array]:
  """Returns the keys of this device's images at this step: ([B] for the data, [B] for the model).

  They depend on the image's position in the global batch, so on no layout of devices or hosts.
  """
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
  positions = first + jnp.arange(count, dtype=jnp.int32)
  return image_keys(jax.random.fold_in(key, step), positions)


def numbered_keys(key: Array, count: int) -> Array:
  """Returns one key for each of the images 0, 1, .. of a picture. [count]."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count, dtype=jnp.int32))


def image_keys(key: Array, indices: Array) -> tuple[Array, Array]:
  """Returns two keys per image, for the data and for the model, from the images' indices [B]."""
  pairs = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(indices)
  return pairs[:, 0], pairs[:, 1]
