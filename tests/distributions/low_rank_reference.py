"""Float64 references for low-rank Gaussians too large for a dense matrix, by a QR factorisation.

With W = D^-1/2 P and t = D^-1/2 r, the quadratic form is the least squares residual of [W; I] c = [t; 0]
and log |I + W^T W| that matrix's own log-determinant: no capacitance is formed and nothing cancels.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.distributions.low_rank import LowRank

Float64 = NDArray[np.float64]


class Reference(NamedTuple):
  """Log density in nats, with its gradient."""

  log_prob: float
  excess_entropy: float
  d_mean: Float64  # [n]
  d_factor: Float64  # [n, R]
  d_diag: Float64  # [n], one of each pixel's own variance


def evaluate(params: LowRank, x: Any) -> Reference:
  """Everything about the log density of x, from the parameters' own rounded values."""
  residual = (np.asarray(x, np.float64) - np.asarray(params.mean, np.float64)).ravel()
  factor = np.asarray(params.cov_factor, np.float64).reshape(residual.size, -1)
  diag = np.asarray(params.cov_diag, np.float64)
  diag = np.broadcast_to(diag, params.mean.shape).ravel()
  n, rank = factor.shape
  scaled, target = factor / np.sqrt(diag)[:, None], residual / np.sqrt(diag)
  basis, triangle = np.linalg.qr(np.concatenate([scaled, np.eye(rank)]))
  coefficients = np.linalg.solve(triangle, basis[:n].T @ target)
  for _ in range(2):  # refinement, for residuals that the factor does not explain
    gradient = scaled.T @ (target - scaled @ coefficients) - coefficients
    coefficients += np.linalg.solve(triangle, np.linalg.solve(triangle.T, gradient))
  rest = target - scaled @ coefficients
  quadratic = float(rest @ rest + coefficients @ coefficients)
  excess = float(np.sum(np.log(np.abs(np.diagonal(triangle)))))
  log_det = float(np.sum(np.log(diag))) + 2 * excess
  solved = rest / np.sqrt(diag)
  half = basis[:n] / np.sqrt(diag)[:, None]
  inverse_factor = np.linalg.solve(triangle, half.T).T if rank else half
  return Reference(
    log_prob=-0.5 * (n * math.log(2 * math.pi) + log_det + quadratic),
    excess_entropy=excess,
    d_mean=solved,
    d_factor=np.outer(solved, coefficients) - inverse_factor,
    d_diag=0.5 * (solved**2 - (1 / diag - np.sum(half**2, axis=1))),
  )


def well_specified(
  factor: Any,
  image: tuple[int, int, int],
  variance: float = 1e-5,
  by_pixel: bool = False,
  mean_range: float = 1,
) -> tuple[LowRank, Any]:
  """Float32 parameters with this factor [n, R], and an image drawn from them in float64."""
  rng = np.random.default_rng(7)
  rank = factor.shape[1]
  mean = mean_range * rng.uniform(-1, 1, size=factor.shape[0])
  diag = np.full(image, variance) if by_pixel else variance
  x = mean + factor @ rng.normal(size=rank) + variance**0.5 * rng.normal(size=mean.size)
  float32 = jnp.float32
  params = LowRank(
    jnp.asarray(mean.reshape(image), float32),
    jnp.asarray(factor.reshape(*image, rank), float32),
    jnp.asarray(diag, float32),
  )
  return params, jnp.asarray(x.reshape(image), float32)


def independent_columns(n: int, rank: int, scales: Any = 0.1) -> Float64:
  """Columns of independent normal entries, of these scales."""
  return np.random.default_rng(8).normal(size=(n, rank)) * scales


def almost_equal_columns(n: int, rank: int, scale: float, difference: float) -> Float64:
  """Columns that differ from one of normal entries by this relative amount."""
  rng = np.random.default_rng(10)
  return scale * rng.normal(size=(n, 1)) * (1 + difference * rng.normal(size=(n, rank)))


def clusters_of_columns(n: int, rank: int, scale: float, difference: float) -> Float64:
  """Five clusters of almost equal columns, of scales over four decades, and a column of zeros."""
  rng = np.random.default_rng(11)
  center = scale * np.logspace(0, -4, 5) * rng.normal(size=(n, 5))
  factor = center[:, np.arange(rank) % 5] * (1 + difference * rng.normal(size=(n, rank)))
  factor[:, -1] = 0
  return factor


def ladder_of_columns(n: int, rank: int, scale: float, difference: float) -> Float64:
  """Each column is the one before it and a smaller step; the last step is of this relative size."""
  steps = np.random.default_rng(12).normal(size=(n, rank)) * np.geomspace(1, difference, rank)
  return scale * np.cumsum(steps, axis=1)


def spread_spectrum(n: int, rank: int, decades: float, largest: float) -> Float64:
  """A factor whose singular values fall by this many decades, in no preferred directions."""
  rng = np.random.default_rng(9)
  left = np.linalg.qr(rng.normal(size=(n, rank)))[0]
  right = np.linalg.qr(rng.normal(size=(rank, rank)))[0]
  return (left * largest * np.logspace(0, -decades, rank)) @ right
