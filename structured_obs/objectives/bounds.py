"""Bounds on the log likelihood, in nats per image and in bits per dimension.

Letters: B batch; K importance samples.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.objectives import alternating
from structured_obs.objectives import constraints as constrained
from structured_obs.objectives.terms import Terms

Array = jax.Array
# (terms, multipliers, step) -> (loss [], metrics: [] each)
Objective = Callable[..., tuple[Array, dict[str, Array]]]


class Weighting(NamedTuple):
  """How a loss weights KL terms, besides beta.

  References: Bowman et al., "Generating Sentences from a Continuous Space", 2016, section 3.1, for the
  warm-up; Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", 2016,
  appendix C.8, for free bits, here of each latent, u and z, as a whole.
  """

  warmup_steps: int = 0  # over which the weight grows linearly from 0 to beta
  free_bits: float = 0.0  # nats of each latent that cost nothing, and teach nothing


def elbo(terms: Terms, beta: float = 1.0) -> Array:
  """Returns the evidence lower bound of each image: log p(x|z) - beta KL(q(z|x) || p(z)). [B], nats.

  A latent's KL is the closed form where the model reports one in `stats['kl_<name>']`, and else the
  sampled log q - log p, which has the same mean and more noise.
  """
  total = None
  for name, log_p in terms.log_p.items():
    term = log_p if name not in terms.log_q else -beta * kl(terms, name)
    total = term if total is None else total + term
  if total is None:
    raise ValueError('elbo needs at least one term in log_p.')
  return total


def kl(terms: Terms, name: str) -> Array:
  """Returns the KL of a latent's posterior from its prior: the closed form, or else the sampled one.

  [B], nats.
  """
  return terms.stats.get(f'kl_{name}', terms.log_q[name] - terms.log_p[name])


def iwae(log_weights: Array) -> Array:
  """Returns the importance-weighted bound log 1/K sum_k exp(log_weight_k).

  In expectation it is never below the ELBO.

  Args:
    log_weights: [K, B], nats, of K independent samples.

  Returns:
    [B], nats.

  Reference: Burda et al., "Importance Weighted Autoencoders", 2016, equation 8.
  """
  return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def iwae_error(log_weights: Array) -> Array:
  """Returns the standard error of `iwae` by the delta method.

  sd(w) / mean(w) / sqrt(K) of the weights w.

  It is trustworthy where many samples are effective: of weights with a heavy tail, few samples have
  not seen the largest, and both the bound and this error are too small.

  Args:
    log_weights: [K, B], nats, of K independent samples.

  Returns:
    [B], nats; NaN for K = 1.
  """
  relative = _relative_weights(log_weights)
  return jnp.std(relative, axis=0, ddof=1) / math.sqrt(log_weights.shape[0])


def effective_samples(log_weights: Array) -> Array:
  """Returns the effective sample size (sum w)^2 / sum w^2 of the weights w.

  K where all are alike, 1 if one counts.

  Args:
    log_weights: [K, B], nats, of K independent samples.

  Returns:
    [B].

  Reference: Kong, "A note on importance sampling using standardized weights", 1992.
  """
  relative = _relative_weights(log_weights)  # their sum is K
  return log_weights.shape[0] ** 2 / jnp.sum(relative**2, axis=0)


def _relative_weights(log_weights: Array) -> Array:
  """Returns weights over their mean [K, B]; NaN where all are 0."""
  weights = jnp.exp(log_weights - jnp.max(log_weights, axis=0, keepdims=True))
  return weights / jnp.mean(weights, axis=0, keepdims=True)


def bits_per_dim(log_prob: Array, num_dims: int | Array, width: float) -> Array:
  """Returns the bits per dimension of images on a grid, from a log density of their dequantised version.

  With uniform noise of one bin's width added to the images (`data.pixels.dequantize`), the mean of the
  result is an upper bound on the code length of the discrete images. Without the noise it is not a
  bound: a density on a grid can be arbitrarily large.

  Args:
    log_prob: any shape, nats per image, or a lower bound on it.
    num_dims: D = H W C, or the number of pixels of each image that count, of the shape of `log_prob`.
    width: of one bin, in the units of the density: 2 / 255 for 8-bit images in [-1, 1].
  """
  return -log_prob / (num_dims * math.log(2)) - math.log2(width)


def negative_elbo(
  beta: float = 1.0,
  constraints: Mapping[str, constrained.Constraint] | None = None,
  axis_name: str | None = None,
  fit: alternating.Fit = alternating.DENSITY,
  weighting: Weighting | None = None,
) -> Objective:
  """Returns the objective: the mean over the batch of minus the ELBO, with KL terms weighted by beta.

  If a family has a prior of its parameters ('log_prior' in the stats), the log density of each image's
  parameters is added to the loss, but not to the ELBO: a maximum a posteriori fit, per image.
  Constraints on the mean of a statistic add their penalty to the loss, which then has a gradient by
  their multipliers as well; with one on 'kl_z' and a beta of 0, the multiplier is the beta of a
  beta-VAE. A `fit` may replace log p(x|z) with something else, and adds the loss of a network of
  blur kernels. The metrics are the loss, the ELBO at beta = 1 without prior, penalty or other loss, the
  mean of every term, and the multipliers.

  Args:
    beta: weight of the KL terms.
    constraints: by the name of a statistic; see `constraints.penalty`.
    axis_name: of the mapped axis over devices, if any; read by constraints and a white phase alone.
    fit: see `alternating`.
    weighting: how the KL terms are weighted, besides beta.
  """
  weighting = weighting or Weighting()
  constrained.check(constraints or {})

  def objective(
    terms: Terms, multipliers: dict[str, Any], step: Array | int = 0
  ) -> tuple[Array, dict[str, Array]]:
    log_prior = terms.stats.get('log_prior', 0)
    fitted = terms
    if fit != alternating.DENSITY:
      observed = alternating.log_likelihood(fit, terms, step, axis_name)
      fitted = terms._replace(log_p={**terms.log_p, 'x': observed})
    weight = _weight(beta, weighting, step, terms)
    loss = -jnp.mean(elbo(fitted, weight) + log_prior)
    if weighting.free_bits:
      loss = loss + weight * _made_free(terms, weighting.free_bits, axis_name)
    if constraints:
      penalty = constrained.penalty(constraints, multipliers, terms.stats, axis_name)
      loss = loss + penalty.astype(loss.dtype)
    reported = {f'multipliers/{name}': value for name, value in multipliers.items()}
    if fit.boundary is not None and terms.images is not None:
      reported['kernel_error'] = jnp.mean(alternating.kernel_error(terms.images, fit.boundary))
      loss = loss + reported['kernel_error']
    if any(part.reconstruction is not None for part in (fit, *fit.phases)):
      reported['reconstruction'] = -jnp.mean(fitted.log_p['x'])
    return loss, {'loss': loss, 'elbo': jnp.mean(elbo(terms)), **term_means(terms), **reported}

  return objective


def _weight(beta: float, weighting: Weighting, step: Array | int, terms: Terms) -> Any:
  """Returns the weight of the KL terms after this many steps."""
  if not weighting.warmup_steps:
    return beta
  dtype = next(iter(terms.log_p.values())).dtype
  return beta * jnp.minimum(jnp.asarray(step).astype(dtype) / weighting.warmup_steps, 1)


def _made_free(terms: Terms, free_bits: float, axis_name: str | None) -> Array:
  """Returns what max(mean KL, free_bits), summed over latents, is above the sum of mean KLs. []."""
  parts = []
  for name in terms.log_q:
    mean = jnp.mean(kl(terms, name))
    whole = jax.lax.stop_gradient(mean)
    if axis_name is not None:
      whole = jax.lax.pmean(whole, axis_name)
    parts.append(jnp.where(whole < free_bits, free_bits - mean, 0))
  return functools.reduce(jnp.add, parts)


def term_means(terms: Terms) -> dict[str, Array]:
  """Returns the batch mean of every term, named 'log_p/x', 'log_q/z', 'stats/kl_z' and so on."""
  means = {}
  for kind, group in (('log_p', terms.log_p), ('log_q', terms.log_q), ('stats', terms.stats)):
    means |= {f'{kind}/{name}': jnp.mean(term) for name, term in group.items()}
  return means
