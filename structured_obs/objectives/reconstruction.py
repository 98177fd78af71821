"""Reconstruction losses that replace -log p(x|z) in the ELBO (the result is not a bound).

Every loss is a pure function of one image x and its reconstruction, (x [H, W, C], mean [H, W, C]) -> [],
and is a sum over pixels and channels, so that it weighs against a KL in nats as a log density would; the
caller maps it over a batch. `l2` alone is a negative log density of x, up to its constant: an objective
with any other one is an autoencoder with a prior of its latents, not a bound on log p(x). Pixels are in
[-1, 1], which matters to `ssim` and `cross_entropy`.

Letters: H W C image height, width, channels; D = H W C; k size of a blur kernel; f a frequency; F
columns of a half spectrum, W // 2 + 1.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
section 4.4, which compares these.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.distributions import base
from structured_obs.linalg import products, spectral
from structured_obs.objectives import perceptual
from structured_obs.option_records import Record
from structured_obs.option_values import NotNegative, Positive

Array = jax.Array
Loss = Callable[[Array, Array], Array]  # (x [H, W, C], mean [H, W, C]) -> []

RANGE = 2.0  # range of pixels in [-1, 1]
WINDOW = 11  # pixels across the window of SSIM
WINDOW_SCALE = 1.5  # standard deviation of its weights, pixels
MARGIN = 0.5 / 255  # half a gray level of 8 bits, of pixels in [0, 1]


def l2(x: Array, mean: Array) -> Array:
  """Returns half the squared error: -log N(x; mean, I) without D/2 log 2pi. [], nats."""
  return 0.5 * jnp.sum(jnp.square(_residual(x, mean)))


def l1(x: Array, mean: Array) -> Array:
  """Returns the sum of absolute errors, whose gradient at an error of 0 is 0. []."""
  return jnp.sum(jnp.abs(_residual(x, mean)))


def ssim(x: Array, mean: Array) -> Array:
  """Returns D (1 - SSIM), with the mean of `structural_similarity` over windows and channels. []."""
  return x.size * (1 - jnp.mean(structural_similarity(x, mean)))


def structural_similarity(x: Array, mean: Array) -> Array:
  """Returns the structural similarity of each window that lies inside the image, by channel. At most 1.

  A window has 11 x 11 pixels with weights of a Gaussian of standard deviation 1.5, and as many as there
  are along a side that is shorter. Variances are those of the weights, not sample variances. Pixels
  are counted from black, x + 1, as the index is made for what is not negative; their range is 2.

  Returns:
    [H - 10, W - 10, C], or 1 along a shorter side.

  Reference: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
  2004, equation 13, with K1 = 0.01 and K2 = 0.03.
  """
  _residual(x, mean)
  maps = jnp.stack([x, mean, jnp.square(x), jnp.square(mean), x * mean])
  # Banded products: convolutions, and sums of shifted images, are many times slower on CPU.
  rows, columns = (jnp.asarray(windows(size), x.dtype) for size in x.shape[:2])
  maps = products.einsum('ai,mijc->majc', rows, maps)
  maps = products.einsum('bj,majc->mabc', columns, maps)
  mean_x, mean_y, square_x, square_y, product = maps
  light_x, light_y = 1 + mean_x, 1 + mean_y
  var_x, var_y = square_x - jnp.square(mean_x), square_y - jnp.square(mean_y)
  covariance = product - mean_x * mean_y
  c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
  luminance = (2 * light_x * light_y + c1) / (jnp.square(light_x) + jnp.square(light_y) + c1)
  return luminance * (2 * covariance + c2) / (var_x + var_y + c2)


def windows(size: int) -> NDArray[np.float64]:
  """Returns weights that each window of SSIM gives the pixels along a side.

  [size - 10, size], or [1, size].
  """
  width = min(WINDOW, size)
  weights = np.exp(-0.5 * np.square((np.arange(width) - (width - 1) / 2) / WINDOW_SCALE))
  matrix = np.zeros((size - width + 1, size))
  for i, row in enumerate(matrix):
    row[i : i + width] = weights / weights.sum()
  return matrix


def cross_entropy(x: Array, mean: Array) -> Array:
  """Returns the binary cross-entropy of pixels mapped to [0, 1], as if gray were a probability. [].

  It is -p log q - (1 - p) log(1 - q) with p of x and q of the mean. It is not a density of p, and at
  mean = x it is the entropy of p instead of 0. q is clipped half a gray level inside [0, 1], where the
  gradient would be 0. Half the squared distance of the mean from [-1, 1] leads back there; it is 0 where
  a network ends in a tanh.
  """
  _residual(x, mean)
  p, q = (1 + x) / 2, jnp.clip((1 + mean) / 2, MARGIN, 1 - MARGIN)
  outside = mean - jnp.clip(mean, -1, 1)
  return jnp.sum(-p * jnp.log(q) - (1 - p) * jnp.log1p(-q) + 0.5 * jnp.square(outside))


def focal_frequency(x: Array, mean: Array, alpha: float = 1.0) -> Array:
  """Returns the focal frequency loss 1/2 sum_f w_f |d_f|^2 with d the Fourier transform of x - mean. [].

  w_f = (|d_f| / max_f |d_f|)^alpha, by channel and held constant under differentiation: frequencies of
  large errors weigh more. The transform is orthonormal, so that with alpha = 0 it is `l2`. The
  authors' code has the mean over pixels instead of half the sum.

  Args:
    x: [H, W, C].
    mean: [H, W, C].
    alpha: exponent of the weights; 0 gives `l2`.

  Reference: Jiang et al., "Focal Frequency Loss for Image Reconstruction and Synthesis", 2021,
  equations 7 and 8.
  """
  power = spectral.power(spectral.PERIODIC.forward(_residual(x, mean)))
  held = jax.lax.stop_gradient(power)
  largest = jnp.max(held, axis=(0, 1), keepdims=True)
  # Without any error, the largest one is 0 and all weights are 0.
  weight = (held / jnp.where(largest == 0, 1, largest)) ** (alpha / 2)
  return 0.5 * _weighted_sum(weight * power, x.shape[1])


def paper_loss(
  kernel: Array, x: Array, mean: Array, noise: float = 0.025, epsilon: float | None = None
) -> Array:
  """Returns Blur-VAE's loss: Wiener-filtered errors plus a term in place of a log-determinant. [].

    1/2 sum_f |K_f|^2 / (|K_f|^2 + noise)^2 |d_f|^2 + sum_f log|K_f + epsilon|

  with K the Fourier transform of the kernel, centred at pixel k // 2 and wrapped around the image, and d
  the orthonormal one of x - mean; both sums are over channels too.

  It is NOT a negative log density, not even without its constant: the first term is of the covariance
  with eigenvalues (|K|^2 + noise)^2 / |K|^2, the second of another one, |K + epsilon|^2. On 64 x 64
  pixels and with a Gaussian kernel of standard deviation 1, noise 0.025 and epsilon 0.5, exp(-loss)
  integrates to (2 pi)^(D/2) e^2675 per channel instead of (2 pi)^(D/2), and the ratio depends
  on the kernel: numbers of it compare with no likelihood. `circulant` families have
  consistent pairs.

  Args:
    kernel: [k, k], of all channels, or [k, k, C]. Taps beyond the image wrap and add.
    x: [H, W, C].
    mean: [H, W, C].
    noise: the constant C of the Wiener filter, positive.
    epsilon: of the second term; None leaves that out, the paper's "large epsilon", by which it
      changes little with the kernel. The loss is a weighted squared error then.

  Raises:
    ValueError: noise is not positive, or the kernel has another number of channels.

  Reference: Bredell et al., 2023, equations 7, 8 and 11, whose signs and factors (log|Sigma| = 2 log|K|)
  are corrected.
  """
  if not 0 < noise < math.inf:
    raise ValueError(f'noise must be a positive number; got {noise}.')
  real, imaginary = _transfer(kernel, x.shape)
  power = spectral.power((real, imaginary))
  errors = spectral.power(spectral.PERIODIC.forward(_residual(x, mean)))
  quadratic = 0.5 * _weighted_sum(power / jnp.square(power + noise) * errors, x.shape[1])
  if epsilon is None:
    return quadratic
  logs = 0.5 * jnp.log(spectral.power((real + epsilon, imaginary)))
  return quadratic + _weighted_sum(jnp.broadcast_to(logs, errors.shape), x.shape[1])


def make(name: str, weights: str | Path = 'weights') -> Loss:
  """Returns the loss of this name.

  Args:
    name: one of `LOSSES`.
    weights: folder with the weights of trained feature networks, needed only by 'vgg'.

  Raises:
    ValueError: the name is unknown.
    FileNotFoundError: its weights are not there.
  """
  base.check_choice('The reconstruction loss', name, tuple(LOSSES))
  return LOSSES[name](Path(weights))


LOSSES: Mapping[str, Callable[[Path], Loss]] = {
  'l2': lambda _: l2,
  'l1': lambda _: l1,
  'ssim': lambda _: ssim,
  'cross_entropy': lambda _: cross_entropy,
  'focal_frequency': lambda _: focal_frequency,
  'vgg': perceptual.vgg,
  'watson': perceptual.watson,
}


class Options(NamedTuple):
  """Options of a loss that replaces -log p(x|z)."""

  weight: Positive = 1.0  # weight relative to the KL


class PaperOptions(NamedTuple):
  """Options of Blur-VAE's loss as published."""

  weight: Positive = 1.0
  epsilon: NotNegative = 0.0  # added to the transfer function; 0 drops the log-determinant


