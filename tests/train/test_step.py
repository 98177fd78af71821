"""The step: the same update under every mapping."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs.train import parallel, state, step
from tests.train import stub

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 1)).astype(np.uint8)
STEPS = 5


def run(mapping: str, norm: bool, num_devices: int = 4, steps: int = STEPS) -> state.TrainState:
  """Trains the stub by SGD; 'single' uses the same per-device step with no axis."""
  mesh = parallel.make_mesh(jax.devices()[:num_devices])
  axis = None if mapping == 'single' else parallel.AXIS
  model = stub.StubVAE(size=12, norm=norm, axis_name=axis)
  optimizer = optax.sgd(0.01)
  update = step.make_train_step(
    model, stub.objective, optimizer, stub.preprocess, axis_name=axis, ema_decay=0.5
  )
  keys = jax.random.split(jax.random.key(1), 8)
  variables: Any = model.init(jax.random.key(0), keys, jnp.zeros((8, 3, 4, 1), jnp.float32))
  train_state = state.create(variables, optimizer, keep_ema=True)
  if mapping == 'single':
    mapped, batch = parallel.single(update), jnp.asarray(IMAGES)
  else:
    train_state = parallel.replicate(train_state, mesh)
    mapped = parallel.MAPPINGS[mapping](update, mesh)
    batch = jax.device_put(IMAGES, parallel.split(mesh))
  for _ in range(steps):
    train_state, _ = mapped(train_state, jax.random.key(2), batch)
  return jax.device_get(train_state)


@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('mapping', ['shard_map', 'pmap'])
def test_mapped_step_equals_the_single_device_step(mapping: str, norm: bool):
  reference, mapped = run('single', norm), run(mapping, norm)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), reference, mapped
  )
  before = run('single', norm, steps=0)
  moved = jax.tree.map(
    lambda a, b: float(np.abs(a - b).max()), before.params['model'], reference.params['model']
  )
  assert max(jax.tree.leaves(moved)) > 1e-2


def test_the_average_starts_at_once_and_then_decays_as_asked():
  states = [run('single', norm=False, steps=steps) for steps in range(STEPS + 1)]
  average = states[0].params['model']
  for count, after in enumerate(states[1:]):
    decay = min(0.5, (1 + count) / (10 + count))
    average = jax.tree.map(
      lambda old, new, decay=decay: decay * old + (1 - decay) * new, average, after.params['model']
    )
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.ema, average
    )
