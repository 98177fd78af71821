"""The best outputs of a wrapper for a sample of images, from fits of its base: its `Family.fit`.

Each alternates between a fit of the base and its own part, or starts from moments, and then refines all
outputs together by L-BFGS.

Letters: N images; H W C image height, width, channels; D = H W C; K components; R rank.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, fitting
from structured_obs.distributions.fits import Bounded
from structured_obs.distributions.fitting import Float64, Outputs, Sample
from structured_obs.linalg import products

Array = jax.Array
Family = base.Family

ROUNDS = 12  # of alternating fits, before all outputs are refined together
ENOUGH = 1e-6  # nats per pixel: less gain ends the rounds
_squared_distances = jax.jit(fitting.squared_distances, static_argnums=0)
SOFTNESS = 0.1  # share of an image's weight that is spread over all components at the start


def mapped(
  sample: Sample,
  family: Family[Any],
  *,
  inner: Family[Any],
  invert: Callable[[Any, Array], Array],
  parameters: Callable[[Any, dict[str, Array]], Any],
  own: Callable[[Sample], Outputs],
) -> Outputs:
  """Returns the outputs of a linear map around a base: the base's fit to residuals mapped back.

  Args:
    sample: the images.
    family: the wrapper.
    inner: the base.
    invert: (params, v [H, W, C]) -> T^-1 v.
    parameters: (parameters of the base, own outputs) -> params.
    own: sample -> the map's own outputs, from moments.
  """
  mean, added = sample.centre(), own(sample)
  plain = fitting.from_outputs(inner, fitting.plain_outputs(inner, sample), np.float64)
  params = parameters(plain, {name: jnp.asarray(value) for name, value in added.items()})
  back = jax.vmap(invert, (None, 0))(params, jnp.asarray(sample.residuals()))
  start = _of_residuals(inner, sample, mean, np.asarray(back)) | added
  free_mean = family.gaussian is None and sample.mean is None
  return fitting.refine(family, start, sample) if added or free_mean else start


def student(
  sample: Sample,
  family: Family[Any],
  *,
  inner: Family[Any],
  nu: float,
  trained: tuple[str, Bounded] | None,
  temperature: float,
) -> Outputs:
  """Returns the outputs of a Student t: weighted fits of the base, nu by likelihood (ECME).

  The weight of an image is (nu + D) / (nu + q), q its squared distance from the mean.

  Args:
    sample: the images.
    family: the wrapper.
    inner: the base, a Gaussian family.
    nu: degrees of freedom, which are fixed or only the start.
    trained: the name and bounds of the output of log nu, or None.
    temperature: factor of the base's standard deviations.

  Reference: Liu and Rubin, "ML estimation of the t distribution using EM and its extensions, ECM and
  ECME", 1995.
  """
  assert inner.gaussian is not None
  count, size = len(sample.images), sample.image.size
  weights, mean = np.ones(count), sample.centre()
  best, last = Outputs(), -math.inf
  for _ in range(max(1, min(ROUNDS, sample.max_iterations))):
    if sample.mean is None:
      mean = np.tensordot(weights, sample.images, 1) / np.sum(weights)
    factor = np.sqrt(weights / np.mean(weights))[:, None, None, None] / temperature
    found = _of_residuals(inner, sample, mean, (sample.images - mean) * factor)
    params = fitting.from_outputs(inner, found, np.float64)
    distances = _distances(inner, params, sample.images - mean) / temperature**2
    if trained is not None:
      name, bounded = trained
      nu = _best_dof(distances, size, bounded)
      found |= {name: bounded.output(np.log(nu))}
    log_det = float(inner.gaussian.log_det(params)) / size + 2 * math.log(temperature)
    value = _radial_log_prob(distances, size, nu) / size - 0.5 * log_det
    if value > last:
      best = found
    if value < last + ENOUGH:
      break
    weights, last = (nu + size) / (nu + distances), value
  return fitting.refine(family, best, sample)


def mixture(
  sample: Sample,
  family: Family[Any],
  *,
  inner: Family[Any],
  sizes: list[float],
  names: tuple[str, str | None],
  responsibilities: Callable[[Any, Array], Array],
) -> Outputs:
  """Returns the outputs of a mixture: weighted fits of its components (EM) from groups of the images.

  The groups are the images of small to large residuals, or with a mean of each component's own, images
  that are alike. A base that is not Gaussian starts from one fit of all images to every component.

  Args:
    sample: the images.
    family: the wrapper.
    inner: the base.
    sizes: [K], factors of the components' standard deviations.
    names: of the outputs of the logits and of the offsets of the means, or None.
    responsibilities: (params, x) -> [K].
  """
  centre, components = sample.centre(), len(sizes)
  shares = _groups(sample, components, names[1] is not None)
  compute = jax.jit(jax.vmap(responsibilities, (None, 0)))
  found, last = Outputs(), -math.inf
  for _ in range(max(1, min(ROUNDS, sample.max_iterations))):
    parts, offsets = list[Outputs](), list[Float64]()
    for weights, scale in zip(shares.T, sizes, strict=True):
      mean = np.tensordot(weights, sample.images, 1) / np.sum(weights) if names[1] else centre
      factor = np.sqrt(weights / np.mean(weights)) if inner.gaussian else np.ones(len(weights))
      residuals = (sample.images - mean) * factor[:, None, None, None] / scale
      parts.append(_of_residuals(inner, sample, mean, residuals))
      offsets.append(mean - centre)
    stacked = {name: np.stack([part[name] for part in parts], axis=-1) for name in parts[0]}
    found = stacked | {'mean': centre, names[0]: np.log(np.mean(shares, axis=0))}
    if names[1]:
      found[names[1]] = np.stack(offsets, axis=-1)
    params = fitting.from_outputs(family, found, np.float64)
    value = fitting.mean_log_prob(family, params, sample.images) / sample.image.size
    if not inner.gaussian or value < last + ENOUGH:
      break
    shares, last = np.asarray(compute(params, jnp.asarray(sample.images))) + 1e-12, value
  return fitting.refine(family, found, sample)


def low_rank_update(
  sample: Sample, family: Family[Any], *, inner: Family[Any], rank: int, factor: tuple[str, float]
) -> Outputs:
  """Returns the outputs of a base plus P P^T: fits of the base to what the columns leave open (EM).

  It starts from the leading principal components of residuals that the base has whitened.

  Args:
    sample: the images.
    family: the wrapper.
    inner: the base, a Gaussian family.
    rank: R.
    factor: the name of the output of P, and the scale that multiplies it.
  """
  assert inner.gaussian is not None
  mean, flat, (name, unit) = sample.centre(), sample.residuals().reshape(len(sample.images), -1), factor
  part = _of_residuals(inner, sample, mean, sample.residuals())
  if not rank:
    return part | {name: np.zeros((*sample.image, 0))}
  columns = _leading_columns(inner, fitting.from_outputs(inner, part, np.float64), sample, rank)
  found, last = Outputs(), -math.inf
  for _ in range(max(1, min(ROUNDS, sample.max_iterations))):
    found = part | {name: columns.reshape(*sample.image, rank) / unit}
    params = fitting.from_outputs(family, found, np.float64)
    value = fitting.mean_log_prob(family, params, sample.images) / sample.image.size
    if value < last + ENOUGH:
      break
    own, last = fitting.from_outputs(inner, part, np.float64), value
    # The posterior of the noise w behind the columns: mean c, covariance K^-1.
    images = jnp.asarray(columns.T.reshape(rank, *sample.image))
    weighed = jax.vmap(inner.gaussian.precision_matvec, (None, 0))(own, images).reshape(rank, -1)
    spread = _inverse(np.eye(rank) + np.asarray(products.matmul(weighed, jnp.asarray(columns))))
    expected = flat @ np.asarray(weighed).T @ spread
    moments = expected.T @ expected + len(flat) * spread
    columns = flat.T @ expected @ _inverse(moments)
    # What is left has the mean c's residuals, and the columns' share of the covariance.
    extra = math.sqrt(len(flat)) * np.asarray(np.linalg.cholesky(spread)).T @ columns.T
    together = np.concatenate([flat - expected @ columns.T, extra])
    together *= math.sqrt(len(together) / len(flat))
    part = _of_residuals(inner, sample, mean, together.reshape(-1, *sample.image))
  return fitting.refine(family, found, sample)


def _of_residuals(inner: Family[Any], sample: Sample, mean: Float64, residuals: Float64) -> Outputs:
  """Returns the outputs of the base that fit residuals [N, H, W, C] around a given mean."""
  return fitting.outputs(inner, sample._replace(images=mean + residuals, mean=mean))


def _inverse(matrix: Float64) -> Float64:
  return np.asarray(np.linalg.inv(matrix), np.float64)


def _distances(inner: Family[Any], params: Any, residuals: Float64) -> Float64:
  """Returns the squared distance q of each residual. [N]."""
  assert inner.gaussian is not None
  return np.asarray(_squared_distances(inner.gaussian, params, jnp.asarray(residuals)))


def _radial_log_prob(distances: Float64, size: int, nu: float) -> float:
  """Returns the mean log density of a Student t without its log-determinant. Nats."""
  constant = math.lgamma((nu + size) / 2) - math.lgamma(nu / 2) - 0.5 * size * math.log(nu * math.pi)
  return constant - 0.5 * (nu + size) * float(np.mean(np.log1p(distances / nu)))


def _best_dof(distances: Float64, size: int, bounds: Bounded) -> float:
  """Returns the nu of the largest likelihood, in ever smaller intervals of log nu around the best."""
  low, high = bounds.low, bounds.high
  for _ in range(12):
    trials = np.linspace(low, high, 25)
    values = [_radial_log_prob(distances, size, math.exp(trial)) for trial in trials]
    k = int(np.argmax(values))
    low, high = float(trials[max(k - 1, 0)]), float(trials[min(k + 1, 24)])
  return math.exp((low + high) / 2)


def _groups(sample: Sample, components: int, by_likeness: bool) -> Float64:
  """Returns the share of each image in each component at the start. [N, K]."""
  flat = sample.residuals().reshape(len(sample.images), -1)
  if by_likeness:
    group = _k_means(flat, components)
  else:
    order = np.argsort(np.argsort(np.sum(np.square(flat), axis=1), kind='stable'), kind='stable')
    group = order * components // len(flat)
  return (1 - SOFTNESS) * np.eye(components)[group] + SOFTNESS / components


def _k_means(flat: Float64, components: int) -> np.ndarray:
  """Returns the number of each image's group. [N]."""
  rng = np.random.default_rng(0)
  centres = flat[rng.choice(len(flat), 1)]
  while len(centres) < components:  # far from those chosen so far
    nearest = np.min(np.sum((flat[:, None] - centres[None]) ** 2, axis=-1), axis=1)
    centres = np.concatenate([centres, flat[[int(np.argmax(nearest))]]])
  group = np.zeros(len(flat), int)
  for _ in range(20):
    squares = np.sum(centres**2, axis=1) - 2 * flat @ centres.T
    group = np.argmin(squares, axis=1)
    for k in range(components):
      if np.any(group == k):
        centres[k] = np.mean(flat[group == k], axis=0)
  return group


def _leading_columns(inner: Family[Any], params: Any, sample: Sample, rank: int) -> Float64:
  """Returns what the leading principal components of whitened residuals add to their noise. [D, R]."""
  assert inner.gaussian is not None
  whiten = inner.gaussian.whiten
  residuals = sample.residuals()
  count, size = len(residuals), sample.image.size

  def white(residual: Array) -> Array:
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(whiten(params, residual))])

  whitened = np.asarray(jax.jit(lambda r: jax.lax.map(white, r))(jnp.asarray(residuals)))
  weights, singular, _ = np.linalg.svd(whitened / math.sqrt(count), full_matrices=False)
  variances = singular[:rank] ** 2
  own = (np.sum(singular**2) - np.sum(variances)) / max(size - len(variances), 1)
  share = np.sqrt(np.maximum(variances - own, 1e-6) / np.maximum(variances, 1e-6))
  columns = residuals.reshape(count, size).T @ weights[:, : len(share)] * share / math.sqrt(count)
  rng = np.random.default_rng(0)  # columns beyond those known
  found = 1e-3 * math.sqrt(np.mean(residuals**2)) * rng.standard_normal((size, rank))
  found[:, : len(share)] += columns
  return found
