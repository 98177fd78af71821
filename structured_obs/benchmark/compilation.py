"""Seconds of compilation of the solve and its gradient, which must not grow with the image."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from structured_obs.benchmark import measure, solves
from structured_obs.benchmark.factors import normal, random_factors
from structured_obs.linalg import sparse_triangular

BATCH = 4
TRIALS = 3  # the quickest counts: a busy machine only ever adds
LIMITS = {'solve': 0.5, 'gradient': 1.0}  # seconds
GROWTH = 1.5  # at most, from the smaller to the larger image; flat but for noise


def record(size: int, filter_size: int) -> dict[str, Any]:
  """Returns seconds to trace, lower and compile at size x size and at twice that: a record for JSON."""
  pattern = sparse_triangular.offsets(filter_size)
  jax.jit(lambda x: x + 1).lower(normal(1)).compile()  # starts the compiler
  rows = []
  for side in (size, 2 * size):
    arguments = random_factors(side, pattern, BATCH), normal(BATCH, side, side)
    solve = jax.vmap(functools.partial(sparse_triangular.solve_transposed, offsets=pattern))
    both = {'solve': solve, 'gradient': solves.gradient(pattern)}
    seconds = {name: _seconds(function, arguments) for name, function in both.items()}
    rows.append({'name': f'{side}x{side}', **seconds})
  larger = rows[::-1]
  bars = tuple(measure.Bar(name, limit) for name, limit in LIMITS.items())
  growth = {f'{name} growth': larger[0][name] / larger[1][name] for name in LIMITS}
  flat = tuple(measure.Bar(name, GROWTH) for name in growth)
  judged = measure.judge(bars + flat, [{'name': 'larger', **larger[0], **growth}])
  return {'compilation': f'f={filter_size} batch {BATCH}', 'rows': rows, 'bars': judged}


def _seconds(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
  def once() -> float:
    jax.clear_caches()  # traces of an earlier trial
    return measure.compiled('', function, *arguments).compile_seconds

  return min(once() for _ in range(TRIALS))
