"""The recipes for images: every variant can be built, and says what it claims to be."""

from typing import Any

import jax
import pytest

from configs import supn_celeba, supn_folder
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.train import experiment
from tests.train import stub


def built(config: Config) -> experiment.Experiment:
  """The experiment of a configuration, on images of its size."""
  data = config.data
  size = {'height': data.height, 'width': data.width, 'channels': data.channels}
  spec: DataSpec = stub.make_prepared().spec._replace(**size)
  return experiment.build(config, spec)


def shapes(config: Config) -> dict[str, Any]:
  """The parameters of the network, as shapes."""
  made = built(config)
  state = jax.eval_shape(lambda key: experiment.init_state(made, key), jax.random.key(0))
  return state.params['model']


CELEBA = [*supn_celeba.VARIANTS, *(f'{name}_cpu' for name in supn_celeba.VARIANTS)]
FOLDER = [*supn_folder.VARIANTS, *(f'vae,{size}' for size in supn_folder.FEATURES)]


@pytest.mark.parametrize(
  ('module', 'variant'),
  [*((supn_celeba, name) for name in CELEBA), *((supn_folder, name) for name in FOLDER)],
)
def test_every_variant_can_be_built(module, variant: str):
  config = module.get_config(variant)
  staged = variant.partition(',')[0].removesuffix('_cpu') in module.STAGED
  assert ('covariance_decoder' in shapes(config)) == staged == bool(config.train.start_from)
  if staged:
    start = module.get_config(variant.split('_')[0].split(',')[0] + '_mean')
    assert config.train.start_from.endswith(('_mean', '_mean_cpu'))
    assert start.model.kind == config.model.kind


@pytest.mark.parametrize('module', [supn_celeba, supn_folder])
@pytest.mark.parametrize('suffix', ['', '_cpu', ',32'])
def test_a_covariance_network_fits_the_mean_that_it_starts_from(module, suffix: str):
  if suffix == (',32' if module is supn_celeba else '_cpu'):
    return
  mean, full = (shapes(module.get_config(f'{name}{suffix}')) for name in ('vae_mean', 'vae'))
  assert jax.tree.map(lambda leaf: leaf.shape, mean['encoder']) == jax.tree.map(
    lambda leaf: leaf.shape, full['encoder']
  )
  assert full['covariance_decoder']['heads']['off_diag']['bias'].shape == (24,)  # f = 7
  options = built(module.get_config(f'vae{suffix}')).model.options
  assert options.frozen_mean
  assert built(module.get_config(f'vae_mean{suffix}')).model.options.white


def test_beta_is_of_the_mean():
  assert supn_celeba.get_config('beta5_mean').objective.beta == 5


@pytest.mark.parametrize('module', [supn_celeba, supn_folder])
@pytest.mark.parametrize('variant', ['vea', 'vae,7'])
def test_unknown_variants_are_refused(module, variant: str):
  with pytest.raises(ValueError, match='has the variants'):
    module.get_config(variant)
