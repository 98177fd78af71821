"""Times candidates for one task in alternating rounds, so that a busy machine slows all alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray


class Candidate(NamedTuple):
  """One way to do a task."""

  name: str
  run: Callable[[], Any]  # returns when the result is there
  compile_seconds: float = 0.0
  temporary_bytes: int = 0


class Times(NamedTuple):
  """Milliseconds of one candidate, one number per round."""

  wall: list[float]
  processor: list[float]  # of all threads: what a busy machine changes least


class Bar(NamedTuple):
  """Goal of our candidate: at least a ratio to a peer, or at most a value."""

  quantity: str  # a column: 'median_ms', 'temporary_bytes', 'error', 'compile_s'
  limit: float
  peer: str = ''


class Task(NamedTuple):
  """One task, our way first. All candidates give the same arrays in the same order."""

  name: str
  candidates: list[Candidate]
  expected: NDArray[np.float64] | None = None  # of every candidate's first array
  bars: tuple[Bar, ...] = ()
  missing: tuple[str, ...] = ()  # peers that are not installed


def faster(peer: str, ratio: float) -> Bar:
  """Returns the bar that our time is the peer's divided by at least this ratio."""
  return Bar('median_ms', ratio, peer)


def compiled(name: str, function: Callable[..., Any], *arguments: Any) -> Candidate:
  """Returns a candidate that runs a jitted function, compiled ahead of time."""
  return program(function, *arguments)(name, *arguments)


def program(function: Callable[..., Any], *like: Any) -> Callable[..., Candidate]:
  """Compiles a function once for arguments like these, and returns (name, *arguments) -> Candidate."""
  start = time.perf_counter()
  run = jax.jit(function).lower(*like).compile()
  seconds = time.perf_counter() - start
  memory = run.memory_analysis()
  temporary = memory.temp_size_in_bytes if memory is not None else 0

  def candidate(name: str, *arguments: Any) -> Candidate:
    return Candidate(name, lambda: jax.block_until_ready(run(*arguments)), seconds, temporary)

  return candidate


def compare(task: Task, repeats: int) -> dict[str, Any]:
  """Measures every candidate of a task: a record for JSON, times in milliseconds.

  Args:
    task: what to do, and in which ways.
    repeats: rounds; each runs every candidate once.
  """
  results = [candidate.run() for candidate in task.candidates]  # warms up
  times = rounds(task.candidates, repeats)
  medians = [statistics.median(kept.wall) for kept in times]
  rows = [
    {
      'name': candidate.name,
      'median_ms': median,
      'minimum_ms': min(kept.wall),
      'processor_ms': statistics.median(kept.processor),
      'ratio': median / medians[0],
      'error': None if task.expected is None else _difference([_leaves(result)[0]], [task.expected]),
      'difference': _difference(_leaves(result), _leaves(results[0])),
      'compile_s': candidate.compile_seconds,
      'temporary_bytes': candidate.temporary_bytes,
    }
    for candidate, median, kept, result in zip(task.candidates, medians, times, results, strict=True)
  ]
  judged = judge(task.bars, rows)
  return {'task': task.name, 'candidates': rows, 'bars': judged, 'missing': list(task.missing)}


def rounds(candidates: Sequence[Candidate], repeats: int) -> list[Times]:
  """Runs candidates that are warm in alternating rounds, so that a busy machine slows all alike."""
  times = [Times([], []) for _ in candidates]
  for _ in range(repeats):
    for candidate, kept in zip(candidates, times, strict=True):
      start, before = time.perf_counter(), time.process_time()
      candidate.run()
      kept.wall.append(1e3 * (time.perf_counter() - start))
      kept.processor.append(1e3 * (time.process_time() - before))
  return times


def judge(bars: tuple[Bar, ...], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Returns the bars with what the first row reached.

  Bars against peers that are not installed are left out.
  """
  named = {row['name']: row for row in rows}
  judged = []
  for bar in bars:
    ours = rows[0][bar.quantity]
    if bar.peer and bar.peer not in named:
      continue
    reached = named[bar.peer][bar.quantity] / max(ours, 1e-9) if bar.peer else ours
    met = reached >= bar.limit if bar.peer else reached <= bar.limit
    judged.append({**bar._asdict(), 'reached': reached, 'met': bool(met)})
  return judged


def _leaves(result: Any) -> list[NDArray[np.float64]]:
  return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(result)]


def _difference(arrays: list[NDArray[np.float64]], expected: list[NDArray[np.float64]]) -> float:
  """Returns the largest difference of an entry, relative to the largest expected one of its array."""
  pairs = [(a.reshape(b.shape), b) for a, b in zip(arrays, expected, strict=True) if b.size]
  return max(float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)) for a, b in pairs)
