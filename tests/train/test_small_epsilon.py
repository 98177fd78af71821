"""The paper's ablation of epsilon in a minimal copy: what latents do that may shrink log|K|."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import datasets

from structured_obs.config import Config
from structured_obs.data import pipeline, pixels
from structured_obs.devices import mesh as meshes
from structured_obs.runs import experiment as experiments
from structured_obs.runs import initial
from structured_obs.train import step
from tests.train import stub

STEPS = 200


def make_config(epsilon: float) -> Config:
  config = stub.make_config(steps=STEPS, batch_size=32)
  config.model.options = {
    'latents': 16, 'features': (16,), 'blocks': 0, 'scale': 'optimal',
    'kernel': {'features': 64},
  }  # fmt: skip
  options = {'kernel_size': 5, 'scale': 'fixed'}
  config.likelihood = dataclasses.replace(config.likelihood, family='circulant', options=options)
  config.objective = dataclasses.replace(
    config.objective,
    dequantize=False,
    reconstruction='paper_loss',
    reconstruction_options={'weight': 50.0, 'epsilon': epsilon},
    white_steps=STEPS // 10,
    kernel_gradient='latents',
  )
  config.optim = dataclasses.replace(config.optim, learning_rate=3e-3)
  return config


def trained(config: Config, images: np.ndarray, test: np.ndarray) -> float:
  """PSNR of the mean reconstructions of test images after all steps, dB; the range is 2."""
  spec = stub.make_prepared().spec._replace(height=8, width=8)
  experiment, mesh = experiments.build(config, spec), meshes.make_mesh(jax.local_devices()[:1])
  _, key, _ = initial.run_keys(experiment)
  state = meshes.replicate(initial.init_state(experiment, key), mesh)
  update, key = step.make_step(experiment, mesh), meshes.replicate(key, mesh)
  for number in range(STEPS):
    batch = pipeline.global_batch(experiment.config.train, images, number)
    state, _ = update(state, key, jax.device_put(batch, meshes.split(mesh)))
  state = jax.device_get(state)
  variables = {'params': state.params['model'], **state.model_state}
  model, x = experiment.model.clone(axis_name=None), np.asarray(pixels.to_unit(test, 256))
  params: Any = jax.jit(lambda x: model.apply(variables, None, x, method='reconstruct'))(jnp.asarray(x))
  errors = np.mean(np.square(np.clip(params.mean, -1, 1) - x), axis=(1, 2, 3))
  return float(np.mean(10 * np.log10(4 / errors)))


@pytest.mark.slow
def test_a_small_epsilon_costs_the_reconstructions_where_the_latents_learn_from_it():
  bunch: Any = datasets.load_digits()
  digits = (bunch.images[..., None] * 15).astype(np.uint8)
  large, small = (trained(make_config(epsilon), digits[200:], digits[:200]) for epsilon in (0.0, 0.05))
  print(f'large epsilon {large:.2f} dB, small epsilon {small:.2f} dB')
  assert small < large - 1
