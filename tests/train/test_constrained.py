"""Constrained runs: bounds hold at the end, multipliers resume bitwise, and devices agree on them."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from structured_obs.config import Config, ObjectiveConfig
from structured_obs.data import pipeline
from structured_obs.devices import mesh as meshes
from structured_obs.runs import configuration, initial, metrics_file
from structured_obs.runs import experiment as experiments
from structured_obs.train import loop, run, step
from tests.train import stub

KL, ENTROPY = 0.5, 0.3  # nats; nats per rank


def _config(steps: int, rate: float = 0.1, **bounds: float) -> Config:
  config = stub.make_config(steps=steps, validate_every=steps, checkpoint_every=6)
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  options = {'rank': 2, 'noise_variance': 0.05, 'factor_scale': 1.0}
  config.likelihood = dataclasses.replace(config.likelihood, family='low_rank', options=options)
  bounds = {'kl': KL, 'entropy': ENTROPY} | bounds
  held = {name: {'bound': bound, 'rate': rate} for name, bound in bounds.items() if bound}
  config.objective = ObjectiveConfig(beta=0.0, dequantize=False, constraints=held)
  config.optim = dataclasses.replace(config.optim, learning_rate=1e-2, stages=('mean:2',))
  return config


def _train(config: Config, workdir: Path) -> loop.Outcome:
  prepared = stub.make_prepared()
  experiment = experiments.build(config, prepared.spec)
  return loop.train(experiment, prepared, workdir, {'config': {}, 'data': {}})


@pytest.mark.slow
def test_a_resumed_run_has_the_multipliers_of_an_uninterrupted_one(tmp_path: Path):
  whole = _train(_config(12), tmp_path / 'whole').state
  _train(_config(6), tmp_path / 'parts')
  resumed = _train(_config(12), tmp_path / 'parts').state
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(resumed))
  assert set(whole.params['multipliers']) == {'kl_z', 'excess_entropy'}
  assert float(whole.params['multipliers']['excess_entropy']) > 0


@pytest.mark.slow
def test_bounds_hold_at_the_end_and_multipliers_settle(tmp_path: Path):
  config = _config(600, rate=0.3)  # faster ones jump with every batch's noise
  config.train = dataclasses.replace(config.train, log_every=50, checkpoint_every=600)
  config.optim = dataclasses.replace(config.optim, schedule='cosine')
  _train(config, tmp_path)
  records = [record for record in metrics_file.read(tmp_path) if record['kind'] == 'train']
  last = records[-1]
  assert last['stats/kl_z'] <= 1.02 * KL
  assert last['stats/excess_entropy'] <= 1.02 * 2 * ENTROPY
  prices = [record['multipliers/excess_entropy'] for record in records]
  assert prices[-1] > 0
  assert abs(prices[-1] - prices[-3]) < 0.1 * prices[-1]


@pytest.mark.slow
def test_a_bound_that_never_bound_in_any_part_of_a_run_is_told_at_its_end(tmp_path: Path):
  config = Config(train=dataclasses.replace(Config().train, steps=2, batch_size=8, log_every=1))
  config.data.cache_dir, workdir = str(tmp_path / 'data'), tmp_path / 'run'
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  config.objective = ObjectiveConfig(beta=0.0, constraints={'kl': {'bound': 1e6}})
  options, said = run.Options(str(workdir), allow_config_change=True), []
  for steps in (2, 4):
    config.train = dataclasses.replace(config.train, steps=steps)
    run.run(config, options, said.append)
    last = 'The bound on the KL never bound: the mean stayed at'
    assert last in said[-1]
    assert last in (workdir / 'report.md').read_text()
  records = metrics_file.read(workdir)
  lines = [one for one in (workdir / 'metrics.jsonl').read_text().split('\n') if one]
  first = lines[0].replace('"multipliers/kl_z": 0.0', '"multipliers/kl_z": 0.5')
  assert first != lines[0]
  (workdir / 'metrics.jsonl').write_text('\n'.join([first, *lines[1:], '']))
  assert len(metrics_file.read(workdir)) == len(records)
  config.train = dataclasses.replace(config.train, steps=6)
  run.run(config, options, said.append)
  assert 'The bound on the KL has not bound since step 1' in said[-1]


@pytest.mark.slow
def test_without_the_bound_the_entropy_is_larger(tmp_path: Path):
  config = _config(300, entropy=0.0)
  config.train = dataclasses.replace(config.train, log_every=100, checkpoint_every=300)
  outcome = _train(config, tmp_path)
  assert set(outcome.state.params['multipliers']) == {'kl_z'}
  assert metrics_file.read(tmp_path)[-2]['stats/excess_entropy'] > 1.5 * 2 * ENTROPY


@pytest.mark.slow
def test_devices_agree_with_one():
  config, prepared = _config(3, trace=2.0), stub.make_prepared()
  held = config.objective.constraints
  held['entropy'] |= {'floor': 0.02, 'kind': 'equal', 'bound': 30.0}
  held['trace']['kind'] = 'at_least'
  experiment = experiments.build(config, prepared.spec)
  states = []
  for devices in (1, 4):
    mesh = meshes.make_mesh(jax.local_devices()[:devices])
    _, key, _ = initial.run_keys(experiment)
    state = meshes.replicate(initial.init_state(experiment, key), mesh)
    update, key = step.make_step(experiment, mesh), meshes.replicate(key, mesh)
    for number in range(3):
      batch = pipeline.global_batch(config.train, prepared.images['train'], number)
      state, _ = update(state, key, jax.device_put(batch, meshes.split(mesh)))
    states.append(jax.device_get(state.params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *states)
  found = {name: float(value) for name, value in states[0]['multipliers'].items()}
  assert set(found) == {'kl_z', 'entropy', 'factor_variance'}
  assert found['kl_z'] >= 0
  assert found['entropy'] < 0 < found['factor_variance']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'entropy': {'bound': 1.0}, 'family': 'diagonal'}, "'diagonal' has no rank"),
    (
      {
        'entropy': {'bound': 1.0}, 'family': 'sparse_precision', 'wrappers': ('low_rank_update',),
      },
      "'sparse_precision' with .*wrappers=.'low_rank_update',. has no such noise",
    ),
    ({'trace': {'bound': 1.0}, 'family': 'diagonal'}, "'diagonal' is not such a sum; use the family"),
    ({'kl': {'bound': 1.0, 'kind': 'atmost'}}, "constraints.kl.kind.* 'at_most'"),
    ({'kl': {'bound': 1.0, 'floor': 1.0}}, 'constraints.kl.floor=1.0: there is no such option'),
    ({'kl': {'bound': 1.0}, 'kind': 'ae'}, "constraints.kl.bound=1.0 has no effect with .*kind='ae'"),
    ({'kl': {'bound': -1.0}}, 'constraints.kl.bound must be a number above 0, but is -1.0'),
    ({'kl': {'damping': 1.0}}, 'constraints.kl.bound must be a number above 0, but is 0.0'),
    ({'kl': {'bound': 1.0, 'rate': 0.0}}, 'constraints.kl.rate must be a number above 0'),
    ({'kl': {'bond': 1.0}}, 'did you mean --config.objective.constraints.kl.bound'),
    ({'k': {'bound': 1.0}}, 'objective.constraints.k=.* no such option of'),
  ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused(change: dict[str, Any], message: str):
  config = _config(3)
  config.objective.beta = 1.0
  config.objective.constraints = {k: v for k, v in change.items() if isinstance(v, dict)}
  if 'family' in change:
    config.likelihood = dataclasses.replace(
      config.likelihood, family=change['family'], options={},
      wrappers=change.get('wrappers', ()),
    )  # fmt: skip
  config.model.kind = change.get('kind', 'vae')
  with pytest.raises(ValueError, match=message):
    configuration.resolve(config)
