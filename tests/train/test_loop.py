"""The loop: resumes bitwise, stops when told or when nothing is finite, and remembers the best."""

import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from structured_obs.config import Config
from structured_obs.data import pipeline
from structured_obs.devices import keys as keyss
from structured_obs.devices import mesh as meshes
from structured_obs.runs import checkpoint, initial, metrics_file
from structured_obs.runs.state import evaluation_variables
from structured_obs.train import loop, nonfinite, step
from tests.train import stub


def train(
  config: Config, workdir: Path, prepared: Any = None, model: type[stub.StubVAE] = stub.StubVAE
) -> loop.Outcome:
  """Runs the loop on the stub."""
  experiment = stub.make_experiment(config, model)
  prepared = prepared or stub.make_prepared()
  return loop.train(experiment, prepared, workdir, {'config': {}, 'data': {}})


def assert_equal(a: Any, b: Any) -> None:
  """Bitwise, leaf by leaf."""
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Outcome, Path]:
  """An uninterrupted run of 12 steps."""
  workdir = tmp_path_factory.mktemp('whole')
  return train(stub.make_config(), workdir), workdir


def test_a_resumed_run_equals_the_uninterrupted_one_bitwise(
  whole: tuple[loop.Outcome, Path], tmp_path: Path
):
  train(stub.make_config(steps=6), tmp_path)
  resumed = train(stub.make_config(), tmp_path)
  assert resumed.step == 12
  assert_equal(resumed.state, whole[0].state)
  assert resumed.standing.best == whole[0].standing.best


def test_records_are_written_once_in_order(whole: tuple[loop.Outcome, Path]):
  records = metrics_file.read(whole[1])
  trained = [record['step'] for record in records if record['kind'] == 'train']
  validated = [record['step'] for record in records if record['kind'] == 'validation']
  assert trained == [2, 4, 6, 8, 10, 12]
  assert validated == [4, 8, 12]
  assert all(np.isfinite(record['loss']) for record in records if record['kind'] == 'train')


@pytest.mark.parametrize('change', [{'mapping': 'pmap'}, {'residency': 'host'}, {'steps_in_flight': 1}])
@pytest.mark.few(3)
def test_how_the_steps_are_run_changes_nothing(
  change: dict[str, Any], whole: tuple[loop.Outcome, Path], tmp_path: Path
):
  config = stub.make_config()
  for name, value in change.items():
    setattr(config.data if name == 'residency' else config.train, name, value)
  assert_equal(train(config, tmp_path).state, whole[0].state)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
