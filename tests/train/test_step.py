"""The step: the same update under every mapping, and programs for accelerators."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.devices import mesh as meshes
from structured_obs.runs import experiment, initial, state
from structured_obs.train import step as step_module
from tests.train import stub

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 1)).astype(np.uint8)
STEPS = 5


def run(mapping: str, norm: bool, num_devices: int = 4, steps: int = STEPS) -> state.TrainState:
  return stub.take_steps(mapping, IMAGES, steps, norm, num_devices, ema_decay=0.5)[0]


@pytest.mark.parametrize('norm', [False, True])
@pytest.mark.parametrize('mapping', ['shard_map', 'pmap'])
@pytest.mark.few(2)
def test_mapped_step_equals_the_single_device_step(mapping: str, norm: bool):
  reference, mapped = run('single', norm), run(mapping, norm)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), reference, mapped)
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after.ema, average)


@pytest.mark.parametrize('family', distributions.FAMILIES)
@pytest.mark.few(3)
def test_a_step_is_lowered_for_accelerators(family: str):
  """Without one: what could not be lowered would be found by the first user who has one."""
  config = stub.make_config()
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  options = distributions.options(family)
  config.likelihood = dataclasses.replace(config.likelihood, family=family, options=options)
  made = experiment.build(config, stub.make_prepared().spec)
  mesh = meshes.make_mesh(jax.local_devices()[:1])
  batch = jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype, sharding=meshes.split(mesh))
  key = jax.eval_shape(lambda: jax.random.key(0))
  step: Any = step_module.make_step(made, mesh)
  traced = step.trace(initial.abstract_state(made, mesh), key, batch)
  for platform in ('cuda', 'tpu'):
    assert 'stablehlo' in traced.lower(lowering_platforms=(platform,)).as_text()
