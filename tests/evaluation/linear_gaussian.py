"""A model whose likelihood is known: x = W z + b + noise, with the interface of the real ones."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, diagonal
from structured_obs.models.base import Bound, Traits
from structured_obs.objectives.terms import Terms

Array = jax.Array

SCALE = 0.3  # standard deviation of a pixel's noise
FAMILY = diagonal.family()


class LinearGaussian(nn.Module):
  """z ~ N(0, I); q(z|x) is the exact posterior, its standard deviations times the parameter 'widen'."""

  image: base.ImageShape
  family: base.Family = FAMILY
  closed_form: bool = True  # whether the KL is told in closed form
  label_classes = None
  masked = False
  traits = Traits(has_prior=True)

  def reconstruct(self, keys: None, x: Array) -> diagonal.Diagonal:
    """Parameters of p(x|z) at the posterior's mean."""
    tree = self.variables['params']
    return jax.vmap(lambda image: self._decode(tree, _posterior(tree, image).mean))(x)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Terms of one sample an image."""
    tree = self.variables['params']
    posterior = jax.vmap(lambda image: _posterior(tree, image))(x)
    z = jax.vmap(diagonal.sample)(keys, posterior)
    params = jax.vmap(lambda z: self._decode(tree, z))(z)
    prior = jax.tree.map(jnp.zeros_like, posterior)
    variance = jnp.exp(2 * posterior.log_scale)
    kl = jnp.sum(variance + posterior.mean**2 - 1 - 2 * posterior.log_scale, axis=-1) / 2
    return Terms(
      {
        'x': tree['offset'] + jax.vmap(self.family.log_prob)(params, x),
        'z': jax.vmap(diagonal.log_prob)(prior, z),
      },
      {'z': jax.vmap(diagonal.log_prob)(posterior, z)},
      {'kl_z': kl} if self.closed_form else {},
    )

  def _decode(self, tree: Any, z: Array) -> diagonal.Diagonal:
    mean = (tree['b'] + tree['w'] @ z).reshape(self.image)
    return diagonal.Diagonal(mean, jnp.full_like(mean, np.log(SCALE)))


def bound(model: LinearGaussian, tree: dict[str, Array]) -> Bound:
  """The model with these parameters."""
  return Bound(model, {'params': tree})


def variables(image: base.ImageShape, widen: float = 1.0, offset: float = 0.0) -> dict[str, Array]:
  """Random parameters in float32. The columns of W are orthogonal, so the posterior is diagonal."""
  rng = np.random.default_rng(0)
  columns, _ = np.linalg.qr(rng.normal(size=(image.size, 2)))
  tree = {
    'w': columns * [1.0, 0.5],
    'b': 0.1 * rng.normal(size=image.size),
    'widen': np.array(widen),
    'offset': np.array(offset),
  }
  return {name: jnp.asarray(value, jnp.float32) for name, value in tree.items()}


def log_evidence(tree: dict[str, Array], x: np.ndarray) -> np.ndarray:
  """log p(x) of images [N, H, W, C], [N] nats, from the dense covariance in float64."""
  w, b = np.asarray(tree['w'], np.float64), np.asarray(tree['b'], np.float64)
  covariance = w @ w.T + SCALE**2 * np.eye(len(b))
  residual = np.asarray(x, np.float64).reshape(len(x), -1) - b
  quadratic = np.sum(residual * np.linalg.solve(covariance, residual.T).T, axis=1)
  return -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


def _posterior(tree: Any, image: Array) -> diagonal.Diagonal:
  w = tree['w']
  precision = 1 + jnp.sum(w**2, axis=0) / SCALE**2
  mean = w.T @ (image.reshape(-1) - tree['b']) / (SCALE**2 * precision)
  return diagonal.Diagonal(mean, jnp.log(tree['widen']) - jnp.log(precision) / 2)
