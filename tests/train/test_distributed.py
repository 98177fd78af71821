"""Two processes on this machine: the result of one, and one decision to stop."""

import signal
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from structured_obs.train import checkpoint, distributed, experiment, metrics
from tests.train import programs

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return programs.write_config(tmp_path_factory.mktemp('distributed'))


def start_two(config: Path, workdir: Path, *flags: str) -> list[subprocess.Popen[str]]:
  """Starts two processes of two devices each."""
  address = f'--coordinator_address=127.0.0.1:{programs.free_port()}'
  return [
    programs.start(
      config, workdir, address, '--num_processes=2', f'--process_id={number}', *flags, devices=2
    )
    for number in range(2)
  ]


def test_two_processes_get_the_result_of_one(config: Path):
  one, two = config.parent / 'one', config.parent / 'two'
  flags = ('--config.train.checkpoint_every=6', '--config.train.validate_every=6')
  programs.finish(programs.start(config, one, *flags, devices=4))
  processes = start_two(config, two, *flags, '--config.data.residency=host')
  said = [programs.finish(process) for process in processes]
  assert 'Finished: 12 of 12 steps.' in said[0]
  assert 'Finished' not in said[1]
  assert 'train' not in said[1]
  # Adam divides a gradient by its own size, and so makes round-off of a small one visible.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    experiment.restore(one, 'latest').variables,
    experiment.restore(two, 'latest').variables,
  )
  elbos = [[record['elbo'] for record in metrics.read(workdir)] for workdir in (one, two)]
  np.testing.assert_allclose(elbos[0], elbos[1], rtol=1e-5)


def test_sigterm_to_one_saves_the_same_step_on_both(config: Path):
  workdir = config.parent / 'preempted'
  processes = start_two(config, workdir, '--config.train.steps=100000',
                        '--config.train.checkpoint_every=1000')  # fmt: skip
  programs.wait_until(lambda: programs.recorded(workdir) >= 2, processes[0])
  processes[1].send_signal(signal.SIGTERM)
  said = [programs.finish(process) for process in processes]
  step = checkpoint.steps_in(workdir / experiment.CHECKPOINTS)[-1]
  assert f'Stopped and saved after step {step} of 100000.' in said[0]
  assert experiment.restore(workdir, step).step == step


@pytest.mark.parametrize(
  ('cluster', 'message'),
  [
    (distributed.Cluster(num_processes=2), 'needs all of --coordinator_address'),
    (distributed.Cluster(process_id=0, auto=True), 'must be left out'),
  ],
)
def test_half_an_address_is_refused(cluster: distributed.Cluster, message: str):
  with pytest.raises(ValueError, match=message):
    distributed.initialize(cluster)
