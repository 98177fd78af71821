"""A model with two observed variables and two latents, whose every term is an easy formula."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, diagonal
from structured_obs.models.base import Traits
from structured_obs.objectives.terms import Terms

Array = jax.Array
FAMILY = diagonal.family(learn_scale=False)


class TwoLevel(nn.Module):
  """u ~ q(u|y), z ~ q(z|x), y the mean of x's pixels; only the KL of z is told in closed form."""

  image: base.ImageShape
  family: base.Family = FAMILY
  traits: Traits = Traits(has_prior=True)
  label_classes = None
  masked = False

  def reconstruct(self, keys: None, x: Array) -> diagonal.Diagonal:
    """Parameters of p(x|z)."""
    mean = jnp.broadcast_to(jnp.mean(x, axis=(1, 2, 3), keepdims=True), x.shape)
    return diagonal.Diagonal(mean, jnp.zeros_like(mean))

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Terms of one sample an image."""
    y, variables = jnp.mean(x, axis=(1, 2, 3)), self.variables['params']
    means = variables['mean_u'] * y, variables['mean_z'] + y
    noise = jax.vmap(lambda key: jax.random.normal(key, (2,), x.dtype))(keys)
    u, z = noise[:, 0] + means[0], noise[:, 1] + means[1]
    return Terms(
      {
        'x': variables['offset'] + _normal(jnp.sum(x, axis=(1, 2, 3)), z),
        'y': _normal(y, u),
        'z': _normal(z, u),
        'u': _normal(u, jnp.zeros_like(u)),
      },
      {'z': _normal(z, means[1]), 'u': _normal(u, means[0])},
      {'kl_z': 0.5 * jnp.square(means[1] - u)},
    )


def variables(offset: float) -> dict[str, dict[str, Array]]:
  """Parameters; the offset makes log p(x) a large number."""
  found = {'mean_u': 0.7, 'mean_z': 0.4, 'offset': offset}
  return {'params': {name: jnp.asarray(np.float32(value)) for name, value in found.items()}}


def _normal(x: Array, mean: Array) -> Array:
  return -0.5 * jnp.square(x - mean) - 0.5 * base.LOG_2PI
