"""The class of each image, given to label-conditional models: p(x|z, y) p(z) p(y).

A class travels as one more channel behind an image's own, scaled as the image is, without noise. Here
it is read back, exactly, and becomes a one-hot vector of the K classes.

Letters: B batch; H W C image height, width, channels; K classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base

Array = jax.Array


class Classes(NamedTuple):
  """The classes of a data set."""

  counts: tuple[int, ...]  # [K] training images of each: p(y) is in proportion
  levels: int  # gray levels 0 .. levels - 1 of the images, which were scaled to [-1, 1]


def of_images(classes: Classes, x: Array, image: base.ImageShape) -> Array:
  """Returns the class of each of the images [B, H, W, C + 1], one-hot. [B, K].

  Args:
    classes: of the data set.
    x: [B, H, W, C + 1].
    image: shape without the class.
  """
  top = classes.levels - 1
  index = jnp.round((x[:, 0, 0, image.channels] + 1) * (top / 2)).astype(jnp.int32)
  return jax.nn.one_hot(index, len(classes.counts), dtype=x.dtype)


def draw(classes: Classes, keys: Array) -> Array:
  """Returns a class for each of the keys [B], as frequent as in the training images. [B], integers."""
  weights = jnp.log(jnp.asarray(classes.counts, jnp.float32))  # -inf for a class that never comes up
  return jax.vmap(lambda key: jax.random.categorical(key, weights))(keys)
