"""Two processes on this machine: the result of one, one decision to stop, and what differs is said."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from structured_obs.devices import hosts
from structured_obs.runs import checkpoint, metrics_file, restore
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


@pytest.mark.slow
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
    restore.restore(one, 'latest').variables,
    restore.restore(two, 'latest').variables,
  )
  elbos = [[record['elbo'] for record in metrics_file.read(workdir)] for workdir in (one, two)]
  np.testing.assert_allclose(elbos[0], elbos[1], rtol=1e-5)


@pytest.mark.slow
def test_sigterm_to_one_saves_the_same_step_on_both(config: Path):
  workdir = config.parent / 'preempted'
  processes = start_two(config, workdir, '--config.train.steps=100000',
                        '--config.train.checkpoint_every=1000')  # fmt: skip
  programs.wait_until(lambda: programs.recorded(workdir) >= 2, processes[0])
  processes[1].send_signal(signal.SIGTERM)
  said = [programs.finish(process) for process in processes]
  step = checkpoint.steps_in(workdir / checkpoint.CHECKPOINTS)[-1]
  assert f'Stopped and saved after step {step} of 100000.' in said[0]
  assert restore.restore(workdir, step).step == step


PROGRAM = """
import os
import sys
from structured_obs.devices import hosts

number = int(sys.argv[2])
facts = {'--config.train.seed': number, 'data.sha256': 'abc', 'weights': [1.5, None]}
with hosts.joined(hosts.Cluster(sys.argv[1], 2, number), print):
  hosts.agree('What all have', lambda: {**facts, '--config.train.seed': 0})
  for _ in range(2):  # of which every process hears, so that all can end alike
    try:
      hosts.agree('Configurations', lambda: facts)
    except ValueError as error:
      print(f'{number}: {error}', flush=True)
  hosts.preempted(7)
  hosts.barrier('both have said so')
  if number:
    os.kill(os.getpid(), 9)
  hosts.barrier('never reached')
"""


@pytest.mark.slow
def test_two_processes_are_compared_and_one_that_dies_ends_the_other(tmp_path: Path):
  (tmp_path / 'program.py').write_text(PROGRAM)
  command = [sys.executable, str(tmp_path / 'program.py'), f'127.0.0.1:{programs.free_port()}']
  environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(programs.ROOT)}
  zero, one = (
    subprocess.Popen(
      [*command, str(number)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  )
  others = programs.finish(one, -signal.SIGKILL)
  said = programs.finish(zero, 1)
  for number, text in enumerate((said, others)):
    sentence = 'Configurations must be the same in all processes, but these differ from process 0:\n'
    sentence += '  process 1: --config.train.seed is 1, not 0\n'
    assert text.count(f'{number}: {sentence}') == 2
    assert 'sha256' not in text
    assert 'What all have' not in text
  assert 'Process 1 of 2 ended early' in said
  assert 'after step 7 of process 0' in said
  assert 'Restart all processes' in said


@pytest.mark.parametrize(
  ('cluster', 'message'),
  [
    (hosts.Cluster(num_processes=2), 'needs all of --coordinator_address'),
    (hosts.Cluster(process_id=0, auto=True), 'omit --coordinator_address'),
    (hosts.Cluster('localhost', 2, 0), 'must have the form HOST:PORT'),
    (hosts.Cluster('localhost:1234', 2, 2), '--process_id=2 is out of range: with --num_processes=2'),
  ],
)
def test_half_an_address_is_refused(cluster: hosts.Cluster, message: str):
  with pytest.raises(ValueError, match=message), hosts.joined(cluster, print):
    pass
