"""The gradient of a 3x3 convolution by its kernel, which is the largest part of a training step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark.measure import Task, compiled
from structured_obs.models.networks import convolutions

Array = jax.Array

NUMBERS = 1024  # features times pixels across: those of a network that doubles where it halves


def task(size: int, batch: int) -> Task:
  """Returns the task for size x size images; the number of features F shrinks as the images grow."""
  features = max(1, NUMBERS // size)
  rng = np.random.default_rng(0)
  shape = (batch, size, size, features)
  x, g = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
  kernel = jnp.zeros((3, 3, features, features), jnp.float32)

  def xla(x: Array, kernel: Array) -> Array:
    layout = convolutions.LAYOUT
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=layout)

  def gradient(product: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda x, kernel, g: jax.vjp(lambda k: product(x, k), kernel)[1](g)[0]

  candidates = [
    compiled('ours', gradient(convolutions.convolve), x, kernel, g),
    compiled("XLA's convolution", gradient(xla), x, kernel, g),
  ]
  return Task(f'gradient by a 3x3 kernel, {size}x{size}x{features} batch {batch}', candidates)
