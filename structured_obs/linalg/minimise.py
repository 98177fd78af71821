"""Minimisation of a smooth function of many numbers by L-BFGS, on the host.

The function is usually a compiled program; what the method itself computes is small, in NumPy float64.

Letters: n numbers; m pairs remembered.

Reference: Nocedal and Wright, "Numerical Optimization", 2006, algorithms 7.4 and 7.5; the line search is
the bisection of Lewis and Overton, "Nonsmooth optimization via quasi-Newton methods", 2013.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
ValueAndGradient = Callable[[Vector], tuple[float, Vector]]

MEMORY = 30  # m; more cost little beside the function, and save steps along narrow valleys
MOST_TRIALS = 40  # of one line search
SUFFICIENT, CURVATURE = 1e-4, 0.9  # constants of the weak Wolfe conditions
SETTLED = 3  # steps in a row that change nothing before the method ends
STRETCH = 20  # steps over which a plateau is measured


class Minimum(NamedTuple):
  """The lowest point that was seen."""

  point: Vector  # [n]
  value: float
  gradient: float  # largest absolute entry of the gradient there
  iterations: int


class _Step(NamedTuple):
  point: Vector
  value: float
  gradient: Vector


def lbfgs(
  function: ValueAndGradient,
  start: Vector,
  max_iterations: int = 200,
  tolerance: float = 1e-8,
  plateau: float = 0.0,
) -> Minimum:
  """Minimises a function; no step ever raises its value.

  It ends when every entry of the gradient is within the tolerance, when a few steps in a row no longer
  lower the value beyond rounding, when 20 steps lower it by less than `plateau`, or after
  `max_iterations` steps. Points whose value is NaN or infinite are never taken.

  Args:
    function: [n] -> the value and its gradient [n].
    start: [n], where the value is finite.
    max_iterations: 0 evaluates the start alone.
    tolerance: of the gradient's entries.
    plateau: in units of the value.

  Raises:
    ValueError: the value or the gradient at the start is not finite.
  """
  now = _Step(np.asarray(start, np.float64), *function(start))
  if not (math.isfinite(now.value) and np.all(np.isfinite(now.gradient))):
    raise ValueError(f'The function to minimise must be finite at the start, but is {now.value}.')
  pairs: list[tuple[Vector, Vector]] = []
  iterations = settled = 0
  values = [now.value]
  while iterations < max_iterations and settled < SETTLED and _largest(now.gradient) > tolerance:
    if len(values) > STRETCH and values[-1 - STRETCH] - now.value < plateau:
      break
    direction = -_times_inverse_hessian(now.gradient, pairs)
    length = 1.0 if pairs else 1 / max(1.0, float(np.linalg.norm(now.gradient)))
    found = _line_search(function, now, direction, length)
    if found is None and not pairs:
      break
    iterations += 1
    if found is None:
      pairs = []  # the curvature remembered is wrong here: once more along the gradient
      continue
    moved, turned = found.point - now.point, found.gradient - now.gradient
    if moved @ turned > 1e-12 * (turned @ turned):
      pairs = [*pairs[1 - MEMORY :], (moved, turned)]
    flat = now.value - found.value <= 1e-14 * max(1.0, abs(now.value))
    settled, now = settled + 1 if flat else 0, found
    values.append(now.value)
  return Minimum(now.point, now.value, _largest(now.gradient), iterations)


def _times_inverse_hessian(gradient: Vector, pairs: list[tuple[Vector, Vector]]) -> Vector:
  """Returns the approximate inverse Hessian times a gradient, by the two loops."""
  result, shares = gradient.copy(), list[float]()
  for moved, turned in reversed(pairs):
    shares.append(float(moved @ result) / float(moved @ turned))
    result -= shares[-1] * turned
  if pairs:
    moved, turned = pairs[-1]
    result *= float(moved @ turned) / float(turned @ turned)
  for (moved, turned), share in zip(pairs, reversed(shares), strict=True):
    result += (share - float(turned @ result) / float(moved @ turned)) * moved
  return result


def _line_search(
  function: ValueAndGradient, now: _Step, direction: Vector, length: float
) -> _Step | None:
  """Returns a lower point along a direction by the weak Wolfe conditions; None if there is none."""
  slope = float(now.gradient @ direction)
  if not slope < 0:
    return None
  low, high, best = 0.0, math.inf, None
  for _ in range(MOST_TRIALS):
    point = now.point + length * direction
    trial = _Step(point, *function(point))
    finite = math.isfinite(trial.value) and bool(np.all(np.isfinite(trial.gradient)))
    if not finite or trial.value > now.value + SUFFICIENT * length * slope:
      high = length
    else:
      best = trial if best is None or trial.value < best.value else best
      if float(trial.gradient @ direction) >= CURVATURE * slope:
        return trial
      low = length
    length = (low + high) / 2 if math.isfinite(high) else 2 * low
  return best


def _largest(gradient: Vector) -> float:
  return float(np.max(np.abs(gradient), initial=0))
