"""Lets the processes of a run on several hosts meet before jax starts.

jax ends a process with a dump of its internals if others arrive late, if two have the same number, or if
the port is in use. The processes therefore meet here first: process 0 listens on the coordinator's port,
the others connect to it and identify themselves, and jax starts when all have arrived. The connections
stay open, for `peers`.
"""

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator

from structured_obs.devices import peers

WAIT = 300.0  # seconds that a process waits for the others
SAY = 10.0  # seconds after which it reports whom it waits for
GREETING = 'structured_obs'
Say = Callable[[str], None]


def parse_address(text: str) -> tuple[str, int]:
  """Returns host and port of 'host:port'.

  Raises:
    ValueError: the text has another form.
  """
  host, colon, port = text.rpartition(':')
  if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
    raise ValueError(
      f"--coordinator_address={text} is invalid; it must have the form HOST:PORT with a port from 1 to "
      '65535, such as 10.0.0.1:1234.'
    )
  return host.strip('[]'), int(port)


def meet(address: str, count: int, number: int, say: Say, wait: float = WAIT) -> peers.Peers:
  """Waits until all processes of a run have arrived.

  Args:
    address: 'host:port' of process 0; the port is free again on return.
    count: number of processes.
    number: of this process.
    say: receives a line if it takes long.
    wait: seconds.

  Raises:
    ValueError: the address or the numbers are invalid, the port is in use, two processes have the same
      number, or some arrive too late.
  """
  host, port = parse_address(address)
  if count < 1 or not 0 <= number < count:
    raise ValueError(
      f'--process_id={number} is out of range: with --num_processes={count}, it must be from 0 to '
      f'{count - 1}.'
    )
  end = time.monotonic() + wait
  if number == 0:
    return peers.Peers(number, count, _gather(address, port, count, say, end))
  return peers.Peers(number, count, {0: _join(address, (host, port), f'{number} {count}', say, end)})


def _gather(address: str, port: int, count: int, say: Say, end: float) -> dict[int, socket.socket]:
  """Process 0: returns a connection to each of the others, or tells them why the run cannot start."""
  came: dict[int, socket.socket] = {}
  remind = time.monotonic() + SAY
  with _listen(address, port) as listener:
    while len(came) < count - 1:
      missing = _listed(number for number in range(1, count) if number not in came)
      now = time.monotonic()
      if now > end:
        _refuse(
          came, f'{missing} of {count} did not arrive at {address}; start all of them at one time.'
        )
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
    with contextlib.suppress(OSError):  # it has just ended, which is detected later
      connection.sendall(b'start\n')
  return came


def _admit(came: dict[int, socket.socket], connection: socket.socket, count: int) -> None:
  """Adds a new connection; ends the run if its numbers contradict those of the others."""
  connection.settimeout(5.0)
  try:
    words = next(peers.lines(connection), '').split()
  except TimeoutError:
    words = []
  if len(words) != 3 or words[0] != GREETING or not (words[1] + words[2]).isdecimal():
    connection.close()  # not from this program
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
      f'Two processes were started with --process_id={number}; give each its own, from 0 to '
      f'{count - 1}.',
    )
  if number in came:
    came[number].close()
  came[number] = _kept(connection)


def _join(address: str, target: tuple[str, int], who: str, say: Say, end: float) -> socket.socket:
  """Other processes: returns the connection to process 0 once all have arrived."""
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
        answer = next(peers.lines(connection), '')
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
        f'The program at --coordinator_address={address} is not process 0 of this run; choose another '
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
  """Makes the operating system detect within a minute that the other machine is unreachable."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for option, value in (('TCP_KEEPIDLE', 20), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 4)):
    if hasattr(socket, option):
      connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
  return connection


def _gone(connection: socket.socket) -> bool:
  """Returns whether the other side has closed a connection."""
  try:
    return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b''
  except BlockingIOError:
    return False
  except OSError:
    return True


def _refuse(came: dict[int, socket.socket], sentence: str) -> None:
  """Tells all connected processes why the run cannot start, and raises that."""
  for connection in came.values():
    with contextlib.suppress(OSError):
      connection.sendall(f'refused {sentence}\n'.encode())
      connection.close()
  raise ValueError(sentence)


def _listed(numbers: Iterator[int]) -> str:
  found = [str(number) for number in numbers]
  shown = ', '.join(found[:8]) + (' ...' if found[8:] else '')
  return f'process{"es" if found[1:] else ""} {shown}'
