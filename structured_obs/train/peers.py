"""The processes of a run on several hosts: how they meet, and what they do when one of them ends.

jax ends a process with a dump of its internals if others do not come in time, if two have the same
number, if the port is in use, or some time after one has died. So the processes meet here first: process
0 listens on the coordinator's port, the others connect to it and say who they are, and only when all are
there jax starts. These connections stay open. The operating system closes them when a process ends,
however it ends, and the others then say so in a sentence and end at once.
"""

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

WAIT = 300.0  # seconds that a process waits for the others to come
SAY = 10.0  # seconds after which it says whom it waits for
LINGER = 30.0  # seconds that process 0 has to finish its own message after another one has failed
FOLLOW = 3.0  # seconds that the others have after process 0 has failed
PAUSE = 0.5  # seconds in which the others end before process 0, whose end would make jax end them
GREETING = 'structured_obs'
Say = Callable[[str], None]


def parse_address(text: str) -> tuple[str, int]:
  """Returns host and port of 'host:port'.

  Raises:
    ValueError: if it is not of that form.
  """
  host, colon, port = text.rpartition(':')
  if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
    raise ValueError(
      f"--coordinator_address is '{text}', which is not of the form HOST:PORT with a port from 1 to "
      '65535, such as 10.0.0.1:1234.'
    )
  return host.strip('[]'), int(port)


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
    for line in _lines(connection):
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


def meet(address: str, count: int, number: int, say: Say, wait: float = WAIT) -> Peers:
  """Waits until all processes of a run are there.

  Args:
    address: 'host:port' of process 0; the port is free again when this returns.
    count: number of processes.
    number: of this process.
    say: is given a line if it takes long.
    wait: seconds.

  Raises:
    ValueError: if the address or the numbers are invalid, the port is in use, two processes have the
      same number, or some do not come in time.
  """
  host, port = parse_address(address)
  if count < 1 or not 0 <= number < count:
    raise ValueError(
      f'--process_id is {number} and --num_processes is {count}, but processes are numbered from 0 to '
      'one less than their number.'
    )
  end = time.monotonic() + wait
  if number == 0:
    return Peers(number, count, _gather(address, port, count, say, end))
  return Peers(number, count, {0: _join(address, (host, port), f'{number} {count}', say, end)})


def _gather(address: str, port: int, count: int, say: Say, end: float) -> dict[int, socket.socket]:
  """Process 0: returns a connection to each of the others, or tells them why there is no run."""
  came: dict[int, socket.socket] = {}
  remind = time.monotonic() + SAY
  with _listen(address, port) as listener:
    while len(came) < count - 1:
      missing = _listed(number for number in range(1, count) if number not in came)
      now = time.monotonic()
      if now > end:
        _refuse(came, f'{missing} of {count} did not come to {address}; start all of them at one time.')
      if now > remind:
        say(f'Waiting for {missing} of {count} at {address}.')
        remind = end
      listener.settimeout(min(max(end - now, 0.01), 0.2))
      with contextlib.suppress(OSError):
        connection = listener.accept()[0]
        _admit(came, connection, count)
      for number in [number for number, one in came.items() if _gone(one)]:
        came.pop(number).close()
  for connection in came.values():
    with contextlib.suppress(OSError):  # it has just ended, which is noticed later
      connection.sendall(b'start\n')
  return came


def _admit(came: dict[int, socket.socket], connection: socket.socket, count: int) -> None:
  """Adds who has connected; ends the run before it begins if its numbers are not those of the others."""
  connection.settimeout(5.0)
  try:
    words = next(_lines(connection), '').split()
  except TimeoutError:
    words = []
  if len(words) != 3 or words[0] != GREETING or not (words[1] + words[2]).isdecimal():
    connection.close()  # not of this program
    return
  connection.settimeout(None)
  number, number_of_all = int(words[1]), int(words[2])
  everyone = {**came, -1: connection}
  if number_of_all != count:
    _refuse(
      everyone,
      f'Process 0 was started with --num_processes={count}, but process {number} with '
      f'--num_processes={number_of_all}; start all of them with the same number.',
    )
  if number in came and not _gone(came[number]):
    _refuse(
      everyone,
      f'Two processes were started with --process_id={number}; give each one its own, from 0 to '
      f'{count - 1}.',
    )
  if number in came:
    came[number].close()
  came[number] = _kept(connection)


def _join(
  address: str, target: tuple[str, int], who: str, say: Say, end: float
) -> socket.socket:
  """Another process: returns the connection to process 0 when all are there."""
  remind, last = time.monotonic() + SAY, 'it has not answered'
  while time.monotonic() < end:
    if time.monotonic() > remind:
      say(f'Waiting for process 0 and the others at {address}.')
      remind = end
    answer = ''
    with contextlib.ExitStack() as stack:
      try:
        connection = _kept(stack.enter_context(socket.create_connection(target, timeout=5.0)))
        connection.settimeout(max(end - time.monotonic(), 1.0) + 5.0)  # process 0 gives up first
        connection.sendall(f'{GREETING} {who}\n'.encode())
        answer = next(_lines(connection), '')
        if answer == 'start':
          connection.settimeout(None)
          stack.pop_all()  # it stays open
          return connection
      except OSError as error:
        last = str(error)
    if answer.startswith('refused '):
      raise ValueError(answer.removeprefix('refused '))
    if answer:
      raise ValueError(
        f'What listens at --coordinator_address={address} is not process 0 of this run; choose another '
        'port, the same for all processes.'
      )
    time.sleep(0.2)
  raise ValueError(
    f'Process 0 does not answer at --coordinator_address={address} ({last}); start it there, with the '
    'same address.'
  )


def _listen(address: str, port: int) -> socket.socket:
  """Returns a socket that listens on a port of all interfaces of this machine, as jax will."""
  dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  try:
    return socket.create_server(('', port), family=family, dualstack_ipv6=dual, backlog=128)
  except OSError as error:
    used = error.errno == errno.EADDRINUSE
    reason = 'is in use on this machine' if used else f'cannot be opened: {error.strerror}'
    raise ValueError(
      f'The port of --coordinator_address={address} {reason}; choose another one, the same for all '
      'processes.'
    ) from error


def _kept(connection: socket.socket) -> socket.socket:
  """Makes the operating system notice within a minute that the other machine cannot be reached."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for option, value in (('TCP_KEEPIDLE', 20), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 4)):
    if hasattr(socket, option):
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
  return connection


def _lines(connection: socket.socket) -> Iterator[str]:
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


def _gone(connection: socket.socket) -> bool:
  """Whether the other side has closed a connection."""
  try:
    return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b''
  except BlockingIOError:
    return False
  except OSError:
    return True


def _refuse(came: dict[int, socket.socket], sentence: str) -> None:
  """Tells all who came why there is no run, and raises it."""
  for connection in came.values():
    with contextlib.suppress(OSError):
      connection.sendall(f'refused {sentence}\n'.encode())
      connection.close()
  raise ValueError(sentence)


def _listed(numbers: Iterator[int]) -> str:
  found = [str(number) for number in numbers]
  shown = ', '.join(found[:8]) + (' ...' if found[8:] else '')
  return f'process{"es" if found[1:] else ""} {shown}'
