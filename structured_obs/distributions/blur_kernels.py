"""Blur kernels: from a network's outputs to taps, and from a transfer function to eigenvalues.

Letters: k1 k2 rows and columns of a kernel, whose centre is [k1 // 2, k2 // 2]; C channels.
"""

import math
import typing
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import option_values
from structured_obs.distributions import base
from structured_obs.linalg import spectral
from structured_obs.option_values import Choice, Range, When

Array = jax.Array

PARAMETRIZATIONS = ('regularised', 'wiener', 'inverse_eps')
CENTRAL_TAP = 0.9  # value in the softmax kernel for network outputs of 0
# Smallest noise and floor^2: below it the rounding of a float32 transfer function decides log |cov|.
LEAST_POWER = 1e-8

Parametrization = Annotated[str, Choice(PARAMETRIZATIONS)]
OF_NOISE = When('parametrization', ('regularised', 'wiener'))
Noise = Annotated[float, Range(LEAST_POWER, 1e15), OF_NOISE]
Epsilon = Annotated[float, Range(1e-15, 1e15), When('parametrization', ('inverse_eps',))]
Floor = Annotated[float, Range(math.sqrt(LEAST_POWER), 1e15), When('parametrization', ('wiener',))]
PREDICTED = When('gaussian_variance', (0.0,))  # options of a predicted kernel
Taps = Annotated[str, Choice(('softmax', 'raw')), PREDICTED]
PerChannel = Annotated[bool, PREDICTED]
KernelSize = Annotated[int, Range(1, 4096)]
GaussianVariance = Annotated[float, Range(0, 1e15)]


class Spectrum(NamedTuple):
  """Map from the transfer function F of a kernel to the eigenvalues of a covariance.

    'regularised'  |F|^2 + noise, of white noise blurred by the kernel, plus white noise
    'wiener'       (|F|^2 + noise)^2 / max(|F|^2, floor^2), that the kernel's Wiener filter makes white
    'inverse_eps'  |F + epsilon|^2, of white noise blurred by the kernel plus epsilon I

  Each is a Gaussian with its own log-determinant. Blur-VAE's equation 7 has the quadratic form of
  'wiener' and its equation 11 the log-determinant of 'inverse_eps': the two together are no density. The
  variance of 'wiener' grows without bound, up to the floor, where the kernel removes a frequency, and
  'inverse_eps' has none where F = -epsilon; hence the default.
  """

  parametrization: Parametrization = 'regularised'
  noise: Noise = 0.025
  epsilon: Epsilon = 0.5
  floor: Floor = 1e-3


@option_values.checked('a Gaussian kernel')
def gaussian(size: KernelSize, variance: GaussianVariance) -> np.ndarray | None:
  """Returns a Gaussian kernel [size, size] of sum 1 about tap size // 2, or None for a variance of 0.

  Raises:
    TypeError, ValueError: the size is not positive, or the variance negative or infinite.
  """
  if not variance:
    return None
  line = np.exp(-0.5 * np.square(np.arange(size) - size // 2) / variance)
  return np.outer(line, line) / np.sum(line) ** 2


@option_values.checked('a kernel')
def from_output(output: Array, taps: Taps) -> Array:
  """Returns the kernel [k, k] or [k, k, C] that a network's outputs of this shape stand for.

  Args:
    output: unconstrained.
    taps: 'softmax' gives positive taps that add up to 1, the central one 0.9 for outputs 0; 'raw' adds
      the outputs to a kernel of one central 1.
  """
  output = base.check_shape('output', output, (None, None, *(None,) * (jnp.ndim(output) == 3)))
  size = output.shape[0]
  centre = np.zeros((size, size, *(1,) * (output.ndim - 2)))
  centre[size // 2, size // 2] = 1
  if taps == 'raw':
    return output + jnp.asarray(centre, output.dtype)
  # exp(logit) of the centre against the other k^2 - 1.
  logit = math.log(max(size**2 - 1, 1) * CENTRAL_TAP / (1 - CENTRAL_TAP))
  return jax.nn.softmax(output + jnp.asarray(logit * centre, output.dtype), axis=(0, 1))


def log_eigenvalues(parts: spectral.Parts, spectrum: Spectrum) -> Array:
  """Returns the log eigenvalues of a covariance from the parts of its kernel's transfer function.

  Raises:
    TypeError, ValueError: a setting of the spectrum is out of range.
  """
  hints = typing.get_type_hints(Spectrum, include_extras=True)
  option_values.check('a spectrum', hints, spectrum._asdict())
  if spectrum.parametrization == 'inverse_eps':
    return jnp.log(spectral.power((parts[0] + spectrum.epsilon, *parts[1:])))
  power = spectral.power(parts)
  log_regularised = jnp.log(power + spectrum.noise)
  if spectrum.parametrization == 'regularised':
    return log_regularised
  return 2 * log_regularised - jnp.log(jnp.maximum(power, spectrum.floor**2))
