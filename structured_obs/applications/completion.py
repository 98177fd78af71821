"""Completes an image of which only some pixels are seen, with latents that the seen pixels suggest.

An encoder needs a whole image. So a chain alternates between the two unknowns, the latents and the
hidden pixels: it encodes the completed image and draws z from q(z|x), and then draws the hidden pixels
from p(hidden | seen, z), which is exact for a Gaussian family. With the exact posterior in place of q
this is Gibbs sampling. Each chain starts at one of the new images of the prior whose means are nearest
to the seen pixels.

Letters: H W C image height, width, channels; S chains; M new images.

Reference: Rezende, Mohamed and Wierstra, "Stochastic Backpropagation and Approximate Inference in Deep
Generative Models", 2014, appendix F, where p(hidden | seen, z) is that of independent pixels.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, elliptical, gaussian
from structured_obs.models.base import Bound, Model

Array = jax.Array

STARTS = 128  # M
SWEEPS = 10


class Completed(NamedTuple):
  """Completions of one image by S chains. Seen pixels are as seen."""

  mean: Array  # [S, H, W, C]  of p(hidden | seen, z) at the last z of each chain
  sample: Array  # [S, H, W, C]


def check(model: Model) -> None:
  """Raises a ValueError unless a model can complete images."""
  traits = model.traits
  if not (traits.has_prior and traits.has_latents and elliptical.has_covariance(model.family)):
    raise ValueError(
      'Completing an image needs a model with a prior of latents and a family with a covariance; this '
      'model lacks one.'
    )
  if model.masked or model.label_classes is not None:
    raise ValueError('Completing an image needs a model that is given the image alone.')


@functools.partial(jax.jit, static_argnames=('chains', 'sweeps'))
def complete(
  bound: Bound, x: Array, observed: Array, key: Array, chains: int = 1, sweeps: int = SWEEPS
) -> Completed:
  """Draws what the hidden pixels of an image could be.

  Args:
    bound: the model; see `check`.
    x: [H, W, C], pixels in [-1, 1]; hidden ones are not read.
    observed: [H, W, C] bool, the pixels that are seen.
    key: of everything that is drawn.
    chains: S, at most `STARTS`.
    sweeps: steps of each chain, at least 1.

  Raises:
    ValueError: the model has no prior, or a family without covariance; a shape or a number is invalid.
  """
  check(bound.model)
  if not 1 <= chains <= STARTS or sweeps < 1:
    raise ValueError(f'chains must be from 1 to {STARTS} and sweeps at least 1; got {chains}, {sweeps}.')
  base.check_shape('x', x, tuple(bound.model.image))
  base.check_mask('observed', observed, x.shape)
  prior, key = jax.random.split(key)
  family, seen = bound.model.family, jnp.where(observed, x, 0)
  means = jax.vmap(family.mean)(bound.generate(jax.random.split(prior, STARTS)))
  errors = jnp.sum(jnp.where(observed[None], jnp.square(means - seen[None]), 0), axis=(1, 2, 3))
  _, nearest = jax.lax.top_k(-errors, chains)

  def sweep(filled: Array, key: Array) -> tuple[Array, Array]:
    latent, noise = jax.random.split(key)
    params = bound.reconstruct(latent[None], filled[None])
    found = gaussian.condition(family, jax.tree.map(lambda leaf: leaf[0], params), seen, observed)
    return found.sample(noise), found.mean

  def chain(index: Array) -> Completed:
    keys = jax.random.split(jax.random.fold_in(key, index), sweeps)
    filled = jnp.where(observed, x, means[nearest[index]])
    sample, passed = jax.lax.scan(sweep, filled, keys)
    return Completed(passed[-1], sample)

  return jax.lax.map(chain, jnp.arange(chains, dtype=jnp.int32))
