"""The recipes of srVAE: all can be built, full ones have the authors' size, and pairs agree."""

import math
from typing import Any

import jax
import pytest

from configs import (
  sr_vae_cifar10,
  sr_vae_digits,
  sr_vae_folder,
  sr_vae_imagenet32,
  vae_cifar10,
)
from structured_obs import recipes
from structured_obs.models.networks.sr_vae_networks import Learnt
from structured_obs.runs import configuration
from tests.test_configs import built

MODULES = [sr_vae_cifar10, sr_vae_digits, sr_vae_folder, sr_vae_imagenet32, vae_cifar10]


def build(config):
  config.data.height = config.data.height or 8
  config.data.width = config.data.width or 8
  return built(config)


@pytest.mark.parametrize(
  ('module', 'variant'), [(module, name) for module in MODULES for name in module.VARIANTS]
)
def test_every_variant_can_be_built(module, variant: str):
  config = module.get_config(variant)
  assert config.model.options['prior'] == 'realnvp'
  assert not config.objective.dequantize
  if config.likelihood.options['levels'] == 256:
    assert build(config).model.traits.data_dependent


@pytest.mark.parametrize('module', MODULES)
def test_the_default_is_the_first_variant(module):
  first = configuration.flatten(module.get_config(''))
  assert first == configuration.flatten(module.get_config(module.VARIANTS[0]))
  with pytest.raises(ValueError, match='has the variants'):
    module.get_config('medium')


@pytest.mark.parametrize('variant', ['full', 'small'])
def test_the_baseline_differs_in_its_networks_alone(variant: str):
  two, one = (
    configuration.flatten(module.get_config(variant)) for module in (sr_vae_cifar10, vae_cifar10)
  )
  differing = {name for name in two.keys() | one.keys() if two.get(name) != one.get(name)}
  assert all(name == 'model.kind' or name.startswith('model.options') for name in differing)


@pytest.mark.slow
def test_the_full_networks_have_the_authors_size():
  model = build(sr_vae_cifar10.get_config()).model
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), 'float32')
  params = jax.eval_shape(model.init, keys[0], keys, x)['params']
  counts = {
    name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for name, tree in params.items()
  }
  assert 35e6 < sum(counts.values()) < 40e6
  assert 11e6 < counts['u_prior'] < 12e6


def test_options_are_written_out():
  """So that a command line can set any of them."""
  model: Any = build(sr_vae_folder.get_config()).model
  small, every = (
    {*names} - {*Learnt._fields} for names in (recipes.SR_VAE_SMALL.options, model.options._fields)
  )
  assert {*recipes.SR_VAE.options} == small == every
