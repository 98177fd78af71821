# One file of more than 300 lines: the fit of any family, its checks and its compiled functions.
"""Fits of a family's parameters to a set of images, by the largest likelihood.

`fit` takes any family. One that knows its optimum, or a good start, gives it as `Family.fit`; any other
starts from its plain white distribution. What has no closed form is found by L-BFGS over the family's
unconstrained outputs, so that every result is one that a network could emit: fixed options stay as they
are, and bounded scales stay within their bounds. All of it runs in float64.

Letters: N images; H W C image height, width, channels; D = H W C.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import ArrayLike, NDArray

from structured_obs.distributions import base, elliptical, radial
from structured_obs.linalg import minimise

Array = jax.Array
Float64 = NDArray[np.float64]
Outputs = dict[str, Float64]
P = TypeVar('P')  # a family's parameters

MAX_ITERATIONS = 300  # of L-BFGS
PLATEAU = 1e-7  # nats per pixel that 20 more steps must gain
TOGETHER = 256  # images whose densities are computed at once
COMPRESSED_SIZE = 1024  # D up to which many images are replaced by D others of the same second moments
PERTURBATION = 1e-2  # of outputs at the start, where nothing is known: parts that are alike come apart
ON_GRID = 1e-3  # as in `discretized_logistic_mixture`


class Sample(NamedTuple):
  """Images to fit a family to. A family's `fit` maps them to its outputs."""

  images: Float64  # [N, H, W, C]
  mean: Float64 | None  # [H, W, C]; None where it is to be found
  max_iterations: int  # of whatever is iterated

  @property
  def image(self) -> base.ImageShape:
    """Size of one image."""
    return base.ImageShape(*self.images.shape[1:])

  def centre(self) -> Float64:
    """Returns the mean that is given, or that of the images: the best one of any Gaussian. [H, W, C]."""
    return np.mean(self.images, axis=0) if self.mean is None else self.mean

  def residuals(self) -> Float64:
    """Returns the images less the centre. [N, H, W, C]."""
    return self.images - self.centre()

  def scales(self) -> Float64:
    """Returns the root mean square of each pixel's residual. [H, W, C]."""
    return np.sqrt(np.mean(np.square(self.residuals()), axis=0))


def fit(
  family: base.Family[P],
  images: ArrayLike,
  mean: ArrayLike | None = None,
  max_iterations: int = MAX_ITERATIONS,
) -> P:
  """Returns the parameters of one distribution for all of these images, of the largest likelihood.

  The result has the images' type. It maximises the likelihood of what the family's options leave free:
  a fixed noise variance stays, and scales stay within their bounds, so that constant pixels do no harm.
  A prior of the parameters has no part in it. With closed forms: `diagonal`, `sparse_precision`,
  `dense_precision`, and `low_rank` with a fixed noise. Others come from L-BFGS: a maximum near a good
  start. `mean_log_prob` reports the attained value.

  Args:
    family: any family or wrapper.
    images: [N, H, W, C], floating-point; on the family's grid where it has gray levels.
    mean: [H, W, C] or [], kept as it is: 0 where `images` are residuals. None fits it too.
    max_iterations: of L-BFGS, and of alternating steps where a wrapper takes them.

  Raises:
    TypeError: the images are not floating-point numbers.
    ValueError: too few images for the family, a wrong shape, or a value that is not finite.
  """
  sample, dtype = _checked(family, images, mean, max_iterations)
  with jax.enable_x64(True):
    return from_outputs(family, outputs(family, sample), dtype)


def mean_log_prob(family: base.Family[P], params: P, images: ArrayLike) -> float:
  """Returns the mean log density of images under one distribution, in float64. Nats per image.

  Args:
    family: any family.
    params: of one image.
    images: [N, H, W, C].
  """
  with jax.enable_x64(True):
    params, images = _doubles(params), np.asarray(images, np.float64)
    if family.gaussian is not None:
      mean = np.asarray(family.mean(params))
      images = mean + compressed(images - mean)
    return float(_mean_log_prob(family)(params, jnp.asarray(images)))


def log_probs(family: base.Family[P], params: P, images: ArrayLike) -> Float64:
  """Returns the log density of each image under one distribution, in float64. [N], nats.

  Args:
    family: any family.
    params: of one image.
    images: [N, H, W, C].
  """
  with jax.enable_x64(True):
    return np.asarray(_log_probs(family)(_doubles(params), _doubles(images)))


