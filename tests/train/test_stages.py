"""Stages with rates and losses of their own, in the compiled step and in a run that resumes."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.devices import mesh as meshes
from structured_obs.runs import experiment as experiments
from structured_obs.runs import initial
from structured_obs.train import loop, step
from tests.train import stub
from tests.train.test_loop import assert_equal

STAGES = ('mean:1:loss=l1:weight=3:learning_rate=1e-3', 'covariance:1', 'all:1:learning_rate=5e-3')


def make_config(**train: Any) -> Config:
  config = stub.make_config(**train)
  config.model.kind = 'ae'
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  config.optim.learning_rate, config.optim.warmup_steps, config.optim.stages = 1e-2, 1, STAGES
  return config


def test_every_stage_trains_its_part_from_its_loss_at_its_rate():
  experiment = experiments.build(make_config(), stub.make_prepared().spec)
  mesh = meshes.make_mesh(jax.local_devices()[:1])
  _, key, _ = initial.run_keys(experiment)
  state = meshes.replicate(initial.init_state(experiment, key), mesh)
  update, key = step.make_step(experiment, mesh), meshes.replicate(key, mesh)
  images = stub.make_prepared().images['train'][:8]
  states, told = [jax.device_get(state)], []
  for _ in range(3):
    state, metrics = update(state, key, jax.device_put(images, meshes.split(mesh)))
    states.append(jax.device_get(state))
    told.append(jax.device_get(metrics))
  moves = [
    jax.tree.map(lambda new, old: new - old, new.params['model'], old.params['model'])
    for old, new in itertools.pairwise(states)
  ]
  heads = [move['decoder']['heads'] for move in moves]
  assert not np.any(heads[0]['log_scale']['kernel'])
  assert not np.any(heads[1]['mean']['kernel'])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(moves[1]['encoder']))
  # A first update of Adam is the learning rate, against the sign of the derivative.
  rates = [
    float(np.abs(head).max()) for head in (heads[0]['mean']['bias'], heads[1]['log_scale']['bias'])
  ]
  np.testing.assert_allclose(rates, [1e-3, 1e-2], rtol=1e-3)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(heads[2]))

  x = jnp.asarray(images, jnp.float32) * (2 / 255) - 1
  model = experiment.model.clone(axis_name=None)

  def losses(params: Any) -> tuple[Any, Any]:
    terms = model.apply({'params': params}, jax.random.split(jax.random.key(0), 8), x)
    absolute = jnp.abs(x - terms.images.mean).sum() * 3 / 8
    return absolute, -terms.log_p['x'].mean()

  start = states[0].params['model']
  np.testing.assert_allclose(told[0]['loss'], losses(start)[0], rtol=1e-5)
  np.testing.assert_allclose(told[0]['loss'], told[0]['reconstruction'], rtol=1e-6)
  np.testing.assert_allclose(told[1]['loss'], losses(states[1].params['model'])[1], rtol=1e-4)
  absolute, density = (
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(lambda p: losses(p)[i])(start))])  # noqa: B023
    for i in (0, 1)
  )
  moved = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moves[0])])
  clear = np.abs(absolute) > 1e-4  # Adam's first update is smaller where a derivative is near 0
  np.testing.assert_array_equal(np.sign(moved[clear]), -np.sign(absolute[clear]))
  assert np.any(np.sign(density[clear]) != np.sign(absolute[clear]))


@pytest.mark.slow
def test_a_run_resumed_in_a_stage_equals_the_uninterrupted_one(tmp_path: Path):
  def train(steps: int, workdir: Path) -> Any:
    config = make_config(steps=steps, checkpoint_every=2, validate_every=2)
    config.optim.stages = (
      'mean:3:loss=l1:weight=3:learning_rate=1e-3', 'covariance:2', 'all:2:loss=ssim:learning_rate=5e-3',
    )  # fmt: skip
    prepared = stub.make_prepared()
    experiment = experiments.build(config, prepared.spec)
    return loop.train(experiment, prepared, workdir, {'config': {}, 'data': {}}).state

  whole = train(7, tmp_path / 'whole')
  for steps in (4, 6):  # within a stage without a loss, and within one with a loss
    train(steps, tmp_path / 'parts')
  assert_equal(train(7, tmp_path / 'parts'), whole)
