"""Low-rank log densities in float64, from parts that float32 holds without loss.

The log density of a large image is a large number: at 218x178x3 and a noise of variance 1e-5, residuals
of 0.1 give -5e7 nats, and float32 has a spacing of 4 nats there. `log_prob_parts` runs in float32, under
jit and vmap, on any device; `add_up` adds the parts on the host in float64:

  parts = jax.jit(jax.vmap(log_prob_parts))(params, x)
  nats = add_up(parts).log_prob
"""

import math
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from structured_obs.distributions import base, low_rank
from structured_obs.linalg.products import subtract_product

Array = jax.Array
Float64 = NDArray[np.float64]


class LogProbParts(NamedTuple):
  """Parts of the log density of one image, in the precision of the image."""

  residual: Array  # [H, W, C]  x - mean - P c, what the factor leaves
  coefficients: Array  # [R]  c, the posterior mean of the factor's noise
  cov_diag: Array  # [] or [H, W, C]  D
  excess_log_det: Array  # []  log |cov| - log |D|, nats


class Terms(NamedTuple):
  """Terms of log densities in nats, float64, with the leading axes of a batch."""

  constant: Float64  # -1/2 n log 2 pi
  log_det: Float64  # -1/2 log |cov|
  quadratic: Float64  # -1/2 r^T cov^-1 r

  @property
  def log_prob(self) -> Float64:
    """Log density."""
    return self.constant + self.log_det + self.quadratic


def log_prob_parts(params: low_rank.LowRank, x: Array) -> LogProbParts:
  """Computes the parts of the log density of one image [H, W, C]."""
  params = base.as_arrays(params, low_rank.LowRank._fields)
  x = base.check_shape('x', x, params.mean.shape)
  residual = x - params.mean
  coefficients = low_rank.whiten(params, residual).coefficients
  factor = params.cov_factor.reshape(x.size, -1)
  rest = subtract_product(residual.reshape(-1), factor, coefficients).reshape(x.shape)
  log_det = 2 * low_rank.excess_entropy(params)
  return LogProbParts(rest, coefficients, params.cov_diag, log_det)


def add_up(parts: LogProbParts) -> Terms:
  """Adds the parts of one image or, with leading axes, of a batch in float64. Outside jit."""
  residual, coefficients, diag, log_det = (np.asarray(part, np.float64) for part in parts)
  if diag.ndim == log_det.ndim:  # one variance for all pixels
    diag = diag[..., None, None, None]
  pixels = (-3, -2, -1)
  size = math.prod(residual.shape[-3:])
  squares = np.sum(np.square(residual) / diag, axis=pixels) + np.sum(np.square(coefficients), axis=-1)
  log_diag = np.sum(np.broadcast_to(np.log(diag), residual.shape), axis=pixels)
  constant = np.full_like(log_det, -0.5 * size * base.LOG_2PI)
  return Terms(constant, -0.5 * (log_diag + log_det), -0.5 * squares)
