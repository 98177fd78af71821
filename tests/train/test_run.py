"""From a configuration to a run: what is refused before anything starts, and what a run leaves."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.evaluation import likelihood, training_report
from structured_obs.models.base import Bound
from structured_obs.objectives import bounds
from structured_obs.runs import (
  checkpoint,
  checks,
  configuration,
  experiment,
  initial,
  lock,
  restore,
  workdir,
)
from structured_obs.train import dry_run, run
from tests.train import stub


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
  """A tiny VAE on digits, 4 steps."""
  config = Config()
  config.data.cache_dir = str(tmp_path_factory.mktemp('data'))
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  settings = {'steps': 4, 'batch_size': 16, 'validate_every': 2, 'checkpoint_every': 2}
  config.train = dataclasses.replace(config.train, **settings)
  return config


def changed(config: Config, **fields: Any) -> Config:
  """A copy with 'section_name=value' changed, a double underscore between section and name."""
  sections = {}
  for name, value in fields.items():
    section, field = name.split('__')
    part = sections.get(section, getattr(config, section))
    sections[section] = dataclasses.replace(part, **{field: value})
  return dataclasses.replace(config, **sections)


@pytest.fixture(scope='module')
def trained(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The workdir of a finished run."""
  directory = tmp_path_factory.mktemp('run') / 'digits'
  outcome = run.run(config, run.Options(str(directory), command='the command'), lambda text: None)
  assert outcome is not None
  assert outcome.reason == 'finished'
  return directory


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'train__mapping': 'shardmap'}, "train.mapping must .* 'shardmap'.* Did you mean 'shard_map'"),
    ({'optim__schedule': 'linear'}, "optim.schedule must be one of 'constant', .* but is 'linear'"),
    ({'optim__stages': ('mean',)}, "optim.stages has the invalid entry 'mean'"),
    ({'model__options': {'norm': 'bach'}}, "options.norm must .* 'bach'.* Did you mean 'batch'"),
    ({'model__kind': 'vea'}, "model.kind must .* 'vea'"),
    ({'model__options': {'covariance': {'features': (4, 0)}}}, r'covariance.features .* is \(4, 0\)'),
    ({'model__options': {'input_noise': 0.1}}, "input_noise=0.1: .* option of .*model.kind='vae'"),
    ({'model__options': {'architecture': 'strided', 'blocks': 1}}, "of .*architecture='strided'"),
    ({'data__residency': 'gpu'}, "data.residency must .* 'gpu'"),
    ({'data__options': {'plane': 'axial'}}, "of --config.data.source='digits'; it is one of .*=nifti"),
    ({'likelihood__family': 'low_rnk'}, "likelihood.family must .* Did you mean 'low_rank'"),
    ({'likelihood__options': {'rnak': 3}}, '--config.likelihood.options.rnak=3: there is no'),
    ({'likelihood__options': {'min_scale': -1.0}}, r'likelihood.options.min_scale must .* but is -1.0'),
    ({'model__options': {'prior_options': {'components': 3}}}, "'normal'; it is one of .*=mixture"),
    ({'train__steps': 0}, 'train.steps must be a whole number of at least 1, but is 0'),
    ({'optim__optimizer': 'adamx'}, "optim.optimizer must .* 'adamx'.* Did you mean 'adamax'"),
    ({'optim__schedule_options': {'decay': 0.99}}, "option of --config.optim.schedule='constant'"),
    ({'optim__schedule': 'exponential'}, 'decay must be a number above 0 and below 1, but is 1.0'),
    (
      {
        'optim__schedule': 'exponential',
        'optim__schedule_options': {'decay': 0.9, 'min_learning_rate': 0.1},
      },
      'min_learning_rate=0.1 is out of range: it must be at most 0.001',
    ),
    ({'train__compute': 'float16'}, "train.compute must .* 'float16'"),
    ({'train__accumulate': 3}, '4 devices of 1 process, 3 parts each .*; 12 or 24 would'),
    ({'optim__ema_decay': 1.0}, 'optim.ema_decay must be a number of at least 0 and below 1'),
    ({'optim__clip_norm': -1.0}, 'optim.clip_norm must be a number of at least 0'),
    ({'model__options': {'features': ()}}, 'options.features must be a tuple, not empty'),
    ({'train__batch_size': 18}, 'does not divide by the 4 devices of 1 process; 16 or 20 would'),
    ({'train__batch_size': 4000}, 'the training split, which has 1455 images'),
    ({'data__turn': True, 'data__width': 6}, 'data.turn needs square images, .* 8 pixels'),
  ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
  fields: dict[str, Any], message: str, config: Config, tmp_path: Path
):
  with pytest.raises(ValueError, match=message):
    run.run(changed(config, **fields), run.Options(str(tmp_path / 'run')), lambda text: None)
  assert not (tmp_path / 'run').exists()


