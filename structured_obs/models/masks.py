"""Which pixels of each image count, for models of data with masks.

A mask travels as the last channel behind an image's own, scaled as the image is: above 0 where a pixel
counts. Models see 0 (gray) where it does not, and their log densities are those of the pixels that
count: the others are never read.

Letters: B batch; H W C image height, width, channels.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, gaussian

Array = jax.Array


class Masked(Protocol):
  """What is asked about a model."""

  @property
  def image(self) -> base.ImageShape:
    """Shape of x, without channels about the image."""
    ...

  @property
  def masked(self) -> bool:
    """Whether images come with a mask."""
    ...


def of_images(model: Masked, x: Array) -> Array | None:
  """Returns the masks [B, H, W, 1] bool of images as the model is given them; None without masks."""
  return x[..., -1:] > 0 if model.masked else None


def pixels(model: Masked, x: Array) -> Array:
  """Returns the pixels of images as the model is given them, 0 where they do not count. [B, H, W, C]."""
  own, mask = x[..., : model.image.channels], of_images(model, x)
  return own if mask is None else jnp.where(mask, own, 0)


def counted(model: Masked, x: Array) -> Array:
  """Returns the number of pixels of each image that count, every channel one. [B]."""
  mask = of_images(model, x)
  if mask is None:
    return jnp.full_like(x, model.image.size, shape=x.shape[:1])
  return count(mask, model.image.channels, x.dtype)


def count(mask: Array, channels: int, dtype: Any) -> Array:
  """Returns the number of values that count in images of a mask [B, H, W, 1]. [B]."""
  return channels * jnp.sum(mask, axis=(1, 2, 3), dtype=dtype)


def log_prob(model: Any, params: Any, x: Array) -> Array:
  """Returns the log densities of the pixels that count, of images as the model is given them. [B], nats.

  Args:
    model: with a family.
    params: of the family, each field with a leading B.
    x: [B, H, W, C and further channels].
  """
  mask, own = of_images(model, x), pixels(model, x)
  if mask is None:
    return jax.vmap(model.family.log_prob)(params, own)
  return jax.vmap(model.family.log_prob)(params, own, mask)


def distance(model: Any, params: Any, x: Array) -> Array:
  """Returns squared Mahalanobis distances of the pixels that count; arguments as of `log_prob`. [B]."""
  mask, own = of_images(model, x), pixels(model, x)
  if mask is None:
    return jax.vmap(lambda p, one: gaussian.mahalanobis(model.family, p, one))(params, own)
  found = jax.vmap(lambda p, one, kept: gaussian.marginal(model.family, p, one, kept))
  return found(params, own, mask).distance
