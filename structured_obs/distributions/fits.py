"""The best outputs of each family for a sample of images: its `Family.fit`.

Every function returns outputs by name, in float64. The maximum is exact where the docstring does not
speak of L-BFGS.

Letters: N images; H W C image height, width, channels; D = H W C; R rank; K neighbours; M components.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, fitting, links
from structured_obs.distributions.fitting import Float64, Outputs, Sample
from structured_obs.linalg import regression, sparse_triangular, spectral, subspace

DENSE_SIZE = 1024  # D up to which all eigenpairs are computed at once
LEAST_SHARE = 1e-2  # of a pixel's variance that the start of factor analysis leaves to its own noise


class Bounded(NamedTuple):
  """A number that a family clips softly: value = soft_clip(output + offset, low, high)."""

  low: float
  high: float
  offset: float

  def output(self, values: Float64) -> Float64:
    """Returns the outputs of values; those beyond the ends are moved to them."""
    return fitting.unclip(values, self.low, self.high) - self.offset

  def value(self, outputs: Float64) -> Float64:
    """Returns the values of outputs."""
    return np.asarray(base.soft_clip(jnp.asarray(outputs + self.offset), self.low, self.high))


def diagonal(sample: Sample, log_scale: Bounded | None) -> Outputs:
  """Returns each pixel's mean and, unless its scale is fixed, its root mean square."""
  found = {'mean': sample.centre()}
  if log_scale is None:
    return found
  return found | {'log_scale': log_scale.output(fitting.log(sample.scales()))}


def low_rank(sample: Sample, rank: int, factor_scale: float, noise: float) -> Outputs:
  """Returns the outputs of `low_rank` with one given noise variance: probabilistic PCA.

  Args:
    sample: the images.
    rank: R.
    factor_scale: factor of the outputs.
    noise: variance of every pixel's own noise.

  Reference: Tipping and Bishop, "Probabilistic Principal Component Analysis", 1999, equation 7.
  """
  residuals = sample.residuals().reshape(len(sample.images), -1)
  variances, directions = _principal(residuals, min(rank, sample.image.size))
  factor = directions * np.sqrt(np.maximum(variances - noise, 0))
  return {'mean': sample.centre(), 'cov_factor': _columns(factor, sample.image, rank) / factor_scale}


def factor_analysis(
  sample: Sample, family: base.Family[Any], *, rank: int, factor_scale: float, noise: tuple[float, float]
) -> Outputs:
  """Returns the outputs of `low_rank` with a noise variance of each pixel's own, by L-BFGS.

  It starts from the probabilistic PCA of the pixels in units of their standard deviations.

  Args:
    sample: the images.
    family: the family.
    rank: R.
    factor_scale: factor of the outputs.
    noise: the smallest variance, and the one of an output of 0.
  """
  floor, middle = noise
  scale = np.maximum(sample.scales(), math.sqrt(2 * floor)).reshape(-1)
  residuals = sample.residuals().reshape(len(sample.images), -1) / scale
  known = min(rank, sample.image.size)
  variances, directions = _principal(residuals, known)
  left = np.sum(np.mean(np.square(residuals), axis=0)) - np.sum(variances)
  own = max(float(left) / max(scale.size - known, 1), LEAST_SHARE)
  factor = scale[:, None] * directions * np.sqrt(np.maximum(variances - own, 0))
  start = {
    'mean': sample.centre(),
    'cov_factor': _columns(factor, sample.image, rank) / factor_scale,
    'cov_diag': (_inverse_softplus(own * scale**2) - _inverse_softplus(middle - floor)).reshape(
      sample.image
    ),
  }
  return fitting.refine(family, start, sample)


def sparse_precision(
  sample: Sample, filter_size: int, channels: str, raw: bool, log_diag: Bounded
) -> Outputs:
  """Returns the regression of each pixel on its later neighbours.

  Args:
    sample: the images.
    filter_size: f.
    channels: how the channels are linked.
    raw: whether the outputs are entries of L instead of coefficients.
    log_diag: of the logarithms of L's diagonal.
  """
  image, neighbours = tuple(sample.image), len(sparse_triangular.offsets(filter_size))
  cross = links.cross_links(channels, neighbours, image[-1])
  pattern = links.interleaved(links.pattern(image[-1], neighbours, cross), image[-1])
  present = links.present(pattern, image).reshape(sample.image.size, -1)
  columns = image[1] * image[2]
  steps = np.asarray([down * columns + right for down, right in pattern.offsets], np.int64)
  places = np.where(present, np.arange(len(present))[:, None] + steps[None, :], 0)
  flat = sample.residuals().reshape(len(sample.images), -1)
  coefficients, left = regression.of_samples(flat, places, present)
  outputs = {
    'mean': sample.centre(),
    'log_diag': log_diag.output(-0.5 * fitting.log(left)).reshape(image),
  }
  grid = jnp.asarray(coefficients.reshape(image[0], columns, -1))
  linked = dict(zip(('off_diag', 'cross'), links.links_from_grid(grid, pattern, image), strict=True))
  scale = -np.exp(log_diag.value(outputs['log_diag']))[..., None] if raw else 1.0
  return outputs | {name: np.asarray(value) * scale for name, value in linked.items() if value.size}


