"""A step in parts is the step, with the same noise for every image; what couples a batch is refused."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.runs import checks, configuration, state
from structured_obs.train import step
from tests.train import stub

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 3, 4, 1)).astype(np.uint8)


def run(mapping: str, accumulate: int, norm: bool = False) -> tuple[state.TrainState, Any]:
  return stub.take_steps(mapping, IMAGES, 2, norm, accumulate=accumulate)


@pytest.fixture(scope='module')
def whole() -> tuple[state.TrainState, Any]:
  """The steps of one device and one part."""
  return run('single', 1)


@pytest.mark.parametrize(
  ('mapping', 'accumulate'), [('single', 4), ('single', 16), ('shard_map', 2), ('pmap', 4)]
)
@pytest.mark.few(2)
def test_a_step_in_parts_is_the_step(mapping: str, accumulate: int, whole: Any):
  found = run(mapping, accumulate)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), found, whole)
  assert found[0].step == 2
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found[0].params))


def test_every_image_has_the_noise_of_its_place():
  """A loss whose gradient is the noise itself: a part with the noise of another place would show."""

  class Noise(stub.StubVAE):
    @stub.nn.compact
    def __call__(self, keys: Any, x: Any, train: bool = False) -> Any:
      weight = self.param('weight', stub.nn.initializers.ones, (12,), jnp.float32)
      flat = x.reshape(x.shape[0], -1) ** 2
      drawn = jax.vmap(lambda key: jax.random.normal(key, (12,), jnp.float32))(keys)
      return stub.Terms({'x': jnp.sum(flat * drawn * weight[None], axis=1)}, {}, {})

  def objective(terms: Any, multipliers: Any, step: Any) -> Any:
    return jnp.mean(terms.log_p['x']), {}

  params = {'model': {'weight': jnp.ones(12, jnp.float32)}, 'multipliers': {}}
  empty = state.TrainState(jnp.int32(3), params, {}, (), None, jnp.int32(0))
  grads = []
  for accumulate in (1, 4):
    gradient = step.make_gradient(Noise(12), objective, stub.preprocess, None, accumulate)
    grads.append(jax.jit(gradient)(empty, jax.random.key(7), jnp.asarray(IMAGES))[3])
  weights = [np.asarray(tree['model']['weight']) for tree in grads]
  assert np.abs(weights[0]).max() > 0.01
  np.testing.assert_allclose(*weights, rtol=1e-5, atol=1e-7)


def test_a_device_cuts_its_images_evenly_and_carries_no_statistics():
  with pytest.raises(ValueError, match='must divide the 16 images of a device; got 3'):
    run('single', 3)
  with pytest.raises(ValueError, match='must be 1 for a model that keeps batch'):
    run('single', 2, norm=True)


@pytest.mark.parametrize(
  ('section', 'fields', 'named'),
  [
    ('model', {'options': {'norm': 'batch'}}, "--config.model.options.norm='batch',"),
    ('model', {'options': {'scale': 'optimal'}}, "--config.model.options.scale='optimal',"),
    (
      'objective',
      {'constraints': {'kl': {'bound': 3.0}}},
      '--config.objective.constraints.kl, a constraint on a mean,',
    ),
    ('objective', {'white_steps': 5}, '--config.objective.white_steps,'),
  ],
)
def test_what_couples_a_batch_is_refused(section: str, fields: dict[str, Any], named: str):
  config = Config()
  setattr(config, section, dataclasses.replace(getattr(config, section), **fields))
  configuration.resolve(config)
  config.train.accumulate = 4
  with pytest.raises(ValueError, match=f'accumulate=4 is invalid with {named}.*at once'):
    configuration.resolve(config)


def test_what_couples_nothing_is_allowed():
  config = Config()
  config.train.accumulate = 4
  config.objective.white_steps, config.objective.reconstruction = 5, 'l2'
  configuration.resolve(config)
  config.train.accumulate = 0
  with pytest.raises(ValueError, match=r'train\.accumulate must be .* of at least 1, but is 0'):
    configuration.resolve(config)


def test_the_batch_divides_by_devices_and_parts():
  config = Config()
  config.train.batch_size, config.train.accumulate = 20, 4
  with pytest.raises(ValueError, match=r'4 devices of 1 process, 4 parts each .*; 16 or 32 would'):
    checks.check_batch(config, 100, 4, 1)
  checks.check_batch(config, 100, 1, 1)


def test_a_run_may_go_on_in_other_parts():
  one, other = Config(), Config()
  other.train.accumulate = 8
  assert configuration.binding(one) == configuration.binding(other)
  other.train.compute = 'bfloat16'
  assert configuration.binding(one) != configuration.binding(other)
