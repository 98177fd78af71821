# One file of more than 300 lines: a flow and the couplings that it is made of.
"""RealNVP: an invertible network between a latent and white noise, with the log-determinant of its map.

A coupling leaves part of its input as it is and changes the rest x, from data to noise, by numbers s and
t that a network makes of the part that stays:

  y = (x + t) exp(s),   s = gain tanh(raw),   log |dy/dx| = sum s,   x = y exp(-s) - t

with one learnt gain for each channel. A latent that is an image passes, at each scale, some couplings of
a checkerboard, in which every second pixel stays; is then squeezed, 2x2 pixels to one of four times the
channels, and passes as many couplings in which one half of the channels stays; and leaves two of the
four pixels, those off the diagonal, as they are, while the others go on to the next scale at half the
size. The last scale has one more coupling of a checkerboard and nothing else. Squeezed channels are
ordered by the channel and then by the pixel, so that halves are channels where there are several; what
leaves and what goes on have all channels. Dinh et al. write y = x exp(s) + t, which is the same family.

A latent that is a vector passes couplings of alternating halves by dense layers, which begin as the
identity; the convolutional couplings begin near it (see `dense_blocks`, whose initialisation needs a
first batch of at least two images).

The flow itself, log-determinants and densities keep the latent's dtype, float32 in training, whatever
that of the networks' products.

Letters: B batch; h w c height, width, channels of a latent; Z numbers of a vector; F features.

References: Dinh et al., "Density Estimation Using Real NVP", 2017; Gatopoulos et al., "Super-resolution
Variational Auto-Encoders", 2020, section 3.3.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base
from structured_obs.models.networks import convolutions, dense_blocks
from structured_obs.option_values import Count

Array = jax.Array

DEVIATION = 0.1  # standard deviation of raw s and t over the first batch, in convolutional networks
DIAGONAL_FIRST = (0, 3, 1, 2)  # of the 2x2 pixels by rows: what goes on, and then what leaves


class Options(NamedTuple):
  """Sizes. The defaults are those of srVAE."""

  scales: Count = 2  # scales of a latent that is an image
  couplings: Count = 3  # of either kind at each scale; a vector passes twice as many
  growth: Count = 64  # channels that each step of a dense block appends; or units of a dense layer
  layers: Count = 5  # steps of the dense block; or hidden dense layers, at most 2


class RealNVP(nn.Module):
  """The density of a latent that a flow turns into white noise: a prior; see `latent_priors`."""

  event: tuple[int, ...]  # (Z,) or (h, w, c)
  options: Options = Options()
  dtype: Any = jnp.float32  # of the networks' products

  def setup(self) -> None:
    """Makes the couplings."""
    check(self.event, self.options)
    if len(self.event) == 1:
      self.scales = [_vector_couplings(self.event[0], self.options, self.dtype)]
    else:
      self.scales = [
        _image_couplings(self.event, index, self.options, self.dtype)
        for index in range(self.options.scales)
      ]

  def log_prob(self, z: Array, train: bool = False) -> Array:
    """Returns the log density of latents [B, *event]. [B], nats."""
    del train
    noise, log_det = self.to_noise(z)
    squares = jnp.sum(jnp.square(noise).reshape(z.shape[0], -1), axis=-1)
    return log_det - 0.5 * squares - 0.5 * math.prod(self.event) * base.LOG_2PI

  def sample(self, keys: Array) -> Array:
    """Returns latents [B, *event], one for each of the keys [B]."""
    draw = lambda key: jax.random.normal(key, self.event, jnp.float32)  # noqa: E731
    return self.from_noise(jax.vmap(draw)(keys))

  def to_noise(self, z: Array) -> tuple[Array, Array]:
    """Returns noise [B, *event] of latents [B, *event], and the log-determinant of this map.

    [B], nats.
    """
    self._check(z)
    return self._through(z, 0)

  def from_noise(self, noise: Array) -> Array:
    """Returns the inverse of `to_noise`."""
    self._check(noise)
    return self._back(noise, 0)

  def _through(self, z: Array, scale: int) -> tuple[Array, Array]:
    total = jnp.zeros(z.shape[:1], z.dtype)
    *couplings, halves = self._parts(scale)
    for coupling in couplings:
      z, log_det = coupling(z)
      total = total + log_det
    if not halves:
      return z, total
    z = squeeze(z)
    for coupling in halves:
      z, log_det = coupling(z)
      total = total + log_det
    goes_on, leaves = _split(z)
    goes_on, log_det = self._through(goes_on, scale + 1)
    return unsqueeze(_join(goes_on, leaves)), total + log_det

  def _back(self, z: Array, scale: int) -> Array:
    *couplings, halves = self._parts(scale)
    if halves:
      goes_on, leaves = _split(squeeze(z))
      z = _join(self._back(goes_on, scale + 1), leaves)
      for coupling in reversed(halves):
        z = coupling.inverse(z)
      z = unsqueeze(z)
    for coupling in reversed(couplings):
      z = coupling.inverse(z)
    return z

  def _parts(self, scale: int) -> list[Any]:
    """Returns the couplings of a scale at its full size, and last a list of those of channel halves."""
    layers: Sequence[Any] = self.scales[scale]
    if scale == len(self.scales) - 1:
      return [*layers, ()]
    return [*layers[: self.options.couplings], layers[self.options.couplings :]]

  def _check(self, z: Array) -> None:
    if z.shape[1:] != self.event or not jnp.issubdtype(z.dtype, jnp.floating):
      raise ValueError(
        f'Latents of this prior must be floating-point of shape (batch, *{self.event}); got {z.dtype} '
        f'of shape {z.shape}.'
      )


class Coupling(nn.Module):
  """A coupling of a checkerboard of pixels, or of halves of the last axis."""

  make_network: Callable[
    [], nn.Module
  ]  # makes the network from what stays to raw s and t, [B, ..., 2 F]
  channels: int  # F, of what changes
  checkerboard: bool
  flip: bool  # which half, or colour, stays

  def setup(self) -> None:
    """Makes the network and the gains."""
    self.network = self.make_network()
    self.gain = self.param('gain', nn.initializers.ones, (self.channels,), jnp.float32)

  def __call__(self, x: Array) -> tuple[Array, Array]:
    """Maps [B, *event] to the same shape, and the log-determinant [B] of it."""
    stays, changes = self._cut(x)
    s, t = self._numbers(stays)
    return self._paste(stays, (changes + t) * jnp.exp(s)), jnp.sum(s.reshape(x.shape[0], -1), axis=-1)

  def inverse(self, y: Array) -> Array:
    """Returns the inverse of calling it. [B, *event]."""
    stays, changes = self._cut(y)
    s, t = self._numbers(stays)
    return self._paste(stays, changes * jnp.exp(-s) - t)

  def _numbers(self, stays: Array) -> tuple[Array, Array]:
    raw, t = jnp.split(self.network(stays).astype(stays.dtype), 2, axis=-1)
    gain = self.gain.astype(raw.dtype).reshape((1,) * (raw.ndim - 1) + (-1,))
    s = gain * jnp.tanh(raw)
    if not self.checkerboard:
      return s, t
    changing = jnp.asarray(~self._board(stays.shape))
    return jnp.where(changing, s, 0), jnp.where(changing, t, 0)

  def _cut(self, x: Array) -> tuple[Array, Array]:
    """Returns what stays and what changes; on a checkerboard both are images with zeros elsewhere."""
    if self.checkerboard:
      stays = jnp.asarray(self._board(x.shape))
      return jnp.where(stays, x, 0), jnp.where(stays, 0, x)
    half = x.shape[-1] - self.channels if self.flip else self.channels
    first, second = x[..., :half], x[..., half:]
    return (first, second) if self.flip else (second, first)

  def _paste(self, stays: Array, changed: Array) -> Array:
    if self.checkerboard:
      return stays + changed
    parts = (stays, changed) if self.flip else (changed, stays)
    return jnp.concatenate(parts, axis=-1)

  def _board(self, shape: tuple[int, ...]) -> np.ndarray:
    """Returns [B, h, w, c] booleans: the pixels that stay, as wide as jnp.where wants them."""
    rows, columns = np.indices(shape[1:3])
    return np.broadcast_to(((rows + columns) % 2 == (0 if self.flip else 1))[None, ..., None], shape)


class VectorNetwork(nn.Module):
  """Dense layers whose result begins as 0."""

  outputs: int
  features: int
  layers: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, F] to [B, outputs], at least float32."""
    for _ in range(self.layers):
      x = convolutions.elu(nn.Dense(self.features, dtype=self.dtype)(x))
    wide = dense_blocks.wide(self.dtype)
    return nn.Dense(self.outputs, dtype=wide, kernel_init=nn.initializers.zeros)(x)


