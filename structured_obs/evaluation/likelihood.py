"""Scores a whole split by likelihoods, exactly and per image: padded rows never enter a mean.

A score does not depend on the batch size, the chunk or the devices; see `passes`.

Letters: N images of the split; B images at a time; K importance samples.
"""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from structured_obs.distributions import elliptical
from structured_obs.evaluation import passes
from structured_obs.evaluation.passes import Pass, Where
from structured_obs.models import masks
from structured_obs.models.base import Bound, Model, Variables
from structured_obs.objectives import bounds
from structured_obs.objectives.terms import Terms, log_weight, sum_terms

Array = jax.Array


class Settings(NamedTuple):
  """How to score a split."""

  levels: int  # gray levels of the images; also the width of the dequantisation noise. 0: real numbers
  importance_samples: int = 500  # K
  chunk: int = 50  # importance samples at once; with the batch it bounds the memory
  batch_size: int = 64  # images at a time over all devices, rounded up to a multiple of them
  dequantize: bool = True  # add uniform noise of one level's width, one draw per image


class Scores(NamedTuple):
  """Scores per image, [N] float64 each. Log densities are of pixels in [-1, 1], in nats."""

  elbo: np.ndarray  # mean over K samples of log p(x|z), minus the KL: minus the sum of the parts
  kl: np.ndarray  # KL(q(z|x) || p(z)) of all latents, in closed form if the model has one
  log_prob: np.ndarray  # log p(x|z) at the posterior's mean
  iwae: np.ndarray  # with the K samples of the ELBO
  # Squared distance per dimension, q / D; NaN for families that are neither Gaussian nor a Student t.
  mahalanobis: np.ndarray
  inverse_dof: np.ndarray  # 1 / nu of a Student t; 0 for other families
  iwae_error: np.ndarray  # standard error of `iwae`, over the K samples; NaN for K = 1
  effective_samples: np.ndarray  # of the K: from 1 to K, which equal weights reach
  counted: np.ndarray | None = None  # pixels that count, every channel one; None: all of each image
  # Parts that sum to minus the ELBO: 'RE_x' is -log p(x|..) of an observed variable, 'KL_z' of a latent.
  parts: Mapping[str, np.ndarray] = MappingProxyType({})

  def by_name(self) -> dict[str, np.ndarray]:
    """Returns the arrays [N], without the parts and what does not apply."""
    found = self._asdict()
    return {name: found[name] for name in found if name != 'parts' and found[name] is not None}


class Summary(NamedTuple):
  """Mean over images."""

  mean: float
  standard_error: float  # NaN for a single image
  num_images: int


def split_scores(
  bound: Bound,
  images: np.ndarray,
  key: Array,
  settings: Settings,
  where: Where = passes.HERE,
) -> Scores:
  """Scores every image of a split.

  An image's log density is a large number, of which float32 keeps few decimals. Differences from the
  first sample are therefore averaged over the samples, and added to it in float64.

  Args:
    bound: the model; its variables are on one device or replicated over the mesh.
    images: [N, H, W, C] uint8 levels, or real numbers, as stored.
    key: of the evaluation; use the same one for models to be compared.
    settings: how to score.
    where: devices to run on, and the directory to keep unfinished work in.

  Raises:
    ValueError: there are no images, or a setting is not positive.
  """
  counts = settings.importance_samples, settings.chunk, settings.batch_size
  for name, count in zip(('importance_samples', 'chunk', 'batch_size'), counts, strict=True):
    if count < 1:
      raise ValueError(f'{name}={count} is out of range; it must be positive.')
  if not len(images):
    raise ValueError('This split has no images to score; choose another.')
  found = passes.over_images(_pass(_score, bound.model, settings), bound.variables, images, key, where)
  observed = {f'RE_{name}': -(a + found['offset'][name]) for name, a in found['anchor'].items()}
  # jit returns names in alphabetical order; z comes before u, from which it is drawn.
  latent = {f'KL_{name}': found['kl'][name] for name in sorted(found['kl'], reverse=True)}
  nothing = np.zeros(len(images))
  return Scores(
    elbo=-sum((*observed.values(), *latent.values()), start=nothing),
    kl=sum(latent.values(), start=nothing),
    log_prob=found['log_prob'],
    iwae=sum(found['anchor'].values(), start=nothing) + found['iwae'],
    mahalanobis=found['mahalanobis'],
    inverse_dof=found['inverse_dof'],
    iwae_error=found['iwae_error'],
    effective_samples=found['effective_samples'],
    counted=found['counted'] if bound.model.masked else None,
    parts=observed | latent,
  )