def _doubles(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)


def outputs(family: base.Family[Any], sample: Sample) -> Outputs:
  """Returns the outputs of a family that fit a sample best, for use inside `jax.enable_x64(True)`."""
  if family.fit is not None:
    return family.fit(sample)
  return refine(family, plain_outputs(family, sample), sample)


def plain_outputs(family: base.Family[Any], sample: Sample) -> Outputs:
  """Returns outputs close to 0, with the mean of the sample."""
  rng = np.random.default_rng(0)
  shapes = family.outputs(sample.image)
  found = {name: PERTURBATION * rng.standard_normal(tuple(shape)) for name, shape in shapes.items()}
  return found | ({'mean': sample.centre()} if 'mean' in shapes else {})


def refine(family: base.Family[Any], start: Mapping[str, ArrayLike], sample: Sample) -> Outputs:
  """Returns outputs of a likelihood at least that of the start, by L-BFGS over all of them.

  The mean stays as it is where it is given, and for a Gaussian family, whose best mean is known.

  Args:
    family: any family.
    start: by name.
    sample: the images.
  """
  known: dict[str, Array] = _doubles(dict(start))
  fixed = ('mean',) if 'mean' in known and (family.gaussian or sample.mean is not None) else ()
  images = sample.images
  if family.gaussian:
    images = sample.centre() + compressed(sample.residuals())
  kept = {name: known[name] for name in fixed}
  flat, unravel = ravel_pytree({name: value for name, value in known.items() if name not in fixed})
  evaluate, data = _loss(family), jnp.asarray(images)

  def function(point: Float64) -> tuple[float, Float64]:
    value, gradient = evaluate(unravel(jnp.asarray(point)), kept, data)
    return float(value), np.asarray(ravel_pytree(gradient)[0])

  found = minimise.lbfgs(function, np.asarray(flat), sample.max_iterations, plateau=PLATEAU)
  free = unravel(jnp.asarray(found.point))
  return {name: np.asarray(value) for name, value in (kept | free).items()}


def from_outputs(family: base.Family[P], found: Mapping[str, Float64], dtype: Any) -> P:
  """Returns the parameters that outputs stand for, computed in a type."""
  return _parameters(family)({name: jnp.asarray(value, dtype) for name, value in found.items()})


def result_dtype(given: NDArray[Any]) -> np.dtype[Any]:
  """Returns the type of parameters that are fitted to these numbers: float32 unless both are wider."""
  wide = given.dtype == np.float64 and jax.config.jax_enable_x64  # type: ignore[attr-defined]
  return np.dtype(np.float64 if wide else np.float32)


def compressed(residuals: Float64) -> Float64:
  """Returns at most D residuals of the same second moments, all that a Gaussian density depends on.

  [n, H, W, C]; where D is large they stay as they are.
  """
  count, *image = residuals.shape
  size = math.prod(image)
  if count <= size or size > COMPRESSED_SIZE:
    return residuals
  triangle = np.asarray(np.linalg.qr(residuals.reshape(count, size), mode='r'))
  return triangle.reshape(-1, *image) * math.sqrt(size / count)


def unclip(values: ArrayLike, low: float, high: float) -> Float64:
  """Returns the x with base.soft_clip(x, low, high) = values, moved between the ends. Any shape."""
  margin = min(1e-6, 1e-3 * (high - low))
  inside = np.clip(np.asarray(values, np.float64), low + margin, high - margin)
  return low + np.log(np.expm1(inside - low)) - np.log1p(-np.exp(inside - high))


def log(scales: ArrayLike) -> Float64:
  """Returns logarithms, of 0 that of the smallest positive number."""
  return np.log(np.maximum(scales, np.finfo(np.float64).tiny))


@functools.lru_cache(maxsize=64)
def _parameters(family: base.Family[P]) -> Callable[[dict[str, Array]], P]:
  return jax.jit(family.from_outputs)


def squared_distances(record: base.Gaussian[P], params: P, residuals: Array) -> Array:
  """Returns the squared Mahalanobis distance of each residual. [N].

  Args:
    record: primitives of a covariance or of a scale matrix.
    params: of one image.
    residuals: [N, H, W, C].
  """
  square = lambda r: base.squared_norm(record.whiten(params, r))  # noqa: E731
  return jax.lax.map(square, residuals, batch_size=TOGETHER)


