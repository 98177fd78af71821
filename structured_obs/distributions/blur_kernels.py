"""Blur kernels: from a network's outputs to taps, and from a transfer function to eigenvalues.

Letters: k1 k2 rows and columns of a kernel, whose centre is [k1 // 2, k2 // 2]; C channels.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base
from structured_obs.linalg import spectral

Array = jax.Array

PARAMETRIZATIONS = ('regularised', 'wiener', 'inverse_eps')
CENTRAL_TAP = 0.9  # of the softmax kernel that a network output of 0 stands for
# Smallest noise and floor^2: below it the rounding of a float32 transfer function decides log |cov|.
LEAST_POWER = 1e-8


class Spectrum(NamedTuple):
  """How a kernel of transfer function F becomes the eigenvalues of a covariance.

    'regularised'  |F|^2 + noise, of white noise blurred by the kernel, plus white noise
    'wiener'       (|F|^2 + noise)^2 / max(|F|^2, floor^2), that the kernel's Wiener filter makes white
    'inverse_eps'  |F + epsilon|^2, of white noise blurred by the kernel plus epsilon I

  Each is a Gaussian with a log-determinant of its own. Blur-VAE's equation 7 has the quadratic form of
  'wiener' and its equation 11 the log-determinant of 'inverse_eps': the two together are no density. The
  variance of 'wiener' grows without bound, up to the floor, where the kernel removes a frequency, and
  'inverse_eps' has none where F = -epsilon; hence the default.
  """

  parametrization: str = 'regularised'
  noise: float = 0.025
  epsilon: float = 0.5
  floor: float = 1e-3


def check(spectrum: Spectrum) -> Spectrum:
  """Return the settings of a spectrum; raise ValueError unless they are in range."""
  base.check_choice('parametrization', spectrum.parametrization, PARAMETRIZATIONS)
  noise, floor, epsilon = spectrum.noise, spectrum.floor, spectrum.epsilon
  if not (LEAST_POWER <= noise < math.inf and LEAST_POWER <= floor**2 < math.inf and epsilon > 0):
    raise ValueError(
      f'circulant needs noise and floor^2 of at least {LEAST_POWER:g}, below which float32 cannot tell '
      f'them from 0, and epsilon > 0; got noise={noise}, floor={floor}, epsilon={epsilon}.'
    )
  return spectrum


def gaussian(size: int, variance: float) -> np.ndarray | None:
  """Gaussian of this variance in pixels^2 about tap size // 2, of unit sum; None for 0. [size, size].

  Raises:
    ValueError: the size is not positive, or the variance negative or infinite.
  """
  if size < 1 or not 0 <= variance < math.inf:
    raise ValueError(
      'A blur kernel needs kernel_size >= 1 and gaussian_variance >= 0; '
      f'got kernel_size={size} and gaussian_variance={variance}.'
    )
  if not variance:
    return None
  line = np.exp(-0.5 * np.square(np.arange(size) - size // 2) / variance)
  return np.outer(line, line) / np.sum(line) ** 2


def from_output(output: Array, taps: str) -> Array:
  """Kernel [k, k] or [k, k, C] that a network's outputs of this shape stand for.

  Args:
    output: unconstrained.
    taps: 'softmax' gives positive taps that add up to 1, the central one 0.9 for outputs 0; 'raw' adds
      the outputs to a kernel of one central 1.
  """
  size = output.shape[0]
  centre = np.zeros((size, size, *(1,) * (output.ndim - 2)))
  centre[size // 2, size // 2] = 1
  if taps == 'raw':
    return output + jnp.asarray(centre, output.dtype)
  # exp(logit) of the centre against the other k^2 - 1.
  logit = math.log(max(size**2 - 1, 1) * CENTRAL_TAP / (1 - CENTRAL_TAP))
  return jax.nn.softmax(output + jnp.asarray(logit * centre, output.dtype), axis=(0, 1))


def log_eigenvalues(parts: spectral.Parts, spectrum: Spectrum) -> Array:
  """Log eigenvalues of a covariance from the parts of its kernel's transfer function."""
  if spectrum.parametrization == 'inverse_eps':
    return jnp.log(spectral.power((parts[0] + spectrum.epsilon, *parts[1:])))
  power = spectral.power(parts)
  log_regularised = jnp.log(power + spectrum.noise)
  if spectrum.parametrization == 'regularised':
    return log_regularised
  return 2 * log_regularised - jnp.log(jnp.maximum(power, spectrum.floor**2))
