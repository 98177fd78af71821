"""PyTorch as a peer, with one thread and with all of them: the better one counts."""

import os
from collections.abc import Callable
from typing import Any

from structured_obs.benchmark.measure import Bar, Candidate, faster


def thread_counts() -> list[int]:
  """Returns the numbers of threads to try: one, and one per processor."""
  return sorted({1, os.cpu_count() or 1})


def candidates(run: Callable[[], Any], name: str = 'torch') -> list[Candidate]:
  """Returns one candidate for each number of threads.

  Raises:
    ImportError: PyTorch is not installed.
  """
  import torch  # pyright: ignore[reportMissingImports]

  def threaded(threads: int) -> Candidate:
    def call() -> Any:
      if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
      return run()

    return Candidate(_name(name, threads), call)

  return [threaded(threads) for threads in thread_counts()]


def bars(ratio: float, name: str = 'torch') -> tuple[Bar, ...]:
  """Returns the bars of being faster than PyTorch with any of these numbers of threads."""
  return tuple(faster(_name(name, threads), ratio) for threads in thread_counts())


def _name(name: str, threads: int) -> str:
  return f'{name}, {threads} thread' + ('s' if threads > 1 else '')
