"""Densely connected convolutions with weight normalisation and data-dependent initialisation.

A weight-normed convolution is x * (scale direction / |direction|) + bias with one scale and one bias for
each output channel, the norm taken over a channel's whole kernel. Direction's length has no effect. At
`init` scale and bias are set so that the channel's outputs on the batch given there have mean 0 and a
stated standard deviation: that batch must be a real one of at least two images, as many as fit. All
layers of a network initialised in one pass meet inputs that are already normalised below them.

The networks are those of srVAE. A dense block appends to its input g channels made of it by 1x1 (to 4 g)
and 3x3 (to g) convolutions, without an activation between the two. An ELU of everything follows, and
after a few such steps a channel attention multiplies every channel by a number in (0, 1) that is a
function of the image's mean. Their code has every layer begin at a standard deviation of 0.01; here it
is 1 as in Salimans and Kingma unless stated, so that a network begins with features of all its layers.

`dtype` is that of products and activations; parameters, their norms and the statistics of the
initialisation are float32.

Letters: B batch; H W image height, width; F G features; g growth; k window.

References: Salimans and Kingma, "Weight Normalization: A Simple Reparameterization to Accelerate
Training of Deep Neural Networks", 2016, section 3; Gatopoulos et al., "Super-resolution Variational
Auto-Encoders", 2020; Huang et al., "Densely Connected Convolutional Networks", 2017; Zhang et al.,
"Image Super-Resolution Using Very Deep Residual Channel Attention Networks", 2018, section 3.3.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.core
import jax.numpy as jnp

from structured_obs.models.networks import convolutions

Array = jax.Array

# A channel's variance over the first batch that is below so small a part of its mean square is that of
# rounding: the batch's images are all the same.
NO_VARIANCE = 1e-10
REDUCTION = 8  # ratio of channels in the middle of a channel attention


class WeightNormConv(nn.Module):
  """Weight-normed convolution whose outputs begin with mean 0 and a stated standard deviation."""

  features: int
  window: int = 3  # pixels across, odd
  stride: int = 1
  transposed: bool = False  # of window 3: doubles the image instead
  deviation: float = 1.0  # standard deviation of each output channel over the first batch
  dtype: Any = jnp.float32

  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, F] to [B, H / stride, W / stride, G], rounded up, or to [B, 2 H, 2 W, G].

    Raises:
      ValueError: at `init`, for a batch of one image, or, outside of jit, one without any variance;
        inside of jit that gives parameters that are NaN.
    """
    kernel, bias = self.affine(x.shape[-1], x)
    y = self._product(x.astype(self.dtype), kernel.astype(self.dtype))
    return y + bias.astype(self.dtype)[None, None, None]

  @nn.compact
  def affine(self, inputs: int, first: Array | None = None) -> tuple[Array, Array]:
    """Returns the kernel [k, k, F, G] and bias [G], for F inputs.

    `init` sets them by the `first` batch.
    """
    shape = (self.window, self.window, inputs, self.features)
    direction = self.param('direction', _direction, shape)
    unit = direction * jax.lax.rsqrt(jnp.sum(jnp.square(direction), axis=(0, 1, 2), keepdims=True))
    scale = bias = jnp.zeros((self.features,), jnp.float32)  # only the shape matters
    if first is not None and self.is_initializing() and not self.has_variable('params', 'scale'):
      scale, bias = self._first(first, unit)
    scale, bias = self.param('scale', lambda _: scale), self.param('bias', lambda _: bias)
    return scale[None, None, None] * unit, bias

  def _product(self, x: Array, kernel: Array) -> Array:
    if self.transposed:
      return convolutions.transposed(x, kernel)
    return convolutions.convolve(x, kernel, self.stride)

  def _first(self, x: Array, unit: Array) -> tuple[Array, Array]:
    """Returns the scale and bias, [G] each, that normalise the outputs of a batch as stated."""
    if x.shape[0] < 2:
      raise ValueError(
        'The data-dependent initialisation of a weight-normed convolution needs a batch of at least 2 '
        f'images, but x holds {x.shape[0]}: initialise with a real batch of the training images.'
      )
    y = self._product(x.astype(jnp.float32), unit)
    mean = jnp.mean(y, axis=(0, 1, 2))
    variance = jnp.mean(jnp.square(y - mean[None, None, None]), axis=(0, 1, 2))
    varies = variance > NO_VARIANCE * (variance + jnp.square(mean))
    if not isinstance(varies, jax.core.Tracer) and not varies.all():
      raise ValueError(
        'The data-dependent initialisation of a weight-normed convolution needs images that differ, but '
        f'over the batch in x {int((~varies).sum())} of {varies.size} output channels are constant.'
      )
    scale = jnp.where(varies, self.deviation * jax.lax.rsqrt(variance), jnp.nan)
    return scale, -scale * mean


