"""The other processes of a run on several hosts: how each notices that one of them has ended, and ends.

Every process keeps a connection to process 0 (see `rendezvous`). The operating system closes it when a
process ends, however it ends; the others then say so in a sentence and end at once, where jax would let
them wait for a long time and end them with a dump of its internals.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

LINGER = 30.0  # seconds that process 0 has to finish its own message after another one has failed
FOLLOW = 3.0  # seconds that the others have after process 0 has failed
PAUSE = 0.5  # seconds in which the others end before process 0, whose end would make jax end them


class Peers:
  """Open connections to the other processes: of process 0 to all, of the others to process 0."""

  def __init__(self, number: int, count: int, connections: dict[int, socket.socket]):
    self.number = number
    self.count = count
    self.step = 0  # the last one that was begun
    self.lost = threading.Event()  # set when another process has ended early
    self.sentence = ''  # what to say then
    self.last_word = threading.Lock()  # for the one thread that says it and ends the process
    self._leaving = threading.Event()
    self._connections = connections
    self._threads = [
      threading.Thread(target=self._watch, args=peer, daemon=True) for peer in connections.items()
    ]
    for thread in self._threads:
      thread.start()

  def finish(self) -> None:
    """Says that this process is done; those but process 0 wait until that is done as well."""
    if self.number == 0:
      self._leaving.set()  # nothing that happens to the others matters any more
    self._send('bye')
    self._end(LINGER if self.number == 0 else None)

  def leave(self) -> None:
    """Says that this process ends early, and gives the others a moment to end by themselves."""
    self._leaving.set()
    self._send('ending')
    self._end(LINGER + FOLLOW)

  def _end(self, wait: float | None) -> None:
    """Closes the connections when the others are done as well, or after these seconds."""
    end = None if wait is None else time.monotonic() + wait
    for thread in self._threads:
      thread.join(None if end is None else max(end - time.monotonic(), 0))
    self._leaving.set()
    for connection in self._connections.values():
      connection.close()

  def _send(self, line: str) -> None:
    for connection in self._connections.values():
      with contextlib.suppress(OSError):  # it has ended, which its thread notices
        connection.sendall(f'{line}\n'.encode())

  def _watch(self, peer: int, connection: socket.socket) -> None:
    """Reads what another process says until it is done; ends this one if the other one ends early."""
    for line in lines(connection):
      if line == 'bye':
        return
      if line == 'ending':
        patience = FOLLOW if self.number else LINGER
        self._lose(peer, 'ended with an error, which its own output names', patience)
        if self.number:  # this one is ending as well; process 0 ends last, as jax needs it
          return
      if line.startswith('lost '):
        self._lose(int(line.split()[1]), 'ended early', 0)
        return
    self._lose(peer, 'ended early, or its connection broke', 0)

  def _lose(self, peer: int, how: str, patience: float) -> None:
    """Ends this process, unless it ends by itself with its own message in these seconds."""
    if self._leaving.is_set():
      return
    when = f'after step {self.step}' if self.step else 'before the first step'
    self.sentence = (
      f'Process {peer} of {self.count} {how}, {when} of process {self.number}, which cannot go on '
      'without it. Start all processes again with the same commands: they resume from the newest '
      'checkpoint.'
    )
    self.lost.set()
    if self._leaving.wait(patience):
      return
    self.last_word.acquire()
    os.write(2, f'error: {self.sentence}\n'.encode())
    if self.number == 0:
      self._send(f'lost {peer}')
      time.sleep(PAUSE)
    os._exit(1)  # the main thread may wait for ever in a collective operation


def lines(connection: socket.socket) -> Iterator[str]:
  """Yields the lines that arrive, also a last one without an end, until the connection is closed."""
  text = b''
  while True:
    try:
      found = connection.recv(4096)
    except TimeoutError:
      raise
    except OSError:
      found = b''
    *lines, text = (text + found).split(b'\n')
    yield from (line.decode(errors='replace') for line in lines)
    if not found or len(text) > 4096:
      break
  if text:
    yield text.decode(errors='replace')
