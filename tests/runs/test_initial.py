"""The first state of a model whose initialisation depends on data: the first batch's, on any devices."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.data import pipeline
from structured_obs.devices import keys as keyss
from structured_obs.devices import mesh as meshes
from structured_obs.models.base import Traits
from structured_obs.models.networks import dense_blocks
from structured_obs.objectives.terms import Terms
from structured_obs.runs import configuration, initial
from structured_obs.runs import experiment as experiments
from structured_obs.train import dry_run
from tests.train import stub

IMAGES = stub.make_prepared().images['train']


class DataDependent(stub.StubVAE):
  """The stub behind one weight-normed convolution."""

  traits = Traits(reconstructs=False, data_dependent=True)

  def setup(self) -> None:
    self.first = dense_blocks.WeightNormConv(1, 1, deviation=0.25)
    self.rest = stub.StubVAE(self.size)

  def __call__(self, keys: jax.Array, x: jax.Array, train: bool = False) -> Terms:
    """Terms of the stub for what the convolution makes of the images."""
    return self.rest(keys, self.first(x), train)


def make(**train: Any):
  return stub.make_experiment(stub.make_config(**train), DataDependent)


def first_outputs(made: Any, params: Any) -> np.ndarray:
  """What the convolution gives for the run's first batch, as the first step preprocesses it."""
  batch = pipeline.global_batch(made.config.train, IMAGES, 0)
  keys, _ = keyss.step_keys(initial.run_keys(made)[1], 0, len(batch), None)
  x = initial.make_preprocess(made.config, made.spec)(keys, jnp.asarray(batch))
  layer = dense_blocks.WeightNormConv(1, 1, deviation=0.25)
  return np.asarray(layer.apply({'params': params['first']}, x))


def test_the_first_batch_has_the_stated_mean_and_deviation():
  made = make()
  params = initial.init_state(made, jax.random.key(0), IMAGES).params['model']
  y = first_outputs(made, params)
  assert abs(y.mean()) < 1e-6
  assert abs(y.std() - 0.25) < 1e-5


def test_one_device_and_four_begin_with_the_same_numbers():
  made = make()
  states = []
  for count in (1, 4):
    mesh = meshes.make_mesh(jax.devices()[:count])
    state = initial.init_state(made, initial.run_keys(made)[0], IMAGES)
    states.append(jax.device_get(meshes.replicate(state, mesh).params))
  chex.assert_trees_all_equal(*states)


def test_shapes_need_no_images_and_numbers_do():
  made = make()
  mesh = meshes.make_mesh(jax.devices()[:1])
  shapes = initial.abstract_state(made, mesh)
  state = initial.init_state(made, jax.random.key(0), IMAGES)
  chex.assert_trees_all_equal_shapes_and_dtypes(shapes, state)
  with pytest.raises(ValueError, match='init_state was given none'):
    initial.init_state(made, jax.random.key(0))
  with pytest.raises(ValueError, match='are all the same'):
    initial.init_state(made, jax.random.key(0), np.full_like(IMAGES, 7))
  assert 'parameters' in dry_run.report(made)


def test_one_image_a_batch_is_refused_by_the_field_s_name():
  made = make(batch_size=1)
  with pytest.raises(ValueError, match=r'train\.batch_size=1.*at least 2'):
    experiments.check_batch_size(made.model, made.config)
  experiments.check_batch_size(stub.StubVAE(12), made.config)


def test_other_models_begin_as_before_whatever_the_images():
  made = stub.make_experiment(stub.make_config())
  states = [initial.init_state(made, jax.random.key(0), images) for images in (None, IMAGES)]
  chex.assert_trees_all_equal(states[0].params, states[1].params)


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    ({'prior': 'realnpv'}, "options.prior must .* 'realnpv'.*Did you mean 'realnvp'"),
    ({'prior': 'mixture', 'prior_options': {'scales': 1}}, "scales=1: .*options.prior='mixture'"),
    ({'prior': 'realnvp', 'prior_options': {'scales': 0}}, 'prior_options.scales must .* at least 1'),
  ],
)
def test_priors_are_checked_with_the_configuration(model, message):
  config = Config()
  config.model.options = model
  with pytest.raises(ValueError, match=message):
    configuration.resolve(config)


def test_the_options_of_a_prior_are_written_out_and_read_back():
  config = Config()
  config.model.options = {'prior': 'mixture'}
  resolved = configuration.resolve(config)
  assert resolved.model.options['prior_options'] == {'components': 10}
  again = configuration.from_dict(configuration.to_dict(resolved))
  assert configuration.resolve(again) == resolved
