"""Measures how white residuals are after a model whitened them: correlations of neighbours it missed.

If x follows the predicted distribution, the pixels of its white image are independent, and the image's
autocorrelation is 1 at lag 0 and 0 at every other lag. Whatever a covariance misses remains as
correlation between neighbours; for independent pixels, all of it.

Letters: N images; H W C image height, width, channels; K largest lag; L = 2 K + 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import gaussian
from structured_obs.distributions.base import Family

Array = jax.Array
LAG = 5  # K


SCORED = 256  # images at most


RESIDUAL = 'residual itself'


class Whiteness(NamedTuple):
  """Autocorrelation of white images."""

  autocorrelation: np.ndarray  # [L, L]  by lag, rows down and columns right; 1 in the middle
  root_mean_square: float  # over all lags but the middle one; 0 for white images
  mean_square: np.ndarray  # [N]  of the pixels of each image


def autocorrelation(images: Array, lag: int = LAG) -> Array:
  """Returns mean products of pixels of [N, H, W, C] at each lag, over all pairs. [L, L].

  Lags as long as the image have no pairs and are NaN.
  """
  height, width = images.shape[1:3]
  padded = jnp.pad(images, ((0, 0), (lag, lag), (lag, lag), (0, 0)))

  def at(index: Array) -> Array:
    row, column = index // (2 * lag + 1), index % (2 * lag + 1)
    zero = jnp.zeros_like(row)
    moved = jax.lax.dynamic_slice(padded, (zero, row, column, zero), images.shape)
    down, right = height - jnp.abs(row - lag), width - jnp.abs(column - lag)
    pairs = (down * right * images.shape[0] * images.shape[3]).astype(images.dtype)
    return jnp.where((down > 0) & (right > 0), jnp.sum(images * moved) / pairs, jnp.nan)

  lags = jax.lax.map(at, jnp.arange((2 * lag + 1) ** 2, dtype=jnp.int32))
  return lags.reshape(2 * lag + 1, 2 * lag + 1)


def lags(family: Family, params: Any, x: Array) -> tuple[Array, Array]:
  """Returns mean products by lag of the residual of x [H, W, C], and of its white image. [L, L] each."""
  both = jnp.stack([x - family.mean(params), gaussian.white_image(family, params, x)])
  residual, white = jax.vmap(lambda image: autocorrelation(image[None]))(both)
  return residual, white


def summarize(lags: np.ndarray) -> Whiteness:
  """Returns the autocorrelation of all images; NaN if the mean square of one is not finite.

  Args:
    lags: mean products by lag of each image, [N, L, L], with the mean square in the middle. NaN at
      lags without pairs.
  """
  middle = lags.shape[1] // 2
  square = np.asarray(lags[:, middle, middle], np.float64)
  if not (np.isfinite(square).all() and square.any()):
    return Whiteness(np.full(lags.shape[1:], math.nan), math.nan, square)
  found = np.mean(lags, axis=0, dtype=np.float64) / square.mean()
  rest = np.delete(found.reshape(-1), middle * lags.shape[1] + middle)
  rest = rest[np.isfinite(rest)]
  spread = float(np.sqrt(np.mean(np.square(rest)))) if rest.size else math.nan
  return Whiteness(found, spread, square)
