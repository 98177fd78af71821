"""Trains a model, or resumes its training: repeat the same command to resume.

  python -m launch.train --config=configs/digits.py:low_rank --workdir=runs/low_rank
  python -m launch.train --config=configs/digits.py:low_rank --dry_run

During training, Ctrl-C and SIGTERM save and exit with status 0, and a second Ctrl-C aborts. Before and
after it they exit with one line and status 130 or 143. On several hosts, start the same command on each
with --coordinator_address, --num_processes and its own --process_id, or with --distributed=auto if jax
knows the cluster; all hosts must see the same workdir. They compare their configurations, code, data
and, at each checkpoint, states.
"""

import shlex
import sys
from collections.abc import Sequence

from absl import flags as absl_flags

from launch import flags
from structured_obs.devices import hosts
from structured_obs.train import run

_CONFIG = flags.define_config()
_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_DRY_RUN = absl_flags.DEFINE_bool('dry_run', False, 'Describe the compiled step; write nothing.')
_TENSORBOARD = absl_flags.DEFINE_bool('tensorboard', False, 'Also write TensorBoard event files.')
_ALLOW = absl_flags.DEFINE_bool(
  'allow_config_change', False, 'Continue although the configuration or the data have changed.'
)
_ALLOW_OLDER = absl_flags.DEFINE_bool(
  'allow_older_checkpoint', False,
  'Resume although damaged checkpoints lose more than an hour of training.',
)  # fmt: skip
_DISTRIBUTED = absl_flags.DEFINE_enum(
  'distributed', 'off', ['off', 'auto'], "'auto' reads the cluster's environment."
)
_COORDINATOR = absl_flags.DEFINE_string('coordinator_address', None, 'host:port of process 0.')
_PROCESSES = flags.define_integer('num_processes', None, 'Number of processes.', 1)
_PROCESS = flags.define_integer('process_id', None, 'Number of this process, from 0.')


def main(arguments: Sequence[str]) -> None:
  """Runs the training that the flags describe."""
  del arguments
  run.run(
    _CONFIG.value,
    run.Options(
      workdir=_WORKDIR.value,
      command=f'python -m launch.train {shlex.join(sys.argv[1:])}',
      dry_run=_DRY_RUN.value,
      tensorboard=_TENSORBOARD.value,
      allow_config_change=_ALLOW.value,
      allow_older_checkpoint=_ALLOW_OLDER.value,
      cluster=hosts.Cluster(
        _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, _DISTRIBUTED.value == 'auto'
      ),
    ),
  )


if __name__ == '__main__':
  flags.run(main)