def _direction(key: Array, shape: tuple[int, ...]) -> Array:
  return 0.05 * jax.random.normal(key, shape, jnp.float32)


def downsample(features: int, **options: Any) -> WeightNormConv:
  """Returns a layer that halves the image, odd sizes rounded up.

  [B, H, W, F] to [B, H / 2, W / 2, features].
  """
  return WeightNormConv(features, stride=2, **options)


def upsample(features: int, **options: Any) -> WeightNormConv:
  """Returns a layer that doubles the image: [B, H, W, F] to [B, 2 H, 2 W, features]."""
  return WeightNormConv(features, transposed=True, **options)


class ChannelAttention(nn.Module):
  """Each channel times a number in (0, 1): two 1x1 convolutions of the image's mean, and a sigmoid."""

  deviation: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, F] to the same shape."""
    features = x.shape[-1]
    kind = {'window': 1, 'deviation': self.deviation, 'dtype': wide(self.dtype)}
    # Over an image's pixels bfloat16 would lose what the images differ by.
    y = jnp.mean(x.astype(wide(self.dtype)), axis=(1, 2), keepdims=True)
    y = WeightNormConv(max(1, features // REDUCTION), **kind, name='reduce')(y)
    return x * nn.sigmoid(WeightNormConv(features, **kind, name='expand')(y)).astype(x.dtype)


class DenseBlock(nn.Module):
  """`steps` dense steps, each followed by an ELU of all channels, and a channel attention."""

  growth: int  # channels that a step appends
  steps: int
  attention: bool = True
  deviation: float = 1.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, F] to [B, H, W, F + steps * growth]."""
    kind = {'deviation': self.deviation, 'dtype': self.dtype}
    x = x.astype(self.dtype)
    for step in range(self.steps):
      narrow = WeightNormConv(4 * self.growth, 1, **kind, name=f'narrow_{step}')
      widen = WeightNormConv(self.growth, 3, **kind, name=f'wide_{step}')
      one = not self.is_initializing() and is_less_together(x.shape, self.growth)
      y = _composed(narrow, widen, x) if one else widen(narrow(x))
      x = convolutions.elu(jnp.concatenate([x, y], axis=-1))
    return ChannelAttention(**kind, name='attention')(x) if self.attention else x


def is_less_together(shape: tuple[int, ...], growth: int) -> bool:
  """Returns whether the convolutions of a step take fewer products as one, for [B, H, W, F].

  One after the other, F to 4 g to g, they take 4 F g + 36 g^2 per pixel. Together they take 9 F g, with
  no intermediate result kept for the gradient, and 36 F g^2 for the product of their kernels.
  """
  pixels, features = math.prod(shape[:-1]), shape[-1]
  return 9 * pixels * features + 36 * features * growth < pixels * (4 * features + 36 * growth)


