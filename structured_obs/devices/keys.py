"""Random keys per image, which depend on its place in the global batch, not on the layout of devices."""

import jax
import jax.numpy as jnp

Array = jax.Array


def step_keys(key: Array, step: Array | int, count: int, axis_name: str | None) -> tuple[Array, Array]:
  """Returns the keys of this device's images at this step: [B] for the data, [B] for the model.

  They depend on an image's position in the global batch, and so on no layout of devices or hosts.

  Args:
    key: of the run.
    step: number of the step.
    count: B, images of this device.
    axis_name: the mapped axis over devices; None for one device without mapping.
  """
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * count
  positions = first + jnp.arange(count, dtype=jnp.int32)
  return image_keys(jax.random.fold_in(key, step), positions)


def numbered_keys(key: Array, count: int) -> Array:
  """Returns one key per image 0, 1, .. of a figure. [count]."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count, dtype=jnp.int32))


def image_keys(key: Array, indices: Array) -> tuple[Array, Array]:
  """Returns two keys per image, for the data and for the model, from the images' indices [B]."""
  pairs = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(indices)
  return pairs[:, 0], pairs[:, 1]
