"""Detects marginal variances that explode although the likelihood looks fine.

A model that predicts each pixel from those generated before it can be right at every step and still
drift to variances of any size; its samples are then worthless. The measure is the largest marginal
variance over the largest variance of a pixel given its predecessors; see
`distributions.gaussian.variance_inflation`.

Letters: N images.
"""

import functools

import jax
import numpy as np

from structured_obs.data import pixels
from structured_obs.devices.keys import numbered_keys
from structured_obs.distributions import elliptical, gaussian
from structured_obs.distributions.base import Family
from structured_obs.models.base import Bound

CHECKED = 8  # images; each takes a computation of exact variances


def variance_inflation(bound: Bound, images: np.ndarray, levels: int) -> np.ndarray | None:
  """Returns the inflation of p(x|z) at the posterior's mean for the first 8 images, [N], at least 1.

  Args:
    bound: the model; its variables are on one device or replicated on several.
    images: uint8 [N, H, W, C] of a split.
    levels: gray levels of the images.

  Returns:
    float64; NaN or infinite for a covariance that is not finite. None if the family generates pixels in
    no order, or there are no images.
  """
  if not has_order(bound.model.family) or not len(images):
    return None
  found = _inflation(levels, bound, np.asarray(images[:CHECKED]))
  return np.asarray(jax.device_get(found), np.float64)


def has_order(family: Family) -> bool:
  """Returns whether the family generates pixels one after the other."""
  return (
    elliptical.has_covariance(family) and elliptical.primitives(family).innovation_variance is not None
  )


def warning(inflation: np.ndarray | None, threshold: float) -> str:
  """Returns a sentence about a covariance that explodes; '' for one that does not."""
  if inflation is None or bool(np.all(inflation <= threshold)):
    return ''
  count = int(np.sum(~(inflation <= threshold)))
  return (
    f"WARNING: the covariance explodes. In {count} of {len(inflation)} images {_how_far(inflation)} "
    f"(--config.eval.inflation_threshold={threshold:g}). Samples of this model are not images, "
    "whatever its likelihood. Try a prior on the covariance "
    "(--config.likelihood.options.prior=normal), a smaller --config.optim.learning_rate or fewer "
    "steps."
  )


def _how_far(inflation: np.ndarray) -> str:
  if not np.isfinite(inflation).all():
    return 'variances are not finite, or too large'
  return (
    f'a pixel has up to {np.max(inflation):.3g} times the largest variance that any pixel has given '
    'those generated before it'
  )


@functools.partial(jax.jit, static_argnums=0)
def _inflation(levels: int, bound: Bound, images: jax.Array) -> jax.Array:
  x = pixels.to_unit(images, levels)
  inflation = functools.partial(gaussian.variance_inflation, bound.model.family)
  # One image after the other: exact variances may take more memory than the image.
  keys = numbered_keys(jax.random.key(0), len(x))
  return jax.lax.map(inflation, bound.predict(keys, x))
