"""Silences Orbax, whose threads and coroutines also log the errors that are raised.

A raised error is shown as one sentence. Log lines of Orbax's threads before it, and late reports of
unfinished reads, would hide that sentence.
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
  """Drops Orbax's log lines inside the block, and late reports of its threads from now on."""
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
  """Drops reports of Orbax's threads and of coroutines, which only Orbax uses, from now on."""
  warnings.filterwarnings('ignore', "coroutine '.*' was never awaited", RuntimeWarning)
  for name, text in (('asyncio', 'never retrieved'), ('absl', '_SignalingThread')):
    logging.getLogger(name).addFilter(lambda record, text=text: text not in record.getMessage())
  others = sys.unraisablehook

  def hook(report: Any) -> None:
    closed = 'Event loop is closed' in str(report.exc_value)
    if not (closed or inspect.iscoroutine(report.object)):
      others(report)

  sys.unraisablehook = hook