def dense_precision(sample: Sample, raw: bool, log_diag: Bounded) -> Outputs:
  """Returns the regression of each pixel on all later ones, from the images' covariance.

  A pixel that is constant, or determined by later ones, explains no other.

  Args:
    sample: the images.
    raw: whether the outputs are entries of L instead of coefficients.
    log_diag: of the logarithms of L's diagonal.

  Raises:
    ValueError: there are too few images: their covariance is singular whatever they show.
  """
  image, size = tuple(sample.image), sample.image.size
  needed = size + (sample.mean is None)
  if len(sample.images) < needed:
    raise ValueError(
      f'dense_precision needs at least {needed} images to fit {size} pixels; got {len(sample.images)}. '
      'sparse_precision and low_rank can be fitted to fewer.'
    )
  flat = sample.residuals().reshape(len(sample.images), size)
  coefficients, left = _on_later_ones(flat.T @ flat / len(flat))
  outputs = {
    'mean': sample.centre(),
    'log_diag': log_diag.output(-0.5 * fitting.log(left)).reshape(image),
  }
  if size == 1:
    return outputs
  column, row = np.triu_indices(size, 1)
  scale = -np.exp(log_diag.value(outputs['log_diag'])).reshape(-1)[column] if raw else 1.0
  return outputs | {'off_diag': coefficients[column, row] * scale}


def blurred_noise(sample: Sample, family: base.Family[Any], basis: spectral.Basis) -> Outputs:
  """Returns the kernel, by L-BFGS, whose eigenvalues fit the mean periodogram of the residuals best.

  One image with that periodogram stands for all of them.

  Args:
    sample: the images.
    family: the family.
    basis: in which its covariance is diagonal.
  """
  power = jax.vmap(lambda r: spectral.power(basis.forward(r)))(jnp.asarray(sample.residuals()))
  root = jnp.sqrt(jnp.mean(power, axis=0))
  parts = (root, jnp.zeros_like(root)) if basis is spectral.PERIODIC else (root,)
  image = np.asarray(basis.inverse(parts, sample.image.width))
  start = fitting.plain_outputs(family, sample)
  return fitting.refine(
    family, start, Sample((start['mean'] + image)[None], start['mean'], sample.max_iterations)
  )


def logistic_mixture(sample: Sample, family: base.Family[Any], log_scale: Bounded) -> Outputs:
  """Returns the outputs of `discretized_logistic_mixture`, by L-BFGS from quantiles of each pixel.

  Args:
    sample: the images, on the grid.
    family: the family.
    log_scale: of the logarithms of the scales.
  """
  start = fitting.plain_outputs(family, sample)
  components = start['logits'].shape[-1]
  quantiles = np.quantile(sample.images, (np.arange(components) + 0.5) / components, axis=0)
  spread = np.maximum(sample.scales() / components, 0.5 / max(family.levels - 1, 1))
  scales = np.broadcast_to(log_scale.output(np.log(spread))[..., None], (*spread.shape, components))
  shape = start['locs'].shape
  start |= {
    'locs': start['locs'] + np.moveaxis(quantiles, 0, -1).reshape(shape),
    'log_scales': start['log_scales'] + scales.reshape(shape),
  }
  return fitting.refine(family, start, sample)


def _principal(residuals: Float64, k: int) -> tuple[Float64, Float64]:
  """Returns the leading k variances [k] and directions [D, k] of residuals [N, D]."""
  count, size = residuals.shape
  if size > DENSE_SIZE:
    product = lambda basis: residuals.T @ (residuals @ basis) / count  # noqa: E731
    return subspace.leading(product, size, k)
  values, vectors = np.linalg.eigh(residuals.T @ residuals / count)
  return values[::-1][:k], vectors[:, ::-1][:, :k]


def _columns(factor: Float64, image: base.ImageShape, rank: int) -> Float64:
  """Returns a factor [D, k] as images with empty columns up to a rank. [H, W, C, R]."""
  return np.pad(factor, ((0, 0), (0, rank - factor.shape[1]))).reshape(*image, rank)


def _on_later_ones(covariance: Float64) -> tuple[Float64, Float64]:
  """Returns regressions on all later variables: coefficients [D, D] by rows, variances [D]."""
  rest = covariance[::-1, ::-1].copy()
  size = len(rest)
  factor, left = np.eye(size), np.zeros(size)
  least = regression.DEPENDENT * np.diagonal(rest)
  for k in range(size):
    left[k] = max(rest[k, k], 0)
    if left[k] <= least[k]:
      continue
    factor[k + 1 :, k] = rest[k + 1 :, k] / left[k]
    rest[k + 1 :, k + 1 :] -= np.outer(factor[k + 1 :, k], rest[k, k + 1 :])
  return (np.eye(size) - np.linalg.inv(factor))[::-1, ::-1], left[::-1]


def _inverse_softplus(values: Float64 | float) -> Float64:
  return np.asarray(values + np.log(-np.expm1(-np.asarray(values))))
