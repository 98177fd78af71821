"""Networks of dense blocks between images and latents that are images: those of srVAE and its baseline.

Where an encoder halves the sides it doubles channels and growth; where a decoder doubles them it halves
both. Latents have a quarter of the image's height and width, so images of any size that divides by 4 are
possible, and nothing but a prior of the latents depends on the size.

What a network emits begins with a standard deviation of 0.1 over the first batch: a posterior begins
near the standard normal, and an image's distribution near what outputs of zero stand for.

Letters: B batch; H W C image height, width, channels; h w those of a latent; Z channels of a latent.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, figure 4, and its
public code.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models.networks import dense_blocks

Array = jax.Array

REDUCTION = 4  # ratio of an image's sides to those of its latents
HALVINGS = 2  # that this takes
DEVIATION = 0.1  # standard deviation of a network's outputs at the start


def latent_shape(image: base.ImageShape, latents: int) -> tuple[int, int, int]:
  """Returns [H / 4, W / 4, Z] of images of this shape.

  Raises:
    ValueError: the size does not divide by 4.
  """
  if image.height % REDUCTION or image.width % REDUCTION:
    raise ValueError(
      f'Images must have a height and a width that divide by {REDUCTION} where latents are images of a '
      f'quarter of their sides; got {image.height} x {image.width}. --config.data.height and '
      '--config.data.width set them.'
    )
  return image.height // REDUCTION, image.width // REDUCTION, latents


def settings(dtype: Any) -> dict[str, Any]:
  """Returns the arguments of the networks of `dense_blocks`; a dtype of None is float32."""
  return {'head_deviation': DEVIATION, 'dtype': dtype or jnp.float32}


def num_outputs(shapes: dict[str, base.Shape]) -> int:
  """Returns the number of channels that hold a family's outputs, which begin with [H, W]."""
  return sum(math.prod(shape[2:]) for shape in shapes.values())


def outputs_of(x: Array, shapes: dict[str, base.Shape]) -> dict[str, Array]:
  """Cuts channels [B, H, W, `num_outputs`] into one array [B, *shape] for each output of a family.

  Raises:
    ValueError: an output is not of the image's height and width.
  """
  found, first = {}, 0
  for name, shape in shapes.items():
    if shape[:2] != x.shape[1:3]:
      raise ValueError(
        f"The output '{name}' of the family has the shape {shape}; these networks, which are "
        'convolutional to the end, need outputs of the height and the width of the image.'
      )
    width = math.prod(shape[2:])
    found[name] = x[..., first : first + width].reshape(x.shape[0], *shape)
    first += width
  return found


class Encoder(nn.Module):
  """From images to latents of a quarter of their sides; fields of `networks.Encoder`."""

  outputs: int
  features: tuple[int, ...]  # the first is the growth at the image's resolution
  blocks: int  # steps of a dense block
  norm: str = 'none'  # none but of the weights
  axis_name: str | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, x: Array, train: bool) -> Array:
    """Maps images [B, H, W, C] to [B, H / 4, W / 4, outputs]."""
    del train
    return dense_blocks.DenseEncoder(
      self.outputs, self.features[0], self.blocks, HALVINGS, **settings(self.dtype), name='dense'
    )(x)


class Decoder(nn.Module):
  """Its counterpart, to the outputs of a family; fields of `networks.Decoder`."""

  image: base.ImageShape
  outputs: dict[str, base.Shape]
  features: tuple[int, ...]  # the last is the growth at the latents' resolution
  blocks: int
  norm: str = 'none'
  axis_name: str | None = None
  dtype: Any = None

  @nn.compact
  def __call__(self, z: Array, train: bool, image: Array | None = None) -> dict[str, Array]:
    """Maps latents [B, H / 4, W / 4, Z] to one array [B, *shape] for each output."""
    del train, image
    width, growth = num_outputs(self.outputs), self.features[-1]
    x = dense_blocks.DenseDecoder(
      width, growth, self.blocks, HALVINGS, **settings(self.dtype), name='dense'
    )(z)
    return outputs_of(x, self.outputs)
