"""Ends a run after the step in flight on SIGTERM or Ctrl-C, and at once on a second Ctrl-C."""

import os
import signal
import threading
from types import FrameType

import jax

from structured_obs.devices import hosts

STOPPING = 'Stopping after the step in flight; press Ctrl-C again to abort at once.\n'


class Stopper:
  """Records requests to stop. A context manager that owns the signal handlers.

  With several processes, SIGTERM belongs to jax, which makes all of them agree on the step to stop
  after; Ctrl-C is forwarded to it.
  """

  def __init__(self) -> None:
    self._asked = False
    self._previous: dict[int, object] = {}

  def __enter__(self) -> 'Stopper':
    if threading.current_thread() is threading.main_thread():
      mine = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
      self._previous = {number: signal.signal(number, self._ask) for number in mine}
    return self

  def __exit__(self, *error: object) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)  # type: ignore[arg-type]

  def requested(self, step: int) -> bool:
    """Returns whether to stop after this step. Every process must call it once per step."""
    return hosts.preempted(step) if jax.process_count() > 1 else self._asked

  def _ask(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._asked = True
    if number == signal.SIGINT:
      os.write(2, STOPPING.encode())  # the only output that is safe in a handler
      signal.signal(signal.SIGINT, signal.SIG_DFL)
      if jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)