@pytest.mark.few(2)
def test_a_signal_saves_and_the_next_start_goes_on(
  number: signal.Signals, whole: tuple[loop.Outcome, Path], tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
  split_elbo = loop.likelihood.split_elbo

  def interrupt(*arguments: Any, **options: Any) -> np.ndarray:
    os.kill(os.getpid(), number)
    return split_elbo(*arguments, **options)

  before = signal.getsignal(number)
  with monkeypatch.context() as patch:
    patch.setattr(loop.likelihood, 'split_elbo', interrupt)
    stopped = train(stub.make_config(), tmp_path)
  assert (stopped.reason, stopped.step) == ('stopped', 5)
  assert signal.getsignal(number) is before
  assert_equal(train(stub.make_config(), tmp_path).state, whole[0].state)


def test_the_step_needs_no_implicit_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  make_step = step.make_step

  def guarded(*arguments: Any) -> Any:
    update = make_step(*arguments)

    def call(*operands: Any) -> Any:
      with jax.transfer_guard('disallow'):
        return update(*operands)

    return call

  monkeypatch.setattr(step, 'make_step', guarded)
  for residency in ('device', 'host'):
    config = stub.make_config(steps=3)
    config.data.residency = residency
    assert train(config, tmp_path / residency).reason == 'finished'


def test_patience_ends_the_run_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  values = iter([1.0, 3.0, 2.0, 2.5, 2.0])
  monkeypatch.setattr(loop.likelihood, 'split_elbo', lambda *_, **__: np.full(3, next(values)))
  config = stub.make_config(steps=100, validate_every=2, checkpoint_every=2, patience=3)
  config.train.steps = 8
  config.train.patience = 0
  assert train(config, tmp_path).standing == loop.Standing(best=3.0, best_step=4, waited=2)
  config.train.steps, config.train.patience = 100, 3
  outcome = train(config, tmp_path)
  assert (outcome.reason, outcome.step) == ('early', 10)
  assert train(config, tmp_path).step == 10
  assert checkpoint.steps_in(tmp_path / checkpoint.BEST) == [4]
  assert checkpoint.steps_in(tmp_path / checkpoint.CHECKPOINTS) == [8, 10]


def test_a_best_checkpoint_lost_by_a_kill_is_written_again(
  whole: tuple[loop.Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  save = checkpoint.save

  def killed(directory: Path, *arguments: Any, **named: Any) -> None:
    if directory.name == checkpoint.BEST:
      raise KeyboardInterrupt  # between the two saves
    save(directory, *arguments, **named)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, 'save', killed)
    with pytest.raises(KeyboardInterrupt):
      train(stub.make_config(), tmp_path)
  assert checkpoint.steps_in(tmp_path / checkpoint.BEST) == []
  train(stub.make_config(steps=4), tmp_path)
  assert checkpoint.steps_in(tmp_path / checkpoint.BEST) == [4]


def by_hand(config: Config, prepared: Any) -> Any:
  """The same training in plain words: no mapping; an update that is not finite is left out."""
  experiment = stub.make_experiment(config, stub.PoisonedVAE)
  model = stub.PoisonedVAE(size=12)
  init_key, train_key, _ = initial.run_keys(experiment)
  state = initial.init_state(experiment, init_key)
  preprocess = initial.make_preprocess(config, experiment.spec)
  params, opt_state = state.params, state.opt_state

  @jax.jit
  @jax.value_and_grad
  def value_and_grad(params: Any, keys: Any, batch: Any) -> Any:
    terms: Any = model.apply({'params': params['model']}, keys[:, 1], preprocess(keys[:, 0], batch))
    return stub.objective(terms, {})[0]

  update = jax.jit(experiment.optimizer.update)

  for number in range(config.train.steps):
    batch = pipeline.global_batch(config.train, prepared.images['train'], number)
    step_key = jax.random.fold_in(train_key, number)
    keys = jax.vmap(lambda i, key=step_key: jax.random.split(jax.random.fold_in(key, i)))(
      np.arange(len(batch))
    )
    loss, grads = value_and_grad(params, keys, batch)
    if np.isfinite(loss):
      updates, opt_state = update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
  return params


def test_updates_that_are_not_finite_are_dropped_and_counted(tmp_path: Path):
  prepared = stub.make_prepared(white=(7,))
  config = stub.make_config(max_nonfinite=3)
  outcome = train(config, tmp_path, prepared, stub.PoisonedVAE)
  epochs = config.train.steps * config.train.batch_size / 20
  assert 4 <= outcome.standing.skipped <= np.ceil(epochs)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    jax.device_get(outcome.state.params), by_hand(config, prepared),
  )  # fmt: skip
  losses = [record['loss'] for record in metrics_file.read(tmp_path) if record['kind'] == 'train']
  assert all(loss is None or np.isfinite(loss) for loss in losses)


def test_a_run_without_finite_steps_stops_and_names_the_term(tmp_path: Path):
  prepared = stub.make_prepared(white=tuple(range(20)))
  config = stub.make_config(max_nonfinite=3)
  with pytest.raises(loop.NonFiniteError, match=r"3 consecutive steps .*'log_p/x'.*step_00000002"):
    train(config, tmp_path, prepared, stub.PoisonedVAE)
  with np.load(tmp_path / nonfinite.DIRECTORY / 'step_00000002.npz') as saved:
    batch = pipeline.global_batch(config.train, prepared.images['train'], 2)
    np.testing.assert_array_equal(saved['batch'], batch)
    experiment = stub.make_experiment(config, stub.PoisonedVAE)
    key, _, _ = initial.run_keys(experiment)
    kernel = initial.init_state(experiment, key).params['model']['encoder']['kernel']
    np.testing.assert_array_equal(saved['params/model/encoder/kernel'], kernel)


def test_validation_uses_the_averaged_parameters(tmp_path: Path):
  config = stub.make_config()
  config.optim.ema_decay = 0.9
  state = train(config, tmp_path).state
  variables = evaluation_variables(state)
  assert_equal(variables['params'], state.ema)
  assert not np.array_equal(variables['params']['encoder']['kernel'],
                            state.params['model']['encoder']['kernel'])  # fmt: skip


def test_the_mapped_step_sees_the_keys_of_the_whole_batch():
  mesh = meshes.make_mesh()
  keys = jax.shard_map(
    lambda batch: jax.random.key_data(
      keyss.step_keys(jax.random.key(5), 3, batch.shape[0], meshes.AXIS)[1]
    ),
    mesh=mesh,
    in_specs=jax.sharding.PartitionSpec(meshes.AXIS),
    out_specs=jax.sharding.PartitionSpec(meshes.AXIS),
  )(np.zeros((8, 1), np.float32))
  alone = keyss.step_keys(jax.random.key(5), 3, 8, None)[1]
  np.testing.assert_array_equal(keys, jax.random.key_data(alone))