def check(event: tuple[int, ...], options: Options) -> None:
  """Raises ValueError unless a flow of these options is possible for latents of this shape."""
  for name, value in options._asdict().items():
    if value < 1:
      raise ValueError(f"prior option '{name}' must be at least 1, but is {value}.")
  if len(event) not in (1, 3):
    raise ValueError(f"The prior 'realnvp' needs latents of shape (Z,) or (h, w, c); got {event}.")
  if len(event) == 1:
    if event[0] < 2:
      raise ValueError(
        "The prior 'realnvp' needs latents of at least 2 numbers, as it changes one half given the "
        "other; with one, use the prior 'mixture' or 'normal'."
      )
    return
  height, width, _ = event
  halvings = 2 ** (options.scales - 1)
  if height * width < 2:
    raise ValueError(
      "The prior 'realnvp' needs latents of at least 2 pixels, as it changes one half given the other, "
      f"but they are {height} x {width}: use the prior 'mixture' or 'normal'."
    )
  if height % halvings or width % halvings or height * width < 2 * halvings**2:
    raise ValueError(
      f"The prior 'realnvp' of {options.scales} scales halves its latents {options.scales - 1} times, "
      f'to at least 2 pixels, but they are {height} x {width}: set its option scales=1, or use the '
      "prior 'mixture' or 'normal', which are for any size."
    )