def test_a_missing_or_foreign_workdir_is_refused(config: Config, tmp_path: Path):
  with pytest.raises(ValueError, match='--workdir is missing'):
    run.run(config, run.Options())
  (tmp_path / 'thesis.tex').write_text('')
  with pytest.raises(ValueError, match=r'holds files but no run\.json'):
    run.run(config, run.Options(str(tmp_path)))


def test_a_failed_start_does_not_refuse_the_corrected_command(config: Config, tmp_path: Path):
  other = configuration.resolve(changed(config, optim__learning_rate=0.5))
  spec = prepare.prepare(config.data).spec._replace(sha256='abc')
  workdir.write(tmp_path, workdir.describe(other, spec, ''))
  (tmp_path / checkpoint.CHECKPOINTS / '4.orbax-checkpoint-tmp').mkdir(parents=True)
  corrected, options = changed(config, train__batch_size=4000), run.Options(str(tmp_path))
  with pytest.raises(ValueError, match='the training split, which has 1455 images'):
    run.run(corrected, options, lambda text: None)
  (tmp_path / checkpoint.CHECKPOINTS / '4').mkdir()
  with pytest.raises(ValueError, match='holds a run of another configuration'):
    run.run(corrected, options, lambda text: None)


def test_pmap_is_refused_on_several_hosts(config: Config):
  with pytest.raises(ValueError, match="'pmap' works on one host only"):
    checks.check_batch(changed(config, train__mapping='pmap'), 100, 4, 2)


def test_a_changed_configuration_is_refused_in_three_lines(config: Config, trained: Path):
  other = changed(
    config,
    optim__learning_rate=0.5,
    model__options=config.model.options | {'latents': 3},
    objective__beta=2.0,
    train__batch_size=32,
  )
  with pytest.raises(ValueError, match='another configuration') as error:
    run.run(other, run.Options(str(trained)), lambda text: None)
  assert str(error.value).splitlines()[1:5] == [
    '  model.options.latents: 2 -> 3',
    '  objective.beta: 1.0 -> 2.0',
    '  optim.learning_rate: 0.001 -> 0.5',
    '  ... and 1 more',
  ]


def test_other_data_are_refused(config: Config, trained: Path, tmp_path: Path):
  spec = prepare.prepare(config.data).spec
  other = spec._replace(sha256='abc')
  with pytest.raises(ValueError, match=r'sha256: \w+ -> abc'):
    workdir.check_data(trained, other, allow_change=False)
  workdir.check_data(trained, other, allow_change=True)
  workdir.check_data(trained, spec, allow_change=False)
  workdir.check_data(tmp_path, other, allow_change=False)


@pytest.mark.parametrize(
  ('fields', 'free'),
  [
    ({'train__steps': 9}, True),
    ({'train__steps': 9, 'optim__schedule': 'cosine'}, False),
    ({'train__mapping': 'pmap', 'eval__chunk': 7, 'data__residency': 'host'}, True),
    ({'train__seed': 1}, False),
    ({'data__flip': True}, False),
  ],
)
def test_which_fields_may_change(fields: dict[str, Any], free: bool, config: Config):
  base = changed(config, optim__schedule=fields.get('optim__schedule', 'constant'))
  assert (configuration.binding(changed(config, **fields)) == configuration.binding(base)) == free


def test_a_configuration_survives_json(config: Config):
  config = changed(config, optim__stages=('mean:3',), likelihood__options={'max_scale': 3.0})
  again = configuration.from_dict(json.loads(json.dumps(configuration.to_dict(config))))
  assert again == configuration.filled(config)
  with pytest.raises(ValueError, match=r"'optim\.lr'"):
    configuration.from_dict({'optim': {'lr': 1.0}})


def test_a_dry_run_counts_and_writes_nothing(config: Config, tmp_path: Path):
  said: list[str] = []
  run.run(config, run.Options(str(tmp_path / 'run'), dry_run=True), said.append)
  (report,) = [text for text in said if text.startswith('data')]
  built = experiment.build(config, prepare.prepare(config.data).spec)
  params = initial.init_state(built, jax.random.key(0)).params['model']
  total = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert f'parameters  {total:,} ' in report
  assert sum(dry_run.count_by_module(params).values()) == total
  assert 'decoder/heads/mean' in report
  assert 'uint8 [16, 8, 8, 1] over 4 device(s)' in report
  assert 'memory' in report
  assert 'operations' in report
  assert 'estimate    fits: needs about' in report
  assert not (tmp_path / 'run').exists()


def test_a_run_describes_itself(config: Config, trained: Path):
  about = workdir.read(trained)
  assert configuration.from_dict(about['config']) == configuration.resolve(config)
  assert about['data']['counts']['train'] == 1455
  assert about['versions']['jax'] == jax.__version__
  assert about['command'] == 'the command'


