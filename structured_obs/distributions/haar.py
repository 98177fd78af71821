"""A multi-scale covariance: a base's covariance of the Haar coefficients of the residual.

cov = H^T S R S H with H the orthonormal Haar transform (`linalg.haar`), R the covariance of the base and
S one scale for each band and channel. Over independent pixels, every coefficient has a variance of its
own: pixels are correlated over all distances up to 2^levels, at the cost of independent ones. The
transform leaves each coefficient where its part of the image is, so a base that links neighbours links
coefficients of neighbouring parts. The mean is that of the image.

Letters: H W C image height, width, channels; L levels; r = x - mean.
"""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import option_values
from structured_obs.distributions import base, fits, fitting, linear
from structured_obs.linalg import haar
from structured_obs.option_values import Range

Array = jax.Array
Family = base.Family

NAME = 'haar_log_scale'  # name of the output


class Haar(NamedTuple):
  """Parameters of a Gaussian, or another density, of Haar coefficients."""

  base: Any  # parameters of the base family; its mean is the mean
  log_scale: Array  # [3 L + 1, C]  log of S, for the bands in the order of `linalg.haar.bands`


@option_values.checked('haar')
def family(
  inner: Family[Any],
  levels: Annotated[int, Range(1, 16)] = 4,
  scale: linear.Source = 'learned',
  max_scale: Annotated[float, Range(1, 1e15, above=True), linear.WITH_SCALE] = 1e3,
) -> Family[Haar]:
  """Returns the family of a base's distributions over Haar coefficients.

  Args:
    inner: the base, a family of densities.
    levels: L; at most as many as the image can be halved are used.
    scale: S: 'fixed' at 1, 'learned' for one set of all images, 'predicted' for each image. It
      multiplies the base's standard deviations.
    max_scale: largest entry of S, and the reciprocal of the smallest.

  Raises:
    TypeError, ValueError: an option is of another type or out of range, or the base is not a density.
  """

  def outputs(image: base.ImageShape) -> dict[str, base.Shape]:
    return linear.from_source(scale, NAME, (haar.BANDS * levels + 1, image.channels))

  def parameters(params: Any, own: dict[str, Array]) -> Haar:
    mean = inner.mean(params)
    shape = (haar.BANDS * levels + 1, mean.shape[-1])
    output = own.get(NAME, jnp.zeros_like(mean, shape=shape))
    return Haar(params, base.soft_clip(output, -math.log(max_scale), math.log(max_scale)))

  def start(sample: Any) -> dict[str, Any]:
    bounded = fits.Bounded(-math.log(max_scale), math.log(max_scale), 0.0)
    return {NAME: bounded.output(_log_scales(sample, levels))}

  return linear.family(inner, _map(), linear.Outputs(outputs, parameters, start))


def _log_scales(sample: fitting.Sample, levels: int) -> fitting.Float64:
  """Returns the log root mean square of each band in units of all of them. [3 L + 1, C]."""
  analyse = jax.vmap(lambda v: haar.forward(v, levels))
  squares = np.mean(np.square(analyse(jnp.asarray(sample.residuals()))), axis=0)
  height, width, _ = sample.image
  bands, unit = haar.bands(height, width, levels), np.mean(squares, axis=(0, 1))
  found = np.tile(unit, (haar.BANDS * levels + 1, 1))  # of a band that no coefficient is in
  for band in np.unique(bands):
    found[band] = np.mean(squares[bands == band], axis=0)
  return fitting.log(np.sqrt(found)) - fitting.log(np.sqrt(unit))


def _map() -> linear.Map[Haar]:
  """Returns the map from scaled coefficients to residuals."""

  def synthesise(params: Haar, v: Array) -> Array:
    return haar.inverse(_scale(params, v) * base.upcast(v), _levels(params))

  def analyse(params: Haar, v: Array) -> Array:
    return haar.forward(base.upcast(v), _levels(params)) / _scale(params, v)

  def transposed(params: Haar, v: Array) -> Array:
    return _scale(params, v) * haar.forward(base.upcast(v), _levels(params))

  def inverse_transposed(params: Haar, v: Array) -> Array:
    return haar.inverse(base.upcast(v) / _scale(params, v), _levels(params))

  def log_det(params: Haar, mean: Array) -> Array:
    return jnp.sum(_log_scale(params, mean))

  def squared(params: Haar, v: Array) -> Array:
    squares = base.upcast(v) * jnp.square(_scale(params, v))
    return haar.inverse(squares, _levels(params), squared=True)

  return linear.Map(
    synthesise, analyse, transposed, inverse_transposed, log_det, _log_scale, apply_squared=squared
  )


def _levels(params: Haar) -> int:
  base.check_fields(params, Haar._fields)
  return (jnp.shape(params.log_scale)[0] - 1) // haar.BANDS


def _scale(params: Haar, like: Array) -> Array:
  """Returns S, one for each coefficient. [H, W, C]."""
  return jnp.exp(_log_scale(params, like))


def _log_scale(params: Haar, like: Array) -> Array:
  """Checks the shapes; returns the log scale of every coefficient, NaN unless all are finite.

  [H, W, C].
  """
  height, width, channels = like.shape
  base.check_fields(params, Haar._fields)
  log_scale = base.check_shape('log_scale', params.log_scale, (None, channels))
  if len(log_scale) % haar.BANDS != 1 or len(log_scale) == 1:
    raise ValueError(f'log_scale must have 3 rows for each level and one more; got {len(log_scale)}.')
  return base.all_or_nan(log_scale)[haar.bands(height, width, _levels(params))]