def squeeze(x: Array) -> Array:
  """Maps [B, h, w, c] to [B, h / 2, w / 2, 4 c].

  Ordered by channel, then by pixel, diagonal first.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
  x = x.reshape(batch, height // 2, width // 2, channels, 4)[..., DIAGONAL_FIRST]
  return x.reshape(batch, height // 2, width // 2, 4 * channels)


def unsqueeze(x: Array) -> Array:
  """Returns the inverse of `squeeze`."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, channels // 4, 4)[..., np.argsort(DIAGONAL_FIRST)]
  x = x.reshape(batch, height, width, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
  return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def _split(x: Array) -> tuple[Array, Array]:
  """Returns the squeezed channels 4 c: the two pixels of each channel that go on, and those that leave.

  2 c each.
  """
  pixels = x.reshape(*x.shape[:3], -1, 4)
  flat = (*x.shape[:3], x.shape[-1] // 2)
  return pixels[..., :2].reshape(flat), pixels[..., 2:].reshape(flat)


def _join(goes_on: Array, leaves: Array) -> Array:
  """Returns the inverse of `_split`."""
  pairs = [half.reshape(*half.shape[:3], -1, 2) for half in (goes_on, leaves)]
  return jnp.concatenate(pairs, axis=-1).reshape(*leaves.shape[:3], 2 * leaves.shape[-1])


def _image_couplings(event: tuple[int, ...], scale: int, options: Options, dtype: Any) -> list[Coupling]:
  """Returns the couplings of a scale: of checkerboards, and, but for the last scale, of halves."""

  def make(channels: int, index: int, checkerboard: bool) -> Coupling:
    network = functools.partial(
      dense_blocks.DenseNet,
      2 * channels,
      options.growth,
      options.layers,
      window=3,
      head_deviation=DEVIATION,
      dtype=dtype,
    )
    return Coupling(network, channels, checkerboard, flip=index % 2 == 1)

  channels, last = event[2] << scale, scale == options.scales - 1
  boards = [make(channels, index, True) for index in range(options.couplings + last)]
  halves = [] if last else [make(2 * channels, index, False) for index in range(options.couplings)]
  return boards + halves


def _vector_couplings(size: int, options: Options, dtype: Any) -> list[Coupling]:
  couplings = []
  for index in range(2 * options.couplings):
    changing = (size + 1) // 2 if index % 2 == 0 else size // 2
    sizes = (2 * changing, options.growth, min(options.layers, 2))
    network = functools.partial(VectorNetwork, *sizes, dtype)
    couplings.append(Coupling(network, changing, False, flip=index % 2 == 1))
  return couplings
