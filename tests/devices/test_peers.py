"""Processes that meet before jax starts, and notice when one ends: threads of this one."""

import os
import socket
import threading
import time
from typing import Any

import pytest

from structured_obs.devices import peers, rendezvous
from tests.train import programs


def meet(*processes: tuple[int, int], port: int = 0, wait: float = 0.6) -> tuple[list[Any], list[str]]:
  """Lets processes (number, count) meet.

  Returns:
    What each one got: its `Peers`, or the message of its error; and all lines that were said.
  """
  found: list[Any] = [None] * len(processes)
  said: list[str] = []
  address = f'127.0.0.1:{port or programs.free_port()}'

  def run(place: int, number: int, count: int) -> None:
    try:
      found[place] = rendezvous.meet(address, count, number, said.append, wait)
    except ValueError as error:
      found[place] = str(error)

  threads = [
    threading.Thread(target=run, args=(place, *process)) for place, process in enumerate(processes)
  ]
  for thread in threads:
    thread.start()
    time.sleep(0.02)
  for thread in threads:
    thread.join(10)
  assert not any(thread.is_alive() for thread in threads)
  return found, said


def test_they_meet_whoever_comes_first():
  found, said = meet((2, 3), (0, 3), (1, 3), wait=10)
  assert [type(one) for one in found] == [peers.Peers] * 3
  assert not said
  ends = [threading.Thread(target=one.finish) for one in found]
  for thread in ends:
    thread.start()
  for thread in ends:
    thread.join(10)
  assert not any(thread.is_alive() for thread in ends)
  assert not any(one.lost.is_set() for one in found)


@pytest.mark.parametrize(
  ('processes', 'message'),
  [
    (((0, 3), (1, 3), (1, 3)), 'Two processes were started with --process_id=1'),
    (((0, 2), (1, 3)), '--num_processes=2, but process 1 with --num_processes=3'),
    (((0, 3), (1, 2)), '--num_processes=3, but process 1 with --num_processes=2'),
    (((2, 2),), '--process_id=2 is out of range: with --num_processes=2'),
  ],
)
def test_wrong_numbers_are_told_to_all(processes: Any, message: str):
  found, _ = meet(*processes, wait=10)
  assert all(message in one for one in found), found


def test_who_does_not_come_is_named_in_bounded_time(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(rendezvous, 'SAY', 0.2)
  (first, second), said = meet((0, 4), (2, 4))
  assert 'processes 1, 3 of 4 did not arrive at 127.0.0.1:' in first
  assert second == first
  assert any('Waiting for process' in line for line in said)
  (alone,), _ = meet((1, 2))
  assert 'Process 0 does not answer at --coordinator_address=127.0.0.1:' in alone


def test_a_port_in_use_is_said():
  with socket.create_server(('', 0)) as server:
    port = server.getsockname()[1]
    (found,), _ = meet((0, 2), port=port)
    assert f'127.0.0.1:{port} is in use on this machine' in found


def test_something_else_behind_the_address_is_said():
  with socket.create_server(('127.0.0.1', 0)) as server:

    def serve() -> None:
      with server.accept()[0] as connection:
        connection.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')

    threading.Thread(target=serve).start()
    (found,), _ = meet((1, 2), port=server.getsockname()[1], wait=10)
  assert 'is not process 0 of this run' in found


@pytest.mark.parametrize('text', ['localhost', 'host:0', 'host:70000', ':80', 'host:http', ''])
def test_addresses_have_a_host_and_a_port(text: str):
  with pytest.raises(ValueError, match='HOST:PORT'):
    rendezvous.parse_address(text)
  assert rendezvous.parse_address('[::1]:80') == ('::1', 80)


def test_a_process_that_dies_ends_the_others_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(peers, 'LINGER', 0.0)
  monkeypatch.setattr(peers, 'FOLLOW', 0.0)
  monkeypatch.setattr(peers, 'PAUSE', 0.0)
  ended: list[str] = []
  both = threading.Semaphore(0)

  def end(status: int) -> None:
    ended.append(str(status))
    both.release()

  monkeypatch.setattr(os, '_exit', end)
  monkeypatch.setattr(os, 'write', lambda file, text: ended.append(f'{file} {text.decode()}'))
  (zero, one, two), _ = meet((0, 3), (1, 3), (2, 3), wait=10)
  for peer in (zero, one, two):
    peer.step = 7
  one._leaving.set()  # it is dead
  one._connections[0].shutdown(socket.SHUT_RDWR)
  assert both.acquire(timeout=10)
  assert both.acquire(timeout=10)
  said = [line for line in ended if 'Process 1 of 3 ended early' in line]
  assert any('after step 7 of process 0, which cannot continue' in line for line in said)
  assert any('after step 7 of process 2' in line for line in said)
  assert all(line.startswith('2 error: ') and 'resume from the newest check' in line for line in said)
  assert ended.count('1') == 2
  for peer in (zero, one, two):
    peer.leave()


def test_a_process_that_fails_says_so(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(peers, 'LINGER', 0.3)
  monkeypatch.setattr(peers, 'FOLLOW', 0.0)
  monkeypatch.setattr(peers, 'PAUSE', 0.0)
  monkeypatch.setattr(os, '_exit', lambda status: None)
  monkeypatch.setattr(os, 'write', lambda file, text: None)
  (zero, one), _ = meet((0, 2), (1, 2), wait=10)
  leaving = threading.Thread(target=one.leave)
  leaving.start()
  assert zero.lost.wait(10)
  assert leaving.is_alive()  # until process 0 ends
  assert 'Process 1 of 2 ended with an error, which its own output shows' in zero.sentence
  zero.leave()
  leaving.join(10)
  assert not leaving.is_alive()
