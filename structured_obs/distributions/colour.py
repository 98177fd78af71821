"""Rotated colour channels around any density: r = A S s, with s a residual of the base.

A is a rotation of the C channels of each pixel and S one scale for each rotated channel. The colours of
photographs are nearly uncorrelated along gray, red-blue and green-magenta, so a base that takes channels
to be independent fits them far better there than along red, green and blue. The mean is in the image's
own channels.

The axes are the orthonormal cosine basis of C channels: for three, (1, 1, 1) / sqrt 3,
(1, 0, -1) / sqrt 2 and (1, -2, 1) / sqrt 6. A learned rotation turns them further, by one angle in each
plane of two rotated channels: it is orthogonal whatever the angles are.

Letters: H W C image height, width, channels; r = x - mean.
"""

import functools
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import option_values
from structured_obs.distributions import base, fits, fitting, linear
from structured_obs.linalg.products import matmul
from structured_obs.option_values import Range

Array = jax.Array
Family = base.Family

FEW = 4  # channels whose products are added one by one
SCALE = 'colour_log_scale'  # names of the outputs
ANGLES = 'colour_angles'


class Colour(NamedTuple):
  """Parameters of a density of rotated colour channels."""

  base: Any  # parameters of the base family; its mean is the mean
  log_scale: Array  # [C]  log of S
  angles: Array  # [C (C - 1) / 2]  radians, of the planes (0, 1), (0, 2), ..., (1, 2), ...


@option_values.checked('colour')
def family(
  inner: Family[Any],
  rotation: linear.Source = 'fixed',
  scale: linear.Source = 'predicted',
  max_scale: Annotated[float, Range(1, 1e15, above=True), linear.WITH_SCALE] = 1e3,
) -> Family[Colour]:
  """Returns the family of a base's distributions over rotated colour channels.

  Args:
    inner: the base, a family of densities.
    rotation: A: 'fixed' at the cosine basis, 'learned' for one rotation of all images, 'predicted' for
      each image.
    scale: S: 'fixed' at 1, 'learned' or 'predicted'. It multiplies the base's standard deviations.
    max_scale: largest entry of S, and the reciprocal of the smallest.

  Raises:
    TypeError, ValueError: an option is of another type or out of range, or the base is not a density.
  """
  sources = {SCALE: scale, ANGLES: rotation}

  def shapes(channels: int) -> dict[str, base.Shape]:
    return {SCALE: (channels,), ANGLES: (channels * (channels - 1) // 2,)}

  def outputs(image: base.ImageShape) -> dict[str, base.Shape]:
    every = shapes(image.channels)
    added = (linear.from_source(sources[name], name, shape) for name, shape in every.items())
    return {name: shape for part in added for name, shape in part.items() if 0 not in shape}

  def parameters(params: Any, own: dict[str, Array]) -> Colour:
    mean = inner.mean(params)
    zeros = {name: jnp.zeros_like(mean, shape=shape) for name, shape in shapes(mean.shape[-1]).items()}
    found = zeros | own
    log_scale = base.soft_clip(found[SCALE], -math.log(max_scale), math.log(max_scale))
    return Colour(params, log_scale, found[ANGLES])

  def start(sample: Any) -> dict[str, Any]:
    rotated = sample.residuals() @ axes(sample.image.channels)
    log_scale = fitting.log(np.sqrt(np.mean(np.square(rotated), axis=(0, 1, 2))))
    bounded = fits.Bounded(-math.log(max_scale), math.log(max_scale), 0.0)
    return {SCALE: bounded.output(log_scale - np.mean(log_scale))}

  return linear.family(inner, MAP, linear.Outputs(outputs, parameters, start))


def axes(channels: int) -> np.ndarray:
  """Returns the orthonormal cosine basis, one axis in each column. [C, C], float64."""
  place, wave = np.arange(channels)[:, None] + 0.5, np.arange(channels)
  basis = np.cos(np.pi * place * wave / channels)
  return basis / np.linalg.norm(basis, axis=0)


def rotation(params: Colour) -> Array:
  """Returns A, whose column k is the direction of rotated channel k. [C, C]."""
  return _checked(params)[0]


def _matrix(params: Colour, *_: Array) -> Array:
  """Returns A S. [C, C]."""
  turned, log_scale = _checked(params)
  return turned * jnp.exp(log_scale)[None]


def _inverse(params: Colour) -> Array:
  """Returns (A S)^-1 = S^-1 A^T. [C, C]."""
  turned, log_scale = _checked(params)
  return (turned * jnp.exp(-log_scale)[None]).T


def _checked(params: Colour) -> tuple[Array, Array]:
  """Checks the shapes; returns A and the log scales, NaN unless all are finite."""
  base.check_fields(params, Colour._fields)
  log_scale = base.check_shape('log_scale', params.log_scale, (None,))
  channels = len(log_scale)
  angles = base.check_shape('angles', params.angles, (channels * (channels - 1) // 2,))
  bad = jnp.sum(0 * log_scale) + jnp.sum(0 * angles)
  turned = jnp.asarray(axes(channels), log_scale.dtype) + bad
  planes = [(i, j) for i in range(channels) for j in range(i + 1, channels)]
  for angle, (i, j) in zip(angles, planes, strict=True):
    cosine, sine, one, other = jnp.cos(angle), jnp.sin(angle), turned[:, i], turned[:, j]
    turned = turned.at[:, i].set(cosine * one + sine * other).at[:, j].set(cosine * other - sine * one)
  return turned, log_scale + bad


def _multiply(matrix: Array, v: Array) -> Array:
  """Returns the product of a matrix [C, C] with the channels of every pixel. [H, W, C]."""
  v = base.check_shape('image', v, (None, None, len(matrix)))
  if len(matrix) > FEW:
    return matmul(v, matrix.T)
  # Over an axis of a few channels, a CPU takes several times as long for a matrix product.
  products = (v[..., j : j + 1] * matrix[None, None, :, j] for j in range(len(matrix)))
  return functools.reduce(jnp.add, products)


def _log_det(params: Colour, mean: Array) -> Array:
  log_scale = _checked(params)[1]
  base.check_shape('mean', mean, (None, None, len(log_scale)))
  return mean.shape[0] * mean.shape[1] * jnp.sum(log_scale)


MAP: linear.Map[Colour] = linear.Map(
  apply=lambda params, v: _multiply(_matrix(params), v),
  invert=lambda params, v: _multiply(_inverse(params), v),
  transpose=lambda params, v: _multiply(_matrix(params).T, v),
  invert_transposed=lambda params, v: _multiply(_inverse(params).T, v),
  log_det=_log_det,
  check=_log_det,
  by_pixel=_matrix,
  apply_squared=lambda params, v: _multiply(jnp.square(_matrix(params)), v),
  axes=rotation,
)
