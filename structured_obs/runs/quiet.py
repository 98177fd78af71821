"""Silence around Orbax, whose threads and coroutines report errors that are raised as well.

An error that is raised is answered with one sentence. What Orbax's threads log of it before, and what
its unfinished reads report later, would bury that sentence.
"""

import contextlib
import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def orbax() -> Iterator[None]:
  """Drops what Orbax logs inside; and from now on what its threads and coroutines report too late."""
  _drop_late_reports()
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.CRITICAL + 1)
  try:
    yield
  finally:
    logger.setLevel(level)


@functools.cache
def _drop_late_reports() -> None:
  """Drops reports of Orbax's threads, and about coroutines, which nothing else has, from now on."""
  warnings.filterwarnings('ignore', "coroutine '.*' was never awaited", RuntimeWarning)
  for name, text in (('asyncio', 'never retrieved'), ('absl', '_SignalingThread')):
    logging.getLogger(name).addFilter(lambda record, text=text: text not in record.getMessage())
  others = sys.unraisablehook

  def hook(report: Any) -> None:
    closed = 'Event loop is closed' in str(report.exc_value)
    if not (closed or inspect.iscoroutine(report.object)):
      others(report)

  sys.unraisablehook = hook