@pytest.mark.parametrize('which', ['best', 'latest', 4])
def test_a_restored_model_is_the_trained_one(which: str | int, config: Config, trained: Path):
  restored = restore.restore(trained, which)
  prepared = prepare.prepare(config.data)
  _, _, key = initial.run_keys(restored.experiment)
  elbo = likelihood.split_elbo(restored.bound, prepared.images['validation'], key, levels=17)
  records = (trained / 'metrics.jsonl').read_text().splitlines()
  validated = {
    record['step']: record['elbo']
    for record in map(json.loads, records)
    if record['kind'] == 'validation'
  }
  assert elbo.shape == (162,)
  np.testing.assert_allclose(elbo.mean(), validated[restored.step], rtol=1e-5)
  if which == 'best':
    assert validated[restored.step] == max(validated.values())


def test_a_checkpoint_that_is_not_there_is_said(trained: Path, tmp_path: Path):
  with pytest.raises(FileNotFoundError, match=r"no checkpoint '3'; it has the steps \[2, 4\]"):
    restore.restore(trained, 3)
  with pytest.raises(FileNotFoundError, match="no checkpoint 'best'"):
    restore.restore(tmp_path)
  assert checkpoint.steps_in(trained / checkpoint.BEST)


def test_a_damaged_best_checkpoint_is_said_with_what_else_there_is(
  trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
  directory = Path(shutil.copytree(trained, tmp_path / 'copied'))
  (step,) = checkpoint.steps_in(directory / checkpoint.BEST)
  (directory / checkpoint.BEST / str(step) / checkpoint.METADATA).write_bytes(b'{}')
  with pytest.raises(checkpoint.DamagedError) as error:
    restore.restore(directory)
  assert f'The checkpoint of step {step} in {directory / checkpoint.BEST} is damaged' in str(error.value)
  choice = f'best [{step}]; select one by --checkpoint=latest or --checkpoint=STEP.'
  assert choice in str(error.value)
  assert restore.restore(directory, 'latest').step == 4
  assert restore.restore(directory, step).step == step  # that of the latest checkpoints
  training_report.write(directory)
  assert 'The report describes the latest checkpoint.' in capsys.readouterr().err
  assert 'step 4' in (directory / 'report.md').read_text()


def test_a_second_training_in_a_workdir_is_refused(config: Config, trained: Path):
  before = sorted(trained.rglob('*'))
  with (
    lock.held(trained, print),
    pytest.raises(ValueError, match=rf'Another training \(process \d+ .* is running in {trained}'),
  ):
    run.run(config, run.Options(str(trained)), lambda text: None)
  assert sorted(trained.rglob('*')) == before


def test_a_training_that_ran_while_this_one_prepared_is_noticed(
  config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  directory = tmp_path / 'run'
  other = configuration.resolve(changed(config, optim__learning_rate=0.5))
  prepared = prepare.prepare(config.data)

  def another(*arguments: Any) -> prepare.Prepared:
    workdir.write(directory, workdir.describe(other, prepared.spec, 'another command'))
    (directory / checkpoint.CHECKPOINTS / '4').mkdir(parents=True)
    return prepared

  monkeypatch.setattr(prepare, 'prepare', another)
  with pytest.raises(ValueError, match=r'learning_rate: 0\.5 -> 0\.001'):
    run.run(config, run.Options(str(directory)), lambda text: None)
  assert {path.name for path in directory.iterdir()} == {workdir.FILE, checkpoint.CHECKPOINTS}


def test_the_split_elbo_depends_on_no_layout():
  model, images = stub.StubVAE(size=12), stub.make_prepared().images['train'][:11]
  keys = jax.random.split(jax.random.key(0), 1)
  variables: Any = model.init(jax.random.key(1), keys, jnp.zeros((1, 3, 4, 1), jnp.float32))
  key = jax.random.key(2)
  mesh = jax.make_mesh((4,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))
  bound = Bound(model, variables)
  whole = likelihood.split_elbo(bound, images, key, 256, batch_size=11)
  spread = likelihood.split_elbo(bound, images, key, 256, batch_size=3, mesh=mesh)
  assert whole.shape == (11,)
  np.testing.assert_allclose(whole, spread, rtol=1e-5)
  noise_key, model_key = jax.random.split(jax.random.fold_in(key, 7))
  noise = jax.random.uniform(noise_key, (3, 4, 1), jnp.float32, -0.5, 0.5)
  x = (images[7].astype(np.float32) + noise) * (2 / 255) - 1
  np.testing.assert_allclose(whole[7], bounds.elbo(bound.terms(model_key[None], x[None]))[0], rtol=1e-5)
  assert not likelihood.split_elbo(bound, images[:0], key, 256).size
