"""Starting from another run: what is taken over, what is new, and the scale it begins with."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.config import Config, ModelConfig
from structured_obs.data import prepare
from structured_obs.distributions import gaussian
from structured_obs.models import observation
from structured_obs.runs import experiment, initial, restore
from structured_obs.train import run, start


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
  """A tiny VAE of the mean alone on digits, with one learnt scale, 12 steps."""
  config = Config()
  config.data = dataclasses.replace(
    config.data, cache_dir=str(tmp_path_factory.mktemp('data')), limit=200
  )
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0, 'scale': 'learned'}
  config.optim = dataclasses.replace(config.optim, stages=('mean:12',), warmup_steps=0)
  settings = {'steps': 12, 'batch_size': 16, 'validate_every': 6, 'checkpoint_every': 6}
  config.train = dataclasses.replace(config.train, **settings)
  return config


@pytest.fixture(scope='module')
def mean(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The workdir of its finished run."""
  directory = tmp_path_factory.mktemp('run') / 'mean'
  run.run(config, run.Options(str(directory)), lambda text: None)
  return directory


def with_covariance(config: Config, mean: Path, **model: Any) -> Config:
  """The same with a covariance decoder of its own, low-rank, that alone learns."""
  options = distributions.options('low_rank', rank=2, noise_variance=0.3, learn_diag=True)
  return dataclasses.replace(
    config,
    model=ModelConfig('vae', config.model.options | {'covariance': {'features': (4,)}} | model),
    likelihood=dataclasses.replace(config.likelihood, family='low_rank', options=options),
    optim=dataclasses.replace(config.optim, stages=('covariance:12',)),
    train=dataclasses.replace(config.train, start_from=str(mean)),
  )


@pytest.mark.slow
def test_a_covariance_is_learnt_on_the_mean_of_another_run(config, mean, tmp_path, capsys):
  config = with_covariance(config, mean)
  outcome = run.run(config, run.Options(str(tmp_path / 'run')), lambda text: None)
  assert outcome is not None
  assert 'start white at the scale of the residuals' in capsys.readouterr().out
  old = restore.restore(mean).variables['params']
  new = restore.restore(tmp_path / 'run').variables['params']
  for name in ('encoder', 'decoder'):
    found = {'heads': {'mean': old[name]['heads']['mean']}} if name == 'decoder' else {}
    jax.tree.map(np.testing.assert_array_equal, {**old[name], **found}, new[name])
  resumed = run.run(config, run.Options(str(tmp_path / 'run')), lambda text: None)
  assert resumed is not None
  assert resumed.step == 12


def test_the_covariance_begins_white_at_the_size_of_the_residuals(config, mean):
  config = with_covariance(config, mean)
  prepared = prepare.prepare(config.data)
  built = experiment.build(config, prepared.spec)
  state = initial.init_state(built, jax.random.key(0))
  images = np.asarray(prepared.images['train'])
  taken = start.take_over(built, state, images).state
  x = jnp.asarray(images[:64], jnp.float32) / 8 - 1
  params: Any = built.model.apply({'params': taken.params['model']}, None, x, method='reconstruct')
  variance = np.asarray(jax.vmap(lambda p: gaussian.variance(built.family, p))(params))
  noise = (2 / 16) ** 2 / 12
  assert np.std(np.log(variance)) < 0.1
  residual = np.mean(np.square(x - params.mean)) + noise
  np.testing.assert_allclose(variance.mean(), residual, rtol=0.2)


def test_what_does_not_fit_is_refused(config, mean):
  params = {'params': {'encoder': {'kernel': jnp.zeros((2, 3))}}}
  with pytest.raises(ValueError, match=r"encoder.*\(2, 3\), but here it has \(2, 4\)"):
    start.merge({'params': {'encoder': {'kernel': jnp.zeros((2, 4))}}}, params, 'there')
  with pytest.raises(ValueError, match='no parameter of this model'):
    start.merge({'params': {'other': jnp.zeros(2)}}, params, 'there')


def test_heads_of_another_covariance_are_new():
  heads = {'mean': jnp.ones(2), 'off_diag': jnp.ones(3)}
  old = {'params': {'decoder': {'heads': heads}}}
  new = {'params': {'decoder': {'heads': {'mean': jnp.zeros(2), 'off_diag': jnp.zeros(5)}}}}
  merged, taken, fresh = start.merge(new, old, 'there')
  assert len(taken) == len(fresh) == 1
  found = merged['params']['decoder']['heads']
  assert (float(found['mean'][0]), found['off_diag'].shape) == (1, (5,))


def test_a_run_that_is_not_there_is_told_before_anything_starts(config, tmp_path):
  config = with_covariance(config, tmp_path / 'missing')
  with pytest.raises(FileNotFoundError, match='There is no run in'):
    run.run(config, run.Options(str(tmp_path / 'run')), lambda text: None)
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_run_goes_on_without_the_one_it_began_with(config, mean, tmp_path):
  moved = tmp_path / 'mean'
  shutil.copytree(mean, moved)
  config = with_covariance(config, moved)
  config.train.steps = 6
  run.run(config, run.Options(str(tmp_path / 'run')), lambda text: None)
  shutil.rmtree(moved)
  config.train.steps = 12
  outcome = run.run(config, run.Options(str(tmp_path / 'run')), lambda text: None)
  assert outcome is not None
  assert outcome.step == 12


def test_the_learnt_scale_is_that_of_the_residuals(config, mean):
  """Only roughly after so few steps: it moved from 0.5 towards them."""
  scale = float(restore.restore(mean).variables['params']['log_scale'])
  assert scale * observation.RATE != 0
