"""The networks of srVAE with more than one input, and the sizes of all its networks.

Where y has the size of the latents, p(y|u) has one dense block, since there is nothing to double; the
authors have no such case.

Letters: B batch; H W C image height, width, channels; h w c those of y; Z channels of a latent.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, figure 4, and its
public code.
"""

from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models import compression
from structured_obs.models.networks import convolutions, dense_blocks, dense_net, upscaling
from structured_obs.option_records import OneOf
from structured_obs.option_values import Choice, Count, CountOrNone

Array = jax.Array


class Learnt(NamedTuple):
  """Options of up-scaling by regression; see `upscaling`."""

  skip_features: Count = 32
  skip_blocks: CountOrNone = 2  # residual blocks, of two convolutions each


# What the locations of x begin with: nothing; y up-scaled; y up-scaled by regression.
SKIPS: dict[str, type[NamedTuple] | None] = {'none': None, 'bicubic': None, 'learnt': Learnt}


class Downscale(NamedTuple):
  """Options of a small image made by down-scaling."""

  factor: Annotated[int, Choice((2, dense_net.REDUCTION))] = 2
  method: Annotated[str, Choice(compression.METHODS)] = 'area'
  consistent: bool = False  # whether only images x with d(x) = y have a probability; for 'area'


class Options(NamedTuple):
  """The compressed image y, and growth and depth of all dense blocks. The defaults are the authors'.

  Growths double with each halving of an encoder and are halved with each doubling of a decoder; a
  network that keeps its resolution has several blocks.
  """

  compression: Annotated[str, OneOf({'downscale': Downscale, 'gray': None})] = 'downscale'
  factor: int = 2
  method: str = 'area'
  consistent: bool = False
  skip: Annotated[str, OneOf(SKIPS)] = 'none'
  skip_features: int = 32
  skip_blocks: int = 2
  y_encoder_growth: Count = 64  # q(u | y)
  y_encoder_depth: Count = 3
  y_decoder_growth: Count = 128  # p(y | u)
  y_decoder_depth: Count = 4
  x_encoder_growth: Count = 16  # q(z | x)
  x_encoder_depth: Count = 4
  z_y_growth: Count = 32  # p(z | y, u): what sees y
  z_y_depth: Count = 5
  z_growth: Count = 64  # what sees u, and what sees both
  z_depth: Count = 3
  z_blocks: Count = 3
  x_decoder_growth: Count = 64  # p(x | y, z): what sees z
  x_decoder_depth: Count = 8
  x_y_depth: CountOrNone = 0  # what sees y at its own size, of the same growth; 0: y is only up-scaled
  x_growth: Count = 64  # what sees both
  x_depth: Count = 5
  x_blocks: Count = 3


def make_compression(family: base.Family, options: Options) -> compression.Compression:
  """Returns the definition of y, on the grid of a family.

  Raises:
    ValueError: an option is invalid, which is named, or the family is one of densities.
  """
  if not family.levels:
    raise ValueError(
      'An srVAE needs a family of gray levels, discretized_logistic_mixture: a compressed image is '
      'discrete, and its density would not give a bound.'
    )
  if options.compression == 'downscale' and options.factor not in (2, dense_net.REDUCTION):
    raise ValueError(
      f"--config.model.options.factor must be 2 or {dense_net.REDUCTION}, since latents have a quarter "
      f"of the image's sides and y must not be smaller; got {options.factor}."
    )
  if options.consistent and (options.compression, options.method) != ('downscale', 'area'):
    raise ValueError(
      '--config.model.options.consistent needs --config.model.options.compression=downscale and '
      "--config.model.options.method=area: the windows of 'bilinear' overlap, so that what one value of "
      'y leaves possible depends on all others.'
    )
  return compression.make(family.levels, options.compression, options.factor, options.method)