def _composed(narrow: WeightNormConv, widen: WeightNormConv, x: Array) -> Array:
  """Returns widen(narrow(x)) as one convolution by the product of their kernels.

  [B, H, W, F] to [B, H, W, G].

  Beyond the border the second one sees zeros, and not the bias of the first.
  """
  affine = narrow.affine(x.shape[-1]), widen.affine(narrow.features)
  (first, bias), (second, last) = jax.tree.map(lambda leaf: leaf.astype(wide(x.dtype)), affine)
  kernel = jnp.einsum('fm,abmg->abfg', first[0, 0], second).astype(x.dtype)
  inside = jnp.ones((1, *x.shape[1:3], 1), second.dtype)
  constant = convolutions.convolve(inside, jnp.einsum('m,abmg->abg', bias, second)[:, :, None])
  return convolutions.convolve(x, kernel) + (constant + last[None, None, None]).astype(x.dtype)


class DenseNet(nn.Module):
  """`blocks` dense blocks one after the other, and a convolution to the outputs."""

  outputs: int
  growth: int  # channels that a step appends
  steps: int  # steps of each block
  blocks: int = 1
  window: int = 1  # window of the last convolution
  head_deviation: float = 1.0  # standard deviation of the outputs
  deviation: float = 1.0  # that of all other layers
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, F] to [B, H, W, outputs], in float32."""
    kind = {'deviation': self.deviation, 'dtype': self.dtype}
    for index in range(self.blocks):
      x = DenseBlock(self.growth, self.steps, **kind, name=f'block_{index}')(x)
    return _head(self.outputs, self.window, self.head_deviation, self.dtype)(x)


class _Levels(nn.Module):
  """Fields of a network of several resolutions."""

  outputs: int
  growth: int  # channels that a step appends, at the size of the input
  steps: int  # steps of each block
  levels: int = 1  # how often the image is halved or doubled
  head_deviation: float = 1.0  # standard deviation of the outputs
  deviation: float = 1.0  # that of all other layers
  dtype: Any = jnp.float32


class DenseEncoder(_Levels):
  """Dense blocks, each but the last followed by a layer that halves the image and doubles the channels.

  The growth doubles along with the channels.
  """

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, F] to [B, H / 2^levels, W / 2^levels, outputs], rounded up, in float32."""
    kind = {'deviation': self.deviation, 'dtype': self.dtype}
    for level in range(self.levels):
      x = DenseBlock(self.growth << level, self.steps, **kind, name=f'block_{level}')(x)
      x = downsample(2 * x.shape[-1], **kind, name=f'down_{level}')(x)
    x = DenseBlock(self.growth << self.levels, self.steps, **kind, name=f'block_{self.levels}')(x)
    return _head(self.outputs, 1, self.head_deviation, self.dtype)(x)


class DenseDecoder(_Levels):
  """Dense blocks, each followed by a layer that doubles the image and halves the channels.

  The growth is halved along with the channels.
  """

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, h, w, F] to [B, h 2^levels, w 2^levels, outputs], in float32.

    Raises:
      ValueError: the growth is too small to be halved so often.
    """
    if not self.growth >> max(0, self.levels - 1):
      raise ValueError(
        f'growth is {self.growth}, which is halved at each of the {self.levels} levels: it must be at '
        f'least {1 << (self.levels - 1)}.'
      )
    kind = {'deviation': self.deviation, 'dtype': self.dtype}
    for level in range(self.levels):
      x = DenseBlock(self.growth >> level, self.steps, **kind, name=f'block_{level}')(x)
      x = upsample(x.shape[-1] // 2, **kind, name=f'up_{level}')(x)
    return _head(self.outputs, 3, self.head_deviation, self.dtype)(x)


def _head(outputs: int, window: int, deviation: float, dtype: Any) -> WeightNormConv:
  """Returns the last layer of a network, at least in float32."""
  return WeightNormConv(outputs, window, deviation=deviation, dtype=wide(dtype), name='head')


def wide(dtype: Any) -> Any:
  """Returns the dtype of outputs and sums where that of products is `dtype`: at least float32."""
  return jnp.float64 if dtype == jnp.float64 else jnp.float32
