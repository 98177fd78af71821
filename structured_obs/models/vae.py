"""Variational autoencoder whose decoder emits any distribution family's parameters.

Letters: B batch; H W C image height, width, channels; Z latents.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base, diagonal
from structured_obs.models import observation
from structured_obs.models.networks import Encoder
from structured_obs.objectives.terms import Terms

Array = jax.Array


class VAE(nn.Module):
  """VAE with a standard normal prior, a diagonal posterior and observations of a given family.

  Keys come one per image, so that what is drawn for an image does not depend on the batch it is in or
  on the number of devices. Build the family and the module once per program: a family holds closures,
  and jit compiles anew for an equal but distinct one.
  """

  family: base.Family
  image: base.ImageShape
  latents: int = 16
  features: tuple[int, ...] = (32, 64)  # at each resolution, finest first; each next one halves
  blocks: int = 1  # residual blocks at each resolution
  norm: str = 'none'  # 'none', 'group' or 'batch'
  axis_name: str | None = None  # mapped axis over which batch norm averages
  options: observation.Options = observation.Options()
  has_prior: ClassVar[bool] = True

  def setup(self) -> None:
    shared = {
      'features': self.features,
      'blocks': self.blocks,
      'norm': self.norm,
      'axis_name': self.axis_name,
    }
    self.encoder = Encoder(outputs=2 * self.latents, **shared)
    self.decoder, self.covariance_decoder = observation.make_decoders(
      self.family, self.image, self.options, shared
    )
    self.log_scale = observation.scale_parameter(self, self.options)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Draw one latent per image from q(z|x) and report every term of the bound.

    Args:
      keys: [B], one per image.
      x: [B, H, W, C], floats.
      train: whether batch norm uses the batch's statistics and updates its running ones.

    Returns:
      Terms with 'x' and 'z', and the closed form of KL(q(z|x) || p(z)) as 'kl_z' in the stats.
    """
    posterior = self.encode(x, train)
    z = jax.vmap(diagonal.sample)(keys, posterior)
    params = self.decode(z, train)
    prior = jax.tree.map(jnp.zeros_like, posterior)
    variance = jnp.exp(2 * posterior.log_scale)
    kl = 0.5 * jnp.sum(variance + jnp.square(posterior.mean) - 1 - 2 * posterior.log_scale, axis=-1)
    return Terms(
      log_p={
        'x': jax.vmap(self.family.log_prob)(params, x),
        'z': jax.vmap(diagonal.log_prob)(prior, z),
      },
      log_q={'z': jax.vmap(diagonal.log_prob)(posterior, z)},
      stats={'kl_z': kl, **observation.log_prior(self.family, params)},
    )

  def encode(self, x: Array, train: bool = False) -> diagonal.Diagonal:
    """Posterior q(z|x), [B, Z] each, with log variances softly clipped to about +-7."""
    check_images(x, self.image)
    mean, log_scale = jnp.split(self.encoder(x, train), 2, axis=-1)
    return diagonal.Diagonal(mean, base.soft_clip(log_scale, -3.5, 3.5))

  def decode(self, z: Array, train: bool = False) -> Any:
    """Parameters of p(x|z) for latents [B, Z]: the family's record, each field with a leading B."""
    decoders = observation.Decoders(self.decoder, self.covariance_decoder)
    return observation.parameters(self.family, self.options, decoders, self.log_scale, z, train)

  def infer(self, keys: Array | None, x: Array) -> Array:
    """Latents [B, Z] drawn from q(z|x), or its mean where keys is None."""
    posterior = self.encode(x)
    return posterior.mean if keys is None else jax.vmap(diagonal.sample)(keys, posterior)

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Parameters of p(x|z) at z ~ q(z|x), or at the posterior's mean where keys is None."""
    return self.decode(self.infer(keys, x))

  def generate(self, keys: Array) -> Any:
    """Parameters of p(x|z) at z ~ p(z), one for each of the keys [B]."""
    draw = lambda key: jax.random.normal(key, (self.latents,), jnp.float32)  # noqa: E731
    return self.decode(jax.vmap(draw)(keys))


def check_images(x: Array, image: base.ImageShape) -> None:
  """Raise ValueError unless x is a batch of floating-point images of this shape."""
  if x.ndim != 4 or x.shape[1:] != tuple(image) or not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f'x must be floating-point images of shape (batch, {", ".join(map(str, image))}), scaled to '
      f'[-1, 1]; got {x.dtype} of shape {x.shape}.'
    )


def num_parameters(variables: Any) -> int:
  """Number of trained numbers in a tree of variables."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))