def split_elbo(
  bound: Bound,
  images: np.ndarray,
  key: Array,
  levels: int,
  *,
  batch_size: int = 64,
  mesh: Mesh | None = None,
  dequantize: bool = True,
) -> np.ndarray:
  """Returns a one-sample ELBO per image, [N] float64, in nats of a density of pixels in [-1, 1].

  The quick score of a validation. On several hosts every process passes the same images and gets the
  whole result.

  Args:
    bound: the model; its variables are on one device or replicated over the mesh.
    images: [N, H, W, C] uint8 levels, or real numbers, as stored.
    key: of the evaluation.
    levels: gray levels of the images; 0 for real numbers.
    batch_size: images at a time over all devices.
    mesh: devices to run on; None for the first local device.
    dequantize: whether to add uniform noise of one level's width.
  """
  settings = Settings(levels, batch_size=batch_size, dequantize=dequantize)
  scored = _pass(_one_sample_elbo, bound.model, settings)
  if not len(images):
    return np.zeros(0)
  return passes.over_images(scored, bound.variables, images, key, Where(mesh))


def summarize(values: np.ndarray) -> Summary:
  """Returns the mean of the values [N] and its standard error.

  Both are NaN if any value is NaN or infinite; `finite.sentences` says which.
  """
  values = np.asarray(values, np.float64)
  if not (values.size and np.isfinite(values).all()):
    return Summary(math.nan, math.nan, values.size)
  spread = float(values.std(ddof=1)) if values.size > 1 else math.nan
  return Summary(float(values.mean()), spread / math.sqrt(values.size), values.size)


def paired_difference(first: np.ndarray, second: np.ndarray) -> Summary:
  """Returns the mean of first - second, both [N] and of the same images, and its standard error.

  Raises:
    ValueError: the arrays differ in shape.
  """
  if first.shape != second.shape:
    raise ValueError(
      'A paired difference needs scores of the same images; got arrays of shape '
      f'{first.shape} and {second.shape}.'
    )
  with np.errstate(invalid='ignore'):  # the difference of two infinite values is NaN
    return summarize(first - second)


def _pass(measure: Callable[..., Any], model: Model, settings: Settings) -> Pass:
  """Returns the pass over images with `measure`, which gets the settings as its options."""
  return Pass(
    measure, model, settings.levels, settings.dequantize, settings.batch_size, settings, 'likelihoods'
  )


def _one_sample_elbo(job: Pass, variables: Variables, keys: Array, x: Array) -> Array:
  return bounds.elbo(job.bound(variables).terms(keys, x))


def _score(job: Pass, variables: Variables, keys: Array, x: Array) -> dict[str, Any]:
  """Scores one batch, [B] each: 'offset' and 'iwae' relative to 'anchor', see `split_scores`."""

  def draw(sample: Array) -> Terms:
    sample_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, sample)
    return job.bound(variables).terms(sample_keys, x)

  def terms(sample: Array) -> tuple[dict[str, Array], dict[str, Array], Array]:
    observed, latent = _split_terms(draw(sample))
    kl = {name: bounds.kl(latent, name) for name in latent.log_q}
    return observed.log_p, kl, log_weight(latent) if kl else jnp.zeros(len(x), x.dtype)

  samples = jnp.arange(job.options.importance_samples, dtype=jnp.int32)
  log_p, kl, of_latents = jax.lax.map(terms, samples, batch_size=job.options.chunk)
  first = {name: values[0] for name, values in log_p.items()}
  anchor = {name: jnp.where(jnp.isfinite(values), values, 0) for name, values in first.items()}
  offset = {name: values - anchor[name][None] for name, values in log_p.items()}
  weights = sum_terms(offset) + of_latents
  family, counted = job.model.family, masks.counted(job.model, x)
  params = job.bound(variables).predict(keys, x)
  distance, inverse_dof = jnp.full_like(weights[0], math.nan), jnp.zeros_like(weights[0])
  if elliptical.has_covariance(family):
    distance = masks.distance(job.model, params, x)
    inverse_dof = jax.vmap(functools.partial(elliptical.inverse_dof, family))(params)
  return {
    'anchor': anchor,
    **jax.tree.map(lambda values: jnp.mean(values, axis=0), {'offset': offset, 'kl': kl}),
    'iwae': bounds.iwae(weights),
    'iwae_error': bounds.iwae_error(weights),
    'effective_samples': bounds.effective_samples(weights),
    'log_prob': masks.log_prob(job.model, params, x),
    'counted': counted,
    'mahalanobis': distance / (counted if job.model.masked else job.model.image.size),
    'inverse_dof': inverse_dof,
  }


def _split_terms(terms: Terms) -> tuple[Terms, Terms]:
  """Splits the terms into those of observed variables and those of latents."""
  observed = {name: term for name, term in terms.log_p.items() if name not in terms.log_q}
  latent = {name: terms.log_p[name] for name in terms.log_q}
  return Terms(observed, {}, {}), Terms(latent, terms.log_q, terms.stats)
