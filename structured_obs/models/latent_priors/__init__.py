"""Densities of a model's latents, fixed or learnt, by name. A new one is one line in PRIORS.

  'normal'    the standard normal, which has nothing to learn
  'mixture'   a mixture of Gaussians of diagonal covariance, whose weights, means and scales are learnt
  'realnvp'   white noise through a learnt invertible network; see `real_nvp`

A prior is a Linen module with two methods:

  log_prob(z [B, *event], train=False) -> [B], nats
  sample(keys [B]) -> [B, *event], one key per latent

Latents are vectors (Z,) or images (h, w, c); 'normal' and 'mixture' take any shape. Densities are in the
latents' dtype, float32 in training, whatever `dtype` a prior's network computes in.

Letters: B batch; K components; N numbers in a latent.

References: Dilokthanakul et al., "Deep Unsupervised Clustering with Gaussian Mixture Variational
Autoencoders", 2016; Dinh et al., "Density Estimation Using Real NVP", 2017.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models.latent_priors import real_nvp
from structured_obs.option_records import OneOf, Record, fill
from structured_obs.option_values import NOTHING, Count, Where

Array = jax.Array

LOG_SCALE = 3.5  # log standard deviations of a mixture's components lie within about +- this
SPREAD = 0.5  # standard deviation of the components' means at the start


class Normal(nn.Module):
  """The standard normal."""

  event: tuple[int, ...]

  def log_prob(self, z: Array, train: bool = False) -> Array:
    """Returns the log density of latents [B, *event]. [B], nats."""
    del train
    squares = jnp.sum(jnp.square(z).reshape(z.shape[0], -1), axis=-1)
    return -0.5 * (squares + math.prod(self.event) * base.LOG_2PI)

  def sample(self, keys: Array) -> Array:
    """Returns latents [B, *event], one for each of the keys [B]."""
    return _noise(keys, self.event)


class MixtureOptions(NamedTuple):
  """Size of a mixture."""

  components: Count = 10


class Mixture(nn.Module):
  """A mixture of Gaussians of diagonal covariance, all of it learnt."""

  event: tuple[int, ...]
  options: MixtureOptions = MixtureOptions()

  def setup(self) -> None:
    """Makes the parameters."""
    number, size = self.options.components, math.prod(self.event)
    if number < 1:
      raise ValueError(f"prior option 'components' must be at least 1, but is {number}.")
    zeros = nn.initializers.zeros
    self.logits = self.param('logits', zeros, (number,), jnp.float32)
    self.means = self.param('means', nn.initializers.normal(SPREAD), (number, size), jnp.float32)
    self.raw_scales = self.param('log_scales', zeros, (number, size), jnp.float32)

  def log_prob(self, z: Array, train: bool = False) -> Array:
    """Returns the log density of latents [B, *event]. [B], nats."""
    del train
    flat, log_scales = z.reshape(z.shape[0], 1, -1), self._log_scales().astype(z.dtype)
    white = (flat - self.means.astype(z.dtype)[None]) * jnp.exp(-log_scales)[None]
    log_probs = -jnp.sum(0.5 * jnp.square(white) + log_scales[None], axis=-1)  # [B, K]
    log_weights = nn.log_softmax(self.logits).astype(z.dtype)
    together = nn.logsumexp(log_probs + log_weights[None], axis=-1)
    return together - 0.5 * flat.shape[-1] * base.LOG_2PI

  def sample(self, keys: Array) -> Array:
    """Returns latents [B, *event], one for each of the keys [B]."""
    pairs = jax.vmap(jax.random.split)(keys)
    chosen = jax.vmap(lambda key: jax.random.categorical(key, self.logits))(pairs[:, 0])
    noise = _noise(pairs[:, 1], self.means.shape[1:])
    flat = self.means[chosen] + jnp.exp(self._log_scales())[chosen] * noise
    return flat.reshape(-1, *self.event)

  def _log_scales(self) -> Array:
    return base.soft_clip(self.raw_scales, -LOG_SCALE, LOG_SCALE)


class Prior(NamedTuple):
  """Constructor and options of a prior."""

  module: Callable[..., nn.Module]  # (event, options of the type below, dtype)
  options: Record = None  # whose fields all have defaults


def _realnvp(event: tuple[int, ...], options: real_nvp.Options, dtype: Any) -> nn.Module:
  real_nvp.check(event, options)
  return real_nvp.RealNVP(event, options, dtype)


PRIORS: dict[str, Prior] = {
  'normal': Prior(lambda event, options, dtype: Normal(event)),
  'mixture': Prior(lambda event, options, dtype: Mixture(event, options), MixtureOptions),
  'realnvp': Prior(_realnvp, real_nvp.Options),
}
STANDARD = 'normal'  # the one that has a closed form of KL(q || p) for Gaussian q
RECORDS = {name: prior.options for name, prior in PRIORS.items()}


class PriorOptions(NamedTuple):
  """Options of a model whose latents have a prior: its name and its options."""

  prior: Annotated[str, OneOf(RECORDS, 'prior_options')] = STANDARD
  prior_options: Mapping[str, Any] = NOTHING


def options_of(kind: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """Returns every option of a prior with its value: the defaults, and these overrides.

  Raises:
    TypeError: a value is of another type.
    ValueError: no prior or option has this name, with the nearest one; or a value is invalid.
  """
  given = {'prior': kind, 'prior_options': dict(overrides or {})}
  return fill(PriorOptions, given, Where('', 'the latents'))['prior_options']


def make(
  kind: str,
  event: tuple[int, ...],
  options: Mapping[str, Any] | None = None,
  dtype: Any = None,
) -> Any:
  """Returns a prior of latents of this shape.

  Args:
    kind: of `PRIORS`.
    event: shape of one latent, (Z,) or (h, w, c).
    options: those that differ from the defaults.
    dtype: of a network's products; None is float32.

  Raises:
    ValueError: the name or an option is invalid, or the prior is not for latents of this shape.
  """
  values = options_of(kind, options)
  found = PRIORS[kind]
  made = found.options(**values) if found.options else None
  return found.module(tuple(event), made, dtype or jnp.float32)


def data_dependent(kind: str, event: tuple[int, ...]) -> bool:
  """Returns whether the prior's initialisation needs real latents, of a batch of at least 2."""
  return kind == 'realnvp' and len(event) == 3


def _noise(keys: Array, shape: tuple[int, ...]) -> Array:
  return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
