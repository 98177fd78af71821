"""Connections between the processes of a run on several hosts, to detect that one has ended.

Every process keeps a connection to process 0 (see `rendezvous`). The operating system closes it when a
process ends for any reason. The others then print a sentence and end at once; jax alone would let them
wait for a long time and end them with a dump of its internals.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

LINGER = 30.0  # seconds for process 0 to finish its own message after another one has failed
FOLLOW = 3.0  # seconds for the others after process 0 has failed
PAUSE = 0.5  # seconds in which the others end before process 0, because jax ends them with it


class Peers:
  """Open connections to the other processes: from process 0 to all, from the others to process 0."""

  def __init__(self, number: int, count: int, connections: dict[int, socket.socket]):
    self.number = number
    self.count = count
    self.step = 0  # the last step that started
    self.lost = threading.Event()  # set when another process has ended early
    self.sentence = ''  # the message for that
    self.last_word = threading.Lock()  # for the one thread that prints it and ends the process
    self._leaving = threading.Event()
    self._connections = connections
    self._threads = [
      threading.Thread(target=self._watch, args=peer, daemon=True) for peer in connections.items()
    ]
    for thread in self._threads:
      thread.start()

  def finish(self) -> None:
    """Reports that this process is done; the others wait until process 0 is done as well."""
    if self.number == 0:
      self._leaving.set()  # what happens to the others no longer matters
    self._send('bye')
    self._end(LINGER if self.number == 0 else None)

  def leave(self) -> None:
    """Reports that this process ends early, and gives the others a moment to end by themselves."""
    self._leaving.set()
    self._send('ending')
    self._end(LINGER + FOLLOW)

  def _end(self, wait: float | None) -> None:
    """Closes the connections once the others are done, or after `wait` seconds."""
    end = None if wait is None else time.monotonic() + wait
    for thread in self._threads:
      thread.join(None if end is None else max(end - time.monotonic(), 0))
    self._leaving.set()
    for connection in self._connections.values():
      connection.close()

  def _send(self, line: str) -> None:
    for connection in self._connections.values():
      with contextlib.suppress(OSError):  # the peer has ended, which its thread detects
        connection.sendall(f'{line}\n'.encode())

  def _watch(self, peer: int, connection: socket.socket) -> None:
    """Reads messages of another process until it is done; ends this process if that one ends early."""
    for line in lines(connection):
      if line == 'bye':
        return
      if line == 'ending':
        patience = FOLLOW if self.number else LINGER
        self._lose(peer, 'ended with an error, which its own output shows', patience)
        if self.number:  # this process is ending as well; process 0 ends last, as jax needs it
          return
      if line.startswith('lost '):
        self._lose(int(line.split()[1]), 'ended early', 0)
        return
    self._lose(peer, 'ended early, or its connection broke', 0)

  def _lose(self, peer: int, how: str, patience: float) -> None:
    """Ends this process, unless it ends by itself with its own message within `patience` seconds."""
    if self._leaving.is_set():
      return
    when = f'after step {self.step}' if self.step else 'before the first step'
    self.sentence = (
      f'Process {peer} of {self.count} {how}, {when} of process {self.number}, which cannot continue '
      'without it. Restart all processes with the same commands; they resume from the newest '
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
    os._exit(1)  # the main thread may wait forever in a collective operation


def lines(connection: socket.socket) -> Iterator[str]:
  """Yields the lines that arrive, including an incomplete last one, until the connection closes."""
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
