"""Many hosts: how processes find each other, and who writes.

Every process runs the same program on the same data and sees the same steps; only process 0 writes
files and prints. Checkpoints of several processes need a workdir that all of them see.
"""

from typing import NamedTuple

import jax
from jax.experimental import multihost_utils


class Cluster(NamedTuple):
  """How to start: all three fields for hand-made clusters, `auto` for those jax recognises."""

  coordinator_address: str | None = None  # 'host:port' of process 0
  num_processes: int | None = None
  process_id: int | None = None
  auto: bool = False  # read the cluster's environment (Slurm, Open MPI, Kubernetes, TPU pods)


def initialize(cluster: Cluster) -> None:
  """Joins the other processes; does nothing for a run of one process. Call it before any jax work.

  Raises:
    ValueError: if some but not all of the addresses are given, or both they and `auto`.
  """
  given = [field is not None for field in cluster[:3]]
  if cluster.auto and any(given):
    raise ValueError(
      '--distributed=auto reads the address from the cluster, so --coordinator_address, '
      '--num_processes and --process_id must be left out.'
    )
  if any(given) and not all(given):
    raise ValueError(
      'A run on several hosts needs all of --coordinator_address, --num_processes and --process_id '
      '(or --distributed=auto on a cluster that jax recognises).'
    )
  if cluster.auto:
    jax.distributed.initialize()
  elif all(given):
    jax.distributed.initialize(*cluster[:3])


def primary() -> bool:
  """Whether this process writes files and prints."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits for all processes."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def preempted(step: int) -> bool:
  """Whether all processes agreed to stop after this step, one of them having received SIGTERM.

  Every process must call it once for each step.
  """
  return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
