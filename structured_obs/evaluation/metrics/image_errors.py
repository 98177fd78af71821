"""Errors of images against true ones (squared error, PSNR, SSIM), and sharpness of images.

NumPy inputs are evaluated in float64; JAX inputs (possibly traced) in their own dtype.

Letters: N images; H W C image height, width, channels.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.objectives import reconstruction

RANGE = 2.0  # of pixels in [-1, 1]
# An image of this PSNR, decibels, counts as exact. One rounded to 256 levels has 59.
EXACT = 100.0


Images = np.ndarray | jax.Array  # [N, H, W, C]


def mean_squared_error(found: Images, true: Images) -> Any:
  """Returns the mean squared error of each image over pixels and channels, [N], in squared units.

  Raises:
    ValueError: the arrays differ in shape.
  """
  _check_shapes(found, true)
  difference = _floats(found) - _floats(true)
  return (difference * difference).mean(axis=tuple(range(1, difference.ndim)))


def peak_signal_to_noise(found: Images, true: Images) -> Any:
  """Returns the PSNR of each image, [N], in decibels: 10 log10 of range^2 / MSE, with a range of 2.

  That of an exact image, or one with errors below 1e-5 of the range, is infinite. Means leave such
  images out (`without_exact`), and a sentence counts them (`exact`).
  """
  return ratio(mean_squared_error(found, true))


def ratio(error: Any) -> Any:
  """Returns the PSNR of mean squared errors, of their shape, in decibels; see `peak_signal_to_noise`."""
  least = RANGE**2 / 10 ** (EXACT / 10)
  if isinstance(error, jax.Array):
    return jnp.where(error < least, jnp.inf, 10 * jnp.log10(RANGE**2 / jnp.maximum(error, least)))
  return np.where(error < least, np.inf, 10 * np.log10(RANGE**2 / np.maximum(error, least)))


def without_exact(*ratios: np.ndarray) -> tuple[np.ndarray, ...]:
  """Returns PSNR [M] each, of [N] each, for the images that are exact for none of the models."""
  kept = ~np.logical_or.reduce([np.isposinf(values) for values in ratios])
  return tuple(values[kept] for values in ratios)


def exact(ratios: Mapping[str, np.ndarray]) -> str:
  """Returns a sentence about images that means of PSNR leave out; '' if none is exact.

  Args:
    ratios: PSNR [N] by method or model, decibels.
  """
  counts = {name: int(np.sum(np.isposinf(values))) for name, values in ratios.items()}
  found = [f'{count} of {len(ratios[name])} ({name})' for name, count in counts.items() if count]
  if not found:
    return ''
  return f'Exact images, whose PSNR is infinite, are left out of its means: {", ".join(found)}.'


def structural_similarity(found: Images, true: Images) -> Any:
  """Returns the SSIM of each image, [N], at most 1: the mean over channels and over windows inside it.

  See `reconstruction.structural_similarity`. It is computed in float32.

  Raises:
    ValueError: the arrays differ in shape.
  """
  _check_shapes(found, true)
  pair = [jnp.asarray(image, jnp.float32) for image in (true, found)]
  similarity = jax.vmap(reconstruction.structural_similarity)(*pair).mean(axis=(1, 2, 3))
  return similarity if isinstance(found, jax.Array) else np.asarray(similarity, np.float64)


def laplacian_variance(images: Images) -> Any:
  """Returns the sharpness of each image: the variance of its Laplacian over inner pixels. [N].

  The Laplacian is the sum of a pixel's four neighbours minus four times the pixel, of the mean over
  channels. It grows with noise as well as with edges: more than the true image has is not better.

  Args:
    images: [N, H, W, C], at least 3 x 3 pixels.
  """
  gray = _floats(images).mean(axis=-1)
  neighbours = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
  return (neighbours - 4 * gray[:, 1:-1, 1:-1]).var(axis=(1, 2))


# Of reconstructions [N, H, W, C] and the true images, by their names in evaluation.json. [N].
SCORES: Mapping[str, Callable[[Images, Images], Any]] = {
  'psnr_db': peak_signal_to_noise,
  'ssim': structural_similarity,
}


def _floats(images: Images) -> Any:
  return images if isinstance(images, jax.Array) else np.asarray(images, np.float64)


def _check_shapes(found: Images, true: Images) -> None:
  if found.shape != true.shape:
    raise ValueError(f'The images and the true ones differ in shape: {found.shape} and {true.shape}.')
