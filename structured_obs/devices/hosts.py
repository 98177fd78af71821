"""Runs on several hosts: processes find each other, compare what must be equal, and share the work.

Every process runs the same program on the same data and takes the same steps; only process 0 writes
files and prints. Checkpoints of several processes need a workdir that all of them see.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

import structured_obs
from structured_obs.devices import peers, rendezvous

SHOWN = 3  # differences that a message lists
# In errors of collective operations that another process caused.
_COLLECTIVE = re.compile('gloo|nccl|collective|coordination|unavailable|deadline_exceeded', re.I)
_joined: list[peers.Peers] = []  # at most one


class Cluster(NamedTuple):
  """How to start: three fields for a cluster by hand, or `auto` for one that jax recognises."""

  coordinator_address: str | None = None  # 'host:port' of process 0
  num_processes: int | None = None
  process_id: int | None = None
  auto: bool = False  # read the cluster's environment (Slurm, Open MPI, Kubernetes, TPU pods)


class PeerLostError(RuntimeError):
  """Another process of the run has ended, so this one cannot continue."""


def check(cluster: Cluster) -> None:
  """Raises a ValueError if only some of the addresses are given, or both they and `auto`."""
  given = [field is not None for field in cluster[:3]]
  if cluster.auto and any(given):
    raise ValueError(
      '--distributed=auto reads the addresses from the cluster; omit --coordinator_address, '
      '--num_processes and --process_id.'
    )
  if any(given) and not all(given):
    raise ValueError(
      'A run on several hosts needs all of --coordinator_address, --num_processes and --process_id '
      '(or --distributed=auto on a cluster that jax recognises).'
    )
  if cluster.coordinator_address is not None:
    rendezvous.parse_address(cluster.coordinator_address)


@contextlib.contextmanager
def joined(cluster: Cluster, say: Callable[[str], None]) -> Iterator[None]:
  """Joins the other processes of a run until the end of the block; does nothing for a single process.

  Enter it before any jax work. With addresses, processes that do not arrive or end early are detected
  here; with `auto` jax does that.

  Args:
    cluster: how to start.
    say: receives a line if the other processes take long to arrive.

  Raises:
    ValueError: the cluster is invalid or incomplete; see `check` and `rendezvous.meet`.
    PeerLostError: another process ended while this one waited for it.
  """
  check(cluster)
  if cluster.auto:
    jax.distributed.initialize()
  address, count, number = cluster[:3]
  if address is not None and count is not None and number is not None:  # all of them or none
    _joined.append(rendezvous.meet(address, count, number, say))
    jax.distributed.initialize(address, count, number)
  try:
    yield
  except Exception as error:
    if (cluster.auto or _joined) and _COLLECTIVE.search(str(error)):
      raise PeerLostError(_lost(error)) from error
    raise
  if _joined:
    _joined[0].finish()


def leave() -> None:
  """Tells the other processes that this one ends early; call it after printing the message."""
  if _joined:
    _joined[0].leave()


def _lost(error: Exception) -> str:
  """Returns a sentence that says why a collective operation failed."""
  if _joined and _joined[0].lost.wait(5.0):
    _joined[0].last_word.acquire()
    return _joined[0].sentence
  return (
    'An operation of all processes failed because one of them ended or the network broke: '
    f'{str(error).splitlines()[0]}. Restart all processes with the same commands; they resume from '
    'the newest checkpoint.'
  )


def agree(what: str, facts: Callable[[], Mapping[str, Any]]) -> None:
  """Compares facts between all processes; does nothing for a single process. Every process must call it.

  Args:
    what: names the facts in the message, as a plural.
    facts: returns them, JSON values by name.

  Raises:
    ValueError: in every process, naming the facts that differ from process 0.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps(dict(facts()), sort_keys=True, default=str).encode()
  digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest)
  if (digests == digests[0]).all():
    return
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.frombuffer(text.ljust(int(sizes.max()), b' '), np.uint8)
  first, *others = (json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded))
  lines = [
    f'process {number}: {line}'
    for number, other in enumerate(others, 1)
    for line in _differences(first, other)
  ]
  shown = lines[:SHOWN] + ([f'... and {len(lines) - SHOWN} more'] if len(lines) > SHOWN else [])
  raise ValueError(
    f'{what} must be the same in all processes, but these differ from process 0:\n'
    + '\n'.join(f'  {line}' for line in shown)
  )


def _differences(first: dict[str, Any], other: dict[str, Any]) -> list[str]:
  """Returns 'name is X, not Y' for each fact of another process that differs from process 0."""
  return [
    f'{name} is {other.get(name)!r}, not {first.get(name)!r}'
    for name in {**first, **other}
    if other.get(name) != first.get(name)
  ]


def source_digest() -> str:
  """Returns the first 16 hexadecimal digits of the SHA-256 of this package's source files."""
  root = Path(structured_obs.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob('*.py')):
    digest.update(path.relative_to(root).as_posix().encode() + b'\0' + path.read_bytes() + b'\0')
  return digest.hexdigest()[:16]


def primary() -> bool:
  """Returns whether this process writes files and prints."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def preempted(step: int) -> bool:
  """Returns whether all processes agreed to stop after this step because one received SIGTERM.

  Every process must call it once per step.
  """
  if _joined:
    _joined[0].step = step
  return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