@functools.lru_cache(maxsize=64)
def _log_probs(family: base.Family[Any]) -> Callable[[Any, Array], Array]:
  """Returns the log densities as a compiled function of parameters and images [N, H, W, C]."""

  def each(params: Any, images: Array) -> Array:
    return jax.lax.map(lambda x: family.log_prob(params, x), images, batch_size=TOGETHER)

  return jax.jit(each)


@functools.lru_cache(maxsize=64)
def _mean_log_prob(family: base.Family[Any]) -> Callable[[Any, Array], Array]:
  """Returns the mean log density as a compiled function of parameters and images [N, H, W, C]."""

  def average(params: Any, images: Array) -> Array:
    if not elliptical.has_covariance(family):
      return jnp.mean(_log_probs(family)(params, images))
    # The determinant once, and not for each image.
    record, dof = elliptical.primitives(family), elliptical.degrees_of_freedom(family, params)
    size, residuals = images[0].size, images - family.mean(params)[None]
    distances, log_det = squared_distances(record, params, residuals), record.log_det(params)
    each = jax.vmap(radial.log_density, (None, None, 0, None))
    return jnp.mean(each(size, dof, distances, log_det))

  return jax.jit(average)


@functools.lru_cache(maxsize=64)
def _loss(family: base.Family[Any]) -> Callable[..., tuple[Array, dict[str, Array]]]:
  """Returns the compiled negative mean log density per pixel, and its gradient by free outputs."""

  def loss(free: dict[str, Array], kept: dict[str, Array], images: Array) -> Array:
    params = family.from_outputs(free | kept)
    return -_mean_log_prob(family)(params, images) / images[0].size

  return jax.jit(jax.value_and_grad(loss))


def _checked(
  family: base.Family[Any], images: ArrayLike, mean: ArrayLike | None, max_iterations: int
) -> tuple[Sample, np.dtype[Any]]:
  """Returns the images as a sample and the type of the result; raises as `fit` does."""
  given = np.asarray(images)
  if not jnp.issubdtype(given.dtype, jnp.floating):
    raise TypeError(
      f'images must be floating-point numbers; got {given.dtype}. '
      'Scale integer images to floats first, e.g. with data.pixels.to_unit.'
    )
  least = 2 if mean is None else 1
  if given.ndim != 4 or len(given) < least or not given.size:
    raise ValueError(
      f'images must be at least {least}, in one array of shape (N, height, width, channels); got the '
      f'shape {given.shape}.'
    )
  base.check_count('max_iterations', max_iterations, 0, 2**31 - 1, 'that of the largest int32')
  doubles = np.asarray(given, np.float64)
  if not np.all(np.isfinite(doubles)):
    count = int(np.sum(~np.all(np.isfinite(doubles), axis=(1, 2, 3))))
    raise ValueError(f'images must be finite numbers; {count} of {len(given)} images have others.')
  if family.levels:
    _check_levels(family.levels, doubles, mean)
  centre = None if mean is None else checked_mean(mean, given.shape[1:])
  return Sample(doubles, centre, max_iterations), result_dtype(given)


def checked_mean(mean: ArrayLike, image: tuple[int, ...]) -> Float64:
  """Returns the mean of an image in float64. [H, W, C].

  Raises:
    ValueError: it has another shape, or a value that is not finite.
  """
  found = np.asarray(mean, np.float64)
  if found.shape not in ((), image) or not np.all(np.isfinite(found)):
    raise ValueError(
      f'mean must be finite numbers of the shape {image} of one image, or one number; got the shape '
      f'{found.shape}.'
    )
  return np.broadcast_to(found, image)


def _check_levels(levels: int, images: Float64, mean: ArrayLike | None) -> None:
  if mean is not None:
    raise ValueError('A family of gray levels has no mean apart from its other parameters: give none.')
  level = (images + 1) * ((levels - 1) / 2)
  nearest = np.clip(np.round(level), 0, levels - 1)
  if not np.all(np.abs(level - nearest) <= ON_GRID):
    raise ValueError(
      f'images must be on the grid of {levels} gray levels from -1 to 1, since this family gives '
      'probabilities of gray levels; base.round_to_levels puts them there.'
    )
