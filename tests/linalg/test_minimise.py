"""Minimisation by L-BFGS."""

import itertools
import math

import numpy as np
import pytest

from structured_obs.linalg import minimise

pytestmark = pytest.mark.x64  # NumPy alone


def _quadratic(condition: float, size: int = 20):
  rng = np.random.default_rng(0)
  axes = np.linalg.qr(rng.normal(size=(size, size)))[0]
  matrix = (axes * np.geomspace(1, condition, size)) @ axes.T
  lowest = rng.normal(size=size)
  return (lambda x: (0.5 * float((x - lowest) @ matrix @ (x - lowest)), matrix @ (x - lowest))), lowest


def test_the_minimum_of_a_quadratic():
  function, lowest = _quadratic(1e4)
  found = minimise.lbfgs(function, np.zeros(20), tolerance=1e-6)
  np.testing.assert_allclose(found.point, lowest, atol=1e-6)
  assert found.gradient <= 1e-6
  assert found.iterations < 200


def test_a_curved_valley():
  def rosenbrock(x):
    a, b = x
    gradient = [-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)]
    return 100 * (b - a**2) ** 2 + (1 - a) ** 2, np.array(gradient)

  found = minimise.lbfgs(rosenbrock, np.array([-1.2, 1.0]))
  np.testing.assert_allclose(found.point, 1, atol=1e-7)


def test_no_step_goes_up_or_into_what_is_not_finite():
  seen = []

  def barrier(x):
    with np.errstate(invalid='ignore', divide='ignore'):
      value = float(np.sum(x - np.log(x)))
      return value, 1 - 1 / x

  for steps in range(8):
    seen.append(minimise.lbfgs(barrier, np.full(3, 1e-3), max_iterations=steps).value)
  assert all(later <= earlier for earlier, later in itertools.pairwise(seen))
  assert seen[0] > seen[1]
  np.testing.assert_allclose(minimise.lbfgs(barrier, np.full(3, 1e-3)).value, 3, rtol=1e-12)


def test_it_ends():
  """At once, without numbers, along a slope without end, and where the value is flat."""
  nothing = minimise.lbfgs(lambda x: (1.0, x), np.zeros(0))
  assert nothing.iterations == 0
  assert nothing.value == 1
  down = minimise.lbfgs(lambda x: (float(-x[0]), np.array([-1.0])), np.zeros(1), max_iterations=3)
  assert math.isfinite(down.value)
  flat = minimise.lbfgs(lambda x: (0.0, np.array([1e-3])), np.zeros(1))
  np.testing.assert_array_equal(flat.point, 0)
  with pytest.raises(ValueError, match='finite at the start'):
    minimise.lbfgs(lambda x: (math.nan, x), np.zeros(2))
