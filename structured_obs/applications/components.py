"""Scales the principal components of a predicted distribution: sliders for what varies together.

Let v be the k-th eigenvector of the covariance, l its variance, and r the residual of one sample, which
stays unchanged. A factor a gives the image

  mean + r + (a - 1) <v, r> v,

the sample itself for a = 1, and the sample without this component for a = 0. If the sample happens to
have little of a component, its factor has little effect; the image mean + a sqrt(l) v therefore shows
the component alone, in standard deviations.

For a low-rank covariance P P^T + eps I the paper scales the k-th singular value of P = U S V^T in
mean + P w + sqrt(eps) u. The eigenvectors are the columns of U, and the images differ only by
(a - 1) sqrt(eps) <v, u> v, because here the pixel noise along v is scaled too.

Letters: K components; A factors; H W C image height, width, channels.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, equation 5, figure 5.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, elliptical, gaussian, low_rank
from structured_obs.distributions.base import Family, P

Array = jax.Array

FACTORS: tuple[float, ...] = tuple(np.arange(-5, 5.25, 0.5).tolist())  # the paper's
SHOWN = 10  # the paper's number of components in figure 5
WORST_RESIDUAL = 1e-2  # of an eigenvector; above it, it may be a mixture of several


class Scaled(NamedTuple):
  """Images by component and factor."""

  samples: Array  # [K, A, H, W, C]  one sample with the component scaled
  alone: Array  # [K, A, H, W, C]  the mean with the component added, in standard deviations
  deviations: Array  # [K]  sqrt(l), in units of the data, largest first
  vectors: Array  # [K, H, W, C]  orthonormal; the largest entry is positive
  residual: Array  # [K]  |cov v - l v| / l


def check(family: Family, image: base.ImageShape, count: int) -> None:
  """Raises a ValueError unless a family has a covariance and `count` components for such images.

  Args:
    family: of p(x|z).
    image: shape of the images.
    count: number of components.
  """
  if not elliptical.has_covariance(family):
    raise ValueError('Components need a family with a covariance; this model has none.')
  if not 0 <= count <= image.size:
    raise ValueError(
      f'--components={count} is out of range: an image of this size has {image.size} components.'
    )


def default_count(params: object, image: base.ImageShape) -> int:
  """Returns the number of components to show: `SHOWN`, or all if there are fewer."""
  rank = params.cov_factor.shape[-1] if isinstance(params, low_rank.LowRank) else SHOWN
  return max(1, min(SHOWN, rank, image.size))


def draw(key: Array, family: Family[P], params: P, pixel_noise: bool = True) -> Array:
  """Returns a sample to scale the components of, [H, W, C].

  Args:
    key: of the sample.
    family: a Gaussian family.
    params: of one image.
    pixel_noise: whether with the family's floor of independent pixel noise.

  Raises:
    ValueError: without it, of a family that has no such floor.
  """
  return base.sampler(family, pixel_noise)(key, params)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def scale(
  family: Family[P], params: P, sample: Array, count: int, factors: tuple[float, ...] = FACTORS
) -> Scaled:
  """Returns images with one of the leading components scaled.

  Args:
    family: a Gaussian family.
    params: of one image.
    sample: [H, W, C], whose components are scaled.
    count: K.
    factors: A numbers.

  Raises:
    ValueError: unless 1 <= count <= D, and as `gaussian.principal_components`.
  """
  mean = family.mean(params)
  base.check_shape('sample', sample, mean.shape)
  found = gaussian.principal_components(family, params, count)
  vectors = found.vectors * _sign(found.vectors)
  deviations = jnp.sqrt(found.values)
  by = jnp.asarray(factors, mean.dtype)
  return Scaled(
    samples=_along(sample, (by[None, :] - 1) * _dot(vectors, sample - mean)[:, None], vectors),
    alone=_along(mean, by[None, :] * deviations[:, None], vectors),
    deviations=deviations,
    vectors=vectors,
    residual=found.residual,
  )


@jax.jit
def shift(image: Array, scaled: Scaled, amounts: Array) -> Array:
  """Returns an image moved along several components at once. [H, W, C].

  Args:
    image: [H, W, C].
    scaled: the components.
    amounts: [K], in their standard deviations.
  """
  return image + jnp.tensordot(amounts * scaled.deviations, scaled.vectors, axes=1)


def warning(scaled: Scaled) -> str:
  """Returns a sentence if eigenvectors did not converge, otherwise ''."""
  wrong = [i + 1 for i, error in enumerate(np.asarray(scaled.residual)) if not error < WORST_RESIDUAL]
  if not wrong:
    return ''
  return (
    f'Components {", ".join(map(str, wrong))} did not converge: their relative residuals reach '
    f'{np.max(np.asarray(scaled.residual)):.2g}, so each may be a mixture of neighbouring components.'
  )


def _along(start: Array, amounts: Array, vectors: Array) -> Array:
  """Returns an image [H, W, C] plus each vector [K, H, W, C] in amounts [K, A]."""
  return start[None, None] + amounts[:, :, None, None, None] * vectors[:, None]


def _dot(vectors: Array, image: Array) -> Array:
  return jnp.sum(vectors * image[None], axis=(1, 2, 3))


def _sign(vectors: Array) -> Array:
  """Returns 1 or -1 for each vector, [K, 1, 1, 1], so that its largest entry becomes positive."""
  flat = vectors.reshape(vectors.shape[0], -1)
  largest = jnp.take_along_axis(flat, jnp.argmax(jnp.abs(flat), axis=1)[:, None], axis=1)
  return jnp.where(largest < 0, -1, 1).astype(vectors.dtype)[:, :, None, None]
