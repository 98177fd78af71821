"""Handles Ctrl-C and SIGTERM at any moment of a program: one line, and exit status 130 or 143.

While a program is being imported, a signal ends it at once. While `main` runs, it raises `Interrupted`,
so that unfinished work is cleaned up. If a library does not return for seconds, as during compilation,
a thread ends the process instead; a kill at any moment is harmless. During training, the loop handles
both signals (`structured_obs.train.signals`) and saves first.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3.0  # seconds until Python must have raised the exception
AGAIN = 'the same command resumes, or restarts.'


class Interrupted(KeyboardInterrupt):
  """The program was asked to end, by Ctrl-C or SIGTERM."""

  def __init__(self, number: int):
    super().__init__()
    self.number = number


def end_at_once() -> None:
  """Makes Ctrl-C and SIGTERM end the process with one line, from now on."""
  for number in SIGNALS:
    signal.signal(number, _end)


def sentence(number: int, step: str = '') -> str:
  """Returns the message for a signal, with the step that it interrupted."""
  name = 'Interrupted' if number == signal.SIGINT else 'Ended by SIGTERM'
  return f'{name}{f" {step}" if step else ""}; {AGAIN}'


@contextlib.contextmanager
def raised() -> Iterator[None]:
  """Raises `Interrupted` at a signal within the block.

  A second signal ends the process at once. So does the first if Python has not run its handler within
  three seconds.
  """
  seen = threading.Event()

  def handle(number: int, frame: FrameType | None) -> None:
    del frame
    if seen.is_set():
      _end(number)
    seen.set()
    raise Interrupted(number)

  previous = {number: signal.signal(number, handle) for number in SIGNALS}
  read, write = socket.socketpair()
  write.setblocking(False)
  old = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(read, handle, seen), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(old)
    write.close()
    for number, handler in previous.items():
      signal.signal(number, handler)


def _watch(arrived: socket.socket, handler: object, seen: threading.Event) -> None:
  """Ends the process if Python does not run its handler of a signal.

  Args:
    arrived: receives a byte at once for each signal; closed when there is nothing more to watch.
    handler: the handler that raises. Another handler, that of a training's loop, has unlimited time,
      unless a second Ctrl-C arrives before it could run.
    seen: set by `handler`.
  """
  asked: list[int] = []
  with arrived:
    while data := arrived.recv(1):
      number = data[0]
      asked.append(number)
      if number in SIGNALS and signal.getsignal(number) is handler:
        if not seen.wait(PATIENCE):
          _end(number)
      elif asked.count(signal.SIGINT) > 1:
        _end(number)


def _end(number: int, frame: FrameType | None = None) -> None:
  del frame
  os.write(2, f'{sentence(number)}\n'.encode())
  os._exit(128 + number)
