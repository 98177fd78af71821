"""The recipe without a network: its variants, and its training on one device and on four."""

from typing import Any

import jax
import numpy as np
import pytest

from configs import no_deep_learning
from structured_obs.devices import mesh as meshes
from structured_obs.runs import configuration, initial
from structured_obs.runs import experiment as experiments
from structured_obs.train import step
from tests.train import stub


@pytest.mark.parametrize('variant', ['', *no_deep_learning.VARIANTS])
def test_every_variant_can_be_built(variant: str):
  config = no_deep_learning.get_config(variant)
  side = config.data.height or 8
  spec = stub.make_prepared().spec._replace(height=side, width=side, channels=1)
  made = experiments.build(config, spec)
  state = initial.state_shapes(made)
  params = state.params['model']
  assert params['decoder']['heads']['cov_factor'].shape == (side, side, 1, 25)
  assert ('log_scale' in params) != variant.endswith('_fixed')


def test_unknown_variants_are_refused():
  with pytest.raises(ValueError, match='has the variants'):
    no_deep_learning.get_config('digit')


def test_a_network_has_no_natural_gradient():
  config = no_deep_learning.get_config()
  config.model.kind, config.model.options = 'vae', {'natural_gradient': True}
  with pytest.raises(ValueError, match='natural_gradient=True: there is no such option'):
    configuration.resolve(config)


def trained(devices: int, steps: int) -> tuple[list[float], Any]:
  """Losses of a few steps, and the parameters after them."""
  prepared = stub.make_prepared()
  config = no_deep_learning.get_config()
  config.likelihood.options['rank'], config.optim.warmup_steps = 2, 1
  made = experiments.build(config, prepared.spec)
  mesh = meshes.make_mesh(jax.local_devices()[:devices])
  key = jax.random.key(0)
  state = meshes.replicate(initial.init_state(made, key), mesh)
  update, losses = step.make_step(made, mesh), []
  batch = jax.device_put(prepared.images['train'], meshes.split(mesh))
  for _ in range(steps):
    state, metrics = update(state, meshes.replicate(key, mesh), batch)
    losses.append(float(metrics['loss']))
  return losses, jax.device_get(state.params['model'])


def test_one_device_and_four_train_alike():
  one, four = trained(1, 5), trained(4, 5)
  np.testing.assert_allclose(one[0], four[0], rtol=1e-4)
  assert one[0][-1] < one[0][0]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one[1], four[1])