def make_start(
  small: compression.Compression, image: base.ImageShape, options: Options, dtype: Any
) -> upscaling.Start | None:
  """Returns the network that locations of x begin at, or None."""
  if options.skip == 'none':
    return None
  sizes = options.skip == 'learnt', options.skip_features, options.skip_blocks
  return upscaling.Start(small, image, *sizes, dense_net.settings(dtype)['dtype'])


class ZNetwork(nn.Module):
  """From y and u to the mean and the log variance of z."""

  latents: int
  levels: int  # from y to u
  options: Options
  dtype: Any

  @nn.compact
  def __call__(self, y: Array, u: Array) -> Array:
    """Maps [B, h, w, c] and [B, H / 4, W / 4, Z] to [B, H / 4, W / 4, 2 Z]."""
    options, dtype = self.options, dense_net.settings(self.dtype)['dtype']
    of_y = dense_blocks.DenseEncoder(
      self.latents, options.z_y_growth, options.z_y_depth, self.levels, dtype=dtype, name='of_y'
    )(y)
    blocks = options.z_growth, options.z_depth, options.z_blocks
    of_u = dense_blocks.DenseNet(self.latents, *blocks, dtype=dtype, name='of_u')(u)
    seen = convolutions.elu(jnp.concatenate([of_y, of_u], axis=-1))
    kind = dense_net.settings(self.dtype)
    return dense_blocks.DenseNet(2 * self.latents, *blocks, **kind, name='of_both')(seen)


class YDecoder(nn.Module):
  """From u to the outputs of the family for y."""

  outputs: dict[str, base.Shape]
  levels: int
  options: Options
  dtype: Any

  @nn.compact
  def __call__(self, u: Array) -> dict[str, Array]:
    """Maps [B, H / 4, W / 4, Z] to one array [B, *shape] for each output."""
    width, kind = dense_net.num_outputs(self.outputs), dense_net.settings(self.dtype)
    growth, depth = self.options.y_decoder_growth, self.options.y_decoder_depth
    if self.levels:
      network: nn.Module = dense_blocks.DenseDecoder(width, growth, depth, self.levels, **kind)
    else:
      network = dense_blocks.DenseNet(width, growth, depth, window=3, **kind)
    return dense_net.outputs_of(network(u), self.outputs)


class XDecoder(nn.Module):
  """From y and z to the outputs of the family for x."""

  outputs: dict[str, base.Shape]
  options: Options
  dtype: Any

  @nn.compact
  def __call__(self, y: Array, z: Array) -> dict[str, Array]:
    """Maps [B, h, w, c] and [B, H / 4, W / 4, Z] to one array [B, *shape] for each output."""
    options, kind = self.options, dense_net.settings(self.dtype)
    width, dtype = dense_net.num_outputs(self.outputs), kind['dtype']
    growth = options.x_decoder_growth
    x = dense_blocks.DenseDecoder(
      width, growth, options.x_decoder_depth, dense_net.HALVINGS, dtype=dtype, name='of_z'
    )(z)
    large = jax.image.resize(y, (*x.shape[:3], y.shape[-1]), 'bilinear').astype(x.dtype)
    seen = [large, x]
    if options.x_y_depth:
      doublings = (x.shape[1] // y.shape[1]).bit_length() - 1
      seen.append(_of_y(width, growth, options.x_y_depth, doublings, dtype)(y))
    x = dense_blocks.DenseNet(
      width, options.x_growth, options.x_depth, options.x_blocks, **kind, name='of_both'
    )(jnp.concatenate(seen, axis=-1))
    return dense_net.outputs_of(x, self.outputs)


def _of_y(width: int, growth: int, depth: int, doublings: int, dtype: Any) -> nn.Module:
  """Returns the network from y, at its own size, to channels of the size of x."""
  if not doublings:
    return dense_blocks.DenseNet(width, growth, depth, window=3, dtype=dtype, name='of_y')
  return dense_blocks.DenseDecoder(width, growth, depth, doublings, dtype=dtype, name='of_y')
