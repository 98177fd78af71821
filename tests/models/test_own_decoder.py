"""A decoder in Flax NNX or Linen in a VAE of any family: it learns, and what cannot be is refused."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models import observation, own_decoder
from structured_obs.models.autoencoder import Autoencoder
from structured_obs.models.base import Bound
from structured_obs.models.vae import VAE
from structured_obs.objectives import bounds

Array = jax.Array
IMAGE = ImageShape(3, 4, 1)
FAMILY = distributions.family('low_rank', rank=1, noise_variance=0.1)
KEYS = jax.random.split(jax.random.key(0), 16)
# Images of one pattern, as bright as it happens: a latent says it all.
X = jnp.asarray(
  np.random.default_rng(0).uniform(-1, 1, (16, 1, 1, 1)) * np.linspace(-1, 1, 12).reshape(1, *IMAGE),
  jnp.float32,
)


class Features(nnx.Module):
  """Features in NNX."""

  def __init__(self, hidden: int, rngs: nnx.Rngs):
    self.first = nnx.Linear(2, 8, rngs=rngs)
    self.second = nnx.Linear(8, 3 * 4 * hidden, rngs=rngs)

  def __call__(self, z: Array) -> Array:
    return self.second(nnx.tanh(self.first(z))).reshape(len(z), 3, 4, -1)


class Outputs(nn.Module):
  """Outputs of the family in Linen."""

  names: tuple[str, ...] = ('mean', 'cov_factor')

  @nn.compact
  def __call__(self, z: Array) -> dict[str, Array]:
    shapes = FAMILY.outputs(IMAGE)
    hidden = nn.tanh(nn.Dense(8)(z))
    found = {name: nn.Dense(math.prod(shapes[name]), name=name)(hidden) for name in self.names}
    return {name: a.reshape(len(z), *shapes[name]) for name, a in found.items()}


def vae(maker: own_decoder.Maker, **fields: Any) -> VAE:
  return VAE(FAMILY, IMAGE, latents=2, features=(4,), blocks=0, own_decoder=maker, **fields)


@pytest.mark.parametrize(
  ('make', 'names'),
  [
    (lambda: own_decoder.of_nnx(Features, hidden=6), {'network', 'heads'}),
    (lambda: own_decoder.of_linen(Outputs()), {'network'}),
  ],
  ids=['nnx', 'linen'],
)
def test_a_decoder_of_ones_own_learns(make: Callable[[], own_decoder.Maker], names: set[str]):
  model, objective = vae(make()), bounds.negative_elbo()

  @jax.jit
  def step(params: Any) -> Any:
    def loss(params: Any) -> Any:
      return objective(Bound(model, {'params': params}).terms(KEYS, X), {})

    (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), value, grads

  params = jax.jit(model.init)(jax.random.key(1), KEYS, X)['params']
  assert params['decoder'].keys() == names
  losses, grads = [], None
  for _ in range(30):
    params, value, grads = step(params)
    losses.append(float(value))
  assert grads is not None
  assert losses[-1] < losses[0] - 1, losses
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads['decoder']['network']))


def test_every_init_draws_other_parameters():
  model = vae(own_decoder.of_nnx(Features, hidden=6))
  one, other = (jax.jit(model.init)(jax.random.key(i), KEYS, X)['params']['decoder'] for i in range(2))
  kernels = [tree['network']['first']['kernel'] for tree in (one, other)]
  assert kernels[0].shape == (2, 8)
  assert np.abs(kernels[0] - kernels[1]).min() > 0


@pytest.mark.parametrize(
  ('network', 'message'),
  [
    (Outputs(('mean',)), 'must give the outputs .*cov_factor.*; it gave .*mean'),
    (nn.Dense(5), r'an array of shape \(16, 3, 4, F\); it gave \(16, 5\)'),
  ],
)
def test_what_a_decoder_gives_is_checked(network: nn.Module, message: str):
  for kind in (VAE, Autoencoder):
    model = kind(FAMILY, IMAGE, 2, (4,), blocks=0, own_decoder=own_decoder.of_linen(network))
    with pytest.raises(ValueError, match=message):
      jax.eval_shape(model.init, jax.random.key(0), KEYS, X)


def test_a_covariance_decoder_is_of_an_architecture():
  options = observation.Options(covariance_features=(4,))
  model = vae(own_decoder.of_linen(Outputs()), options=options)
  with pytest.raises(ValueError, match='it excludes an own_decoder'):
    jax.eval_shape(model.init, jax.random.key(0), KEYS, X)