PAPER_LOSS = 'paper_loss'
PIXELWISE = ('l1', 'l2')  # those that are 0 for pixels without an error, so that pixels may be left out
# Values of --config.objective.reconstruction; '' is the density itself.
RECORDS: Mapping[str, Record] = {'': None, PAPER_LOSS: PaperOptions, **dict.fromkeys(LOSSES, Options)}
MEAN_RECORDS = {name: record for name, record in RECORDS.items() if name != PAPER_LOSS}  # of a mean


def _residual(x: Array, mean: Array) -> Array:
  """Returns x - mean, of one image each and of one shape."""
  base.check_shape('x', x, (None, None, None))
  base.check_shape('mean', mean, jnp.shape(x))
  return x - mean


def _weighted_sum(values: Array, width: int) -> Array:
  """Returns the sum over all frequencies of values [H, F, C] of a half spectrum."""
  weights = jnp.asarray(spectral.PERIODIC.weights(width), values.dtype)
  return jnp.sum(values * weights[None, :, None])


def _transfer(kernel: Array, shape: tuple[int, ...]) -> spectral.Parts:
  """Returns the transform of a kernel centred at pixel (0, 0).

  [H, F, C], or 1 for C if the kernel is shared.
  """
  if kernel.ndim not in (2, 3) or kernel.shape[2:] not in ((), (shape[2],)):
    raise ValueError(
      f'kernel must have shape (k, k) or (k, k, {shape[2]}), for images of shape {shape}; got '
      f'{kernel.shape}.'
    )
  taps = kernel[..., None] if kernel.ndim == 2 else kernel
  one = lambda plane: spectral.PERIODIC.transfer(plane, *shape[:2])  # noqa: E731
  return jax.vmap(one, in_axes=-1, out_axes=-1)(taps)
