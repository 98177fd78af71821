"""Removes white noise from an image with a model's distribution p(x|z).

The noisy image y = x + noise is encoded, and p(x|z) at the mean of q(z|y) serves as the prior of x. For
this Gaussian N(mu, cov) and noise of variance s^2 the best estimate is the posterior mean

  mu + cov (cov + s^2 I)^-1 (y - mu),

which has a variance for every pixel. The paper instead projects y - mu on the k leading eigenvectors of
cov, which keeps all noise in their span and drops everything outside; in expectation it is never better.
The encoder was not trained on noisy images, so the estimate can be encoded again to get z from a cleaner
image; each such refinement costs another posterior mean.

Letters: N images; H W C image height, width, channels; D = H W C; k eigenvectors.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, section 5.3.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import elliptical, gaussian
from structured_obs.distributions.base import Family
from structured_obs.models.base import Bound, Params

Array = jax.Array


class Denoised(NamedTuple):
  """Denoised images."""

  mean: np.ndarray  # [N, H, W, C]
  variance: np.ndarray | None  # [N, H, W, C]  of each pixel given the noisy image; None if unknown
  reconstruction: np.ndarray  # [N, H, W, C]  mean of p(x|z), before conditioning on the noisy image


class Projected(NamedTuple):
  """Noisy images projected on leading eigenvectors."""

  mean: np.ndarray  # [N, H, W, C]
  errors: np.ndarray | None  # [N, k]  squared error per pixel with 1, 2, .. k eigenvectors


def add_noise(key: Array, images: Array, scale: float) -> Array:
  """Adds white noise to images.

  Args:
    key: folded with each image's index.
    images: [N, H, W, C].
    scale: standard deviation of the noise.
  """

  def one(index: Array, image: Array) -> Array:
    noise = jax.random.normal(jax.random.fold_in(key, index), image.shape, image.dtype)
    return image + scale * noise

  return jax.vmap(one)(jnp.arange(len(images), dtype=jnp.int32), images)


def posterior_mean(bound: Bound, noisy: Array, scale: float, refinements: int = 0) -> Denoised:
  """Denoises images by the posterior mean under p(x|z).

  Args:
    bound: a model of a Gaussian family.
    noisy: [N, H, W, C], floats in the model's units, pixels in [-1, 1] plus noise.
    scale: standard deviation of the noise, in the same units.
    refinements: how often the result is encoded again, instead of the noisy image.

  Raises:
    ValueError: scale or refinements are out of range, the family is not Gaussian, or has no such
      operation for images of this size.
  """
  check(bound.model.family, scale)
  if refinements < 0:
    raise ValueError(f'refinements must not be negative; got {refinements}.')
  parts = [_posterior(refinements, bound, image, scale) for image in noisy]
  means, variances, reconstructions = zip(*map(jax.device_get, parts), strict=True)
  known = np.stack(variances) if variances[0] is not None else None
  return Denoised(np.stack(means), known, np.stack(reconstructions))


def projection(bound: Bound, noisy: Array, components: int, clean: Array | None = None) -> Projected:
  """Denoises images by projecting their residuals on leading eigenvectors of p(x|z)'s covariance.

  Args:
    bound: a model of a Gaussian family.
    noisy: [N, H, W, C].
    components: k, the number of eigenvectors.
    clean: [N, H, W, C]; if given, the errors for every smaller k are computed too.

  Raises:
    ValueError: unless 1 <= components <= D, and as `gaussian.principal_components`.
  """
  check(bound.model.family)
  parts = []
  for i, image in enumerate(noisy):
    truth = None if clean is None else clean[i]
    parts.append(jax.device_get(_project(components, bound, image, truth)))
  means, errors = zip(*parts, strict=True)
  return Projected(np.stack(means), None if clean is None else np.stack(errors))


def reconstruct(bound: Bound, noisy: Array) -> np.ndarray:
  """Returns means of p(x|z) at each image's encoding, [N, H, W, C], as denoising autoencoders do."""
  return np.stack([jax.device_get(_reconstruct(bound, image)) for image in noisy])


def paper_components(num_dims: int) -> int:
  """Returns the paper's 1000 eigenvectors for 64x64 pixels, in proportion to D."""
  return max(1, round(num_dims * 1000 / 4096))


def variance(bound: Bound, noisy: Array) -> np.ndarray:
  """Returns the variances of p(x|y) that a denoiser predicts for noisy images, [N, H, W, C]."""
  return np.stack([jax.device_get(_variance(bound, image)) for image in noisy])


def check(family: Family, scale: float = 1.0) -> None:
  """Raises a ValueError unless the family has a covariance and the noise has a positive scale."""
  if not elliptical.has_covariance(family):
    raise ValueError('Denoising needs a family with a covariance; this model has none.')
  check_scale(scale)


def check_scale(scale: float) -> None:
  """Raises a ValueError unless the noise has a positive scale."""
  if not 0 < scale < float('inf'):
    raise ValueError(
      f'--sigma={scale} is out of range: the standard deviation of the noise, of pixels in [-1, 1], '
      'must be positive.'
    )


@functools.partial(jax.jit, static_argnums=0)
def _posterior(
  refinements: int, bound: Bound, noisy: Array, scale: Array | float
) -> tuple[Array, Array | None, Array]:
  """Returns the fields of `Denoised` for one image."""
  seen = noisy
  for _ in range(refinements):
    seen, _ = _given(bound, seen, noisy, scale)[0]
  (mean, variance), params = _given(bound, seen, noisy, scale)
  return mean, variance, bound.model.family.mean(params)


def _given(
  bound: Bound, seen: Array, noisy: Array, scale: Array | float
) -> tuple[tuple[Array, Array | None], Params]:
  """Returns posterior mean and variance with z from the image `seen`, and p(x|z)'s parameters."""
  params = _params(bound, seen)
  return gaussian.posterior_mean(bound.model.family, params, noisy, jnp.square(scale)), params


def _params(bound: Bound, image: Array) -> Params:
  return jax.tree.map(lambda leaf: leaf[0], bound.reconstruct(None, image[None]))


@functools.partial(jax.jit, static_argnums=0)
def _project(
  components: int, bound: Bound, noisy: Array, clean: Array | None
) -> tuple[Array, Array | None]:
  """Returns the fields of `Projected` for one image."""
  family, params = bound.model.family, _params(bound, noisy)
  mean = family.mean(params)
  found = gaussian.principal_components(family, params, components)
  vectors = found.vectors.reshape(components, -1)
  kept = _product(vectors, noisy - mean)
  projected = mean + _product(vectors.T, kept).reshape(mean.shape)
  if clean is None:
    return projected, None
  # |x - mean|^2, minus each eigenvector's share of it, plus the noise in that direction.
  true = _product(vectors, clean - mean)
  gain = jnp.cumsum(jnp.square(kept - true) - jnp.square(true))
  return projected, (jnp.sum(jnp.square(clean - mean)) + gain) / mean.size


def _product(matrix: Array, image: Array) -> Array:
  return jnp.matmul(matrix, image.reshape(-1), precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _reconstruct(bound: Bound, noisy: Array) -> Array:
  return bound.model.family.mean(_params(bound, noisy))


@jax.jit
def _variance(bound: Bound, noisy: Array) -> Array:
  return gaussian.variance(bound.model.family, _params(bound, noisy))
