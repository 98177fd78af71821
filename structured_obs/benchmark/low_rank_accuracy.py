"""Accuracy of the low-rank log density and its gradients in float32.

It is measured over scales and differences of the factor's columns. The reference is a singular value
decomposition in float64 of the same float32 numbers.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from structured_obs.benchmark.measure import Bar, judge
from structured_obs.linalg import woodbury

SCALES = (0.01, 0.1, 0.5, 2.0, 10.0, 30.0)
DIFFERENCES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1.0)
VARIANCE = 1e-5
MAX_ERROR = 0.02  # nats
MAX_GRADIENT = 0.01  # relative error of the gradients by the residual, the factor and log D
KINDS = ('almost equal', 'ladder')


def records(pixels: int, rank: int, seeds: int) -> Iterator[dict[str, Any]]:
  """Measures the largest errors over seeds: one record for JSON per kind of factor and scale.

  Args:
    pixels: n.
    rank: R.
    seeds: problems of each kind, scale and difference.
  """
  ours = jax.jit(jax.value_and_grad(woodbury.log_density, argnums=(0, 1, 2)))
  for kind, scale in itertools.product(KINDS, SCALES):
    rows = []
    for difference in DIFFERENCES:
      errors = [
        _errors(ours, *problem(kind, scale, difference, pixels, rank, seed)) for seed in range(seeds)
      ]
      nats, gradient = (max(column) for column in zip(*errors, strict=True))
      rows.append({'difference': difference, 'nats': nats, 'gradient': gradient})
    worst = {quantity: max(row[quantity] for row in rows) for quantity in ('nats', 'gradient')}
    usual = rank <= 25 and pixels <= 12288
    goals = (Bar('nats', MAX_ERROR), Bar('gradient', MAX_GRADIENT)) if usual else ()
    bars = judge(goals, [{'name': 'ours', **worst}])
    yield {'accuracy': f'{kind} S={pixels} R={rank} scale {scale:g}', 'rows': rows, 'bars': bars}


def problem(
  kind: str, scale: float, difference: float, pixels: int, rank: int, seed: int
) -> tuple[Any, Any, Any]:
  """Makes a residual [n] drawn from a factor [n, R] with noise of the variance [], in float32.

  Args:
    kind: 'almost equal', each column differs from one by a relative amount; or 'ladder', each is the
      one before it and a step, which get smaller.
    scale: of the entries.
    difference: the relative amount, or the relative size of the last step.
    pixels: n.
    rank: R.
    seed: of everything random.
  """
  rng = np.random.default_rng(seed)
  entries = rng.normal(size=(pixels, rank))
  if kind == 'ladder':
    factor = np.cumsum(entries * np.geomspace(1, difference, rank), axis=1)
  else:
    factor = rng.normal(size=(pixels, 1)) * (1 + difference * entries)
  factor = (scale * factor).astype(np.float32)
  noise = math.sqrt(VARIANCE) * rng.normal(size=pixels)
  residual = factor.astype(np.float64) @ rng.normal(size=rank) + noise
  return residual.astype(np.float32), factor, np.float32(VARIANCE)


def _errors(ours: Any, residual: Any, factor: Any, variance: Any) -> tuple[float, float]:
  """Returns the error of the log density, in nats, and the largest relative one of its gradients.

  The gradient by log D is a sum of positive and negative terms as large as half the image, which is what
  its error is relative to.
  """
  value, gradients = ours(residual, factor, variance)
  expected, slopes = _exact(*(np.asarray(part, np.float64) for part in (residual, factor, variance)))
  *by_pixel, by_variance = (
    float(np.linalg.norm(np.asarray(gradient, np.float64) - slope)) / max(np.linalg.norm(slope), 1e-30)
    for gradient, slope in zip(gradients, slopes, strict=True)
  )
  by_variance *= abs(slopes[2]) * float(variance) / (residual.size / 2)
  return abs(float(value) - expected), max(*by_pixel, by_variance)


def _exact(residual: Any, factor: Any, variance: Any) -> tuple[float, tuple[Any, ...]]:
  """Returns the log density and its gradients by the residual, the factor and the variance."""
  left, values, right = np.linalg.svd(factor, full_matrices=False)
  inner, variances = left.T @ residual, variance + values**2
  rest = (residual - left @ (inner * values**2 / variances)) / variance
  quadratic = np.sum(np.square(residual - left @ inner)) / variance + np.sum(inner**2 / variances)
  log_det = np.sum(np.log1p(values**2 / variance)) + residual.size * np.log(2 * np.pi * variance)
  slope = np.outer(rest, right.T @ (inner * values / variances)) - (left * values / variances) @ right
  trace = (residual.size - np.sum(values**2 / variances)) / variance
  return -0.5 * float(log_det + quadratic), (-rest, slope, 0.5 * (rest @ rest - trace))
