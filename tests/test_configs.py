"""The recipes for images: every variant can be built, and says what it claims to be."""

import math
from typing import Any

import jax
import pytest

from configs import (
  compare_cifar10,
  compare_digits,
  digits,
  folder,
  sos_vae_celeba,
  sos_vae_celeba64_gray,
  sos_vae_digits,
  sos_vae_folder,
  sos_vae_nifti,
  supn_celeba,
  supn_cifar10,
  supn_folder,
  supn_splines,
)
from structured_obs import recipes
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions.base import ImageShape
from structured_obs.models.vae import num_parameters
from structured_obs.runs import configuration, experiment, initial, stages
from tests.train import stub


def built(config: Config, levels: int = 0) -> experiment.Experiment:
  """The experiment of a configuration, on images of its size, with so many gray levels if given."""
  data = config.data
  size = {'height': data.height or 8, 'width': data.width or 8, 'channels': data.channels or 1}
  spec: DataSpec = stub.make_prepared().spec._replace(**size)
  spec = spec._replace(levels=levels) if levels else spec
  return experiment.build(config, spec)


def shapes(config: Config) -> dict[str, Any]:
  """The parameters of the network, as shapes."""
  made = built(config)
  state = initial.state_shapes(made)
  return state.params['model']


FOLDER = [*supn_folder.VARIANTS, *(f'vae,{size}' for size in supn_folder.FEATURES)]


@pytest.mark.parametrize(
  ('module', 'variant'),
  [
    *((supn_celeba, name) for name in supn_celeba.SIZED),
    *((supn_cifar10, name) for name in supn_cifar10.VARIANTS),
    *((supn_folder, name) for name in FOLDER),
  ],
)
@pytest.mark.few(2)
def test_every_variant_can_be_built(module, variant: str):
  config = module.get_config(variant)
  one = recipes.SUPN[variant.removesuffix('_cpu').split(',')[0]]
  assert ('covariance_decoder' in shapes(config)) == (bool(one.start) or one.tandem)
  assert bool(config.train.start_from) == bool(one.start)
  if one.start:
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
  whole: Any = built(module.get_config(f'vae{suffix}')).model
  assert whole.options.frozen_mean
  of_mean: Any = built(module.get_config(f'vae_mean{suffix}')).model
  assert of_mean.options.white


def test_the_published_network_has_batch_norm_and_its_size():
  params = shapes(supn_celeba.get_config('vae'))
  assert num_parameters({'params': params}) == 41_848_219
  assert any('BatchNorm' in name for name in params['covariance_decoder'])


def test_coupled_channels_are_linked_in_each_pixel():
  heads = shapes(supn_cifar10.get_config('vae'))['covariance_decoder']['heads']
  # Of each of 3 channels: 12 neighbours in its own plane, and up to 2 other channels in its pixel.
  assert heads['off_diag']['bias'].shape == (36,)
  assert heads['cross']['bias'].shape == (6,)


@pytest.mark.parametrize(('module', 'variant'), [(supn_folder, 'tandem,32'), (supn_cifar10, 'tandem')])
def test_tandem_takes_the_steps_of_a_mean_and_a_covariance(module, variant: str):
  config = module.get_config(variant)
  apart = [module.get_config(variant.replace('tandem', name)) for name in ('vae_mean', 'vae')]
  assert config.train.steps == sum(one.train.steps for one in apart)
  found = stages.parse(config.optim.stages)
  assert [stage.learners for stage in found] == [
    stages.LEARNERS[name] for name in ('mean', 'covariance', 'all')
  ]
  assert sum(stage.steps for stage in found) == config.train.steps
  assert [stage.learning_rate for stage in found] == [2e-3, 2e-3, 2e-4]


def test_the_papers_network_for_splines():
  config = supn_splines.get_config('mlp_paper')
  spec = stub.make_prepared().spec._replace(height=1, width=50, channels=1, levels=0, condition=1)
  made = experiment.build(config, spec)
  params = initial.state_shapes(made).params['model']['decoder']
  layers = sorted(name for name in params if name != 'heads')
  assert [name.split('_')[0] for name in layers] == ['BatchNorm', 'BatchNorm', 'Dense', 'Dense']
  heads = num_parameters({'params': params['heads']})
  assert heads == 101 * 1275
  assert config.optim.learning_rate == 1e-4
  assert config.train.steps * config.train.batch_size == 200 * 34000


def test_beta_is_of_the_mean():
  assert supn_celeba.get_config('beta5_mean').objective.beta == 5


SOS = [sos_vae_celeba, sos_vae_celeba64_gray, sos_vae_digits, sos_vae_folder, sos_vae_nifti]


@pytest.mark.parametrize(
  ('module', 'variant'),
  [
    (module, name)
    for module in SOS
    for name in module.VARIANTS
    if name not in ('conditional', 'equal')  # of the parameters of `sos_vae`
  ],
)
@pytest.mark.slow
def test_every_variant_of_sos_vae_can_be_built(module, variant: str):
  config = module.get_config(variant)
  params = shapes(config)
  assert set(params['decoder']['heads']) >= {'mean'}
  assert ('cov_factor' in params['decoder']['heads']) == (variant != 'beta_vae')
  held = experiment.multipliers_of(configuration.filled(config))
  bounded = variant in ('sos_vae', 'fixed_noise')
  assert set(held) == {'kl_z', *(['excess_entropy'] if bounded else [])}
  assert config.objective.beta == 0  # the multiplier is the beta
  if variant in ('unconstrained', 'appendix_a'):
    assert 'cov_diag' in params['decoder']['heads']


@pytest.mark.parametrize('module', SOS)
def test_equal_holds_both_constraints_from_both_sides(module):
  image = ImageShape(8, 8, 1)
  above, held = (
    experiment.constraints_of(configuration.filled(module.get_config(name)), image)
    for name in ('sos_vae', 'equal')
  )
  assert held == {name: one._replace(kind='equal') for name, one in above.items()}
  assert {one.kind for one in above.values()} == {'at_most'}


def test_the_run_of_the_appendix_learns_from_the_density_alone():
  config = sos_vae_folder.get_config('appendix_a')
  assert (config.objective.mean_gradient, config.optim.clip_norm, config.optim.ema_decay) == (0, 0, 0)
  assert config.likelihood.options['factor_scale'] == 1
  assert config.likelihood.options['noise_variance'] == pytest.approx(4 * 2e-5)  # 2e-5 in [0, 1]


@pytest.mark.parametrize('module', SOS)
def test_the_variants_of_sos_vae_differ_in_nothing_but_the_likelihood(module):
  first = configuration.flatten(module.get_config(''))
  for variant in (name for name in module.VARIANTS if name != 'appendix_a'):
    other = configuration.flatten(module.get_config(variant))
    differing = {name for name in first.keys() | other.keys() if first.get(name) != other.get(name)}
    allowed = {'likelihood.family', 'objective.constraints.entropy.bound'}
    allowed |= {'data.labels'} if variant == 'conditional' else set()
    allowed |= {'objective.mean_gradient'} if variant == 'fixed_noise' else set()  # as published
    if variant == 'equal':
      allowed |= {f'objective.constraints.{name}.kind' for name in ('kl', 'entropy')}
    assert all(name in allowed or name.startswith('likelihood.options.') for name in differing)


def test_the_bounds_and_the_network_are_the_papers():
  config = sos_vae_celeba.get_config()
  held = experiment.constraints_of(configuration.filled(config), ImageShape(218, 178, 3))
  pixels = 218 * 178 * 3
  floor = pixels / 2 * math.log(2 * math.pi * math.e * 1e-5)  # of eps I, for pixels in [0, 1]
  assert held['excess_entropy'].bound == pytest.approx(-504750 - floor, abs=0.2)
  assert held['kl_z'].bound == 45
  assert 31.0e6 < num_parameters({'params': shapes(config)}) < 31.2e6
  gray = sos_vae_celeba64_gray.get_config()
  floor = 64 * 64 / 2 * math.log(2 * math.pi * math.e * 1e-5)
  bound = experiment.constraints_of(configuration.filled(gray), ImageShape(64, 64, 1))[
    'excess_entropy'
  ].bound
  assert bound == pytest.approx(-17630 - floor, abs=0.2)
  slices = sos_vae_nifti.get_config('beta_vae')
  held = experiment.constraints_of(configuration.filled(slices), ImageShape(64, 64, 1))
  assert held['kl_z'].bound == 15


@pytest.mark.parametrize('module', [supn_celeba, supn_cifar10, supn_folder, *SOS])
@pytest.mark.parametrize('variant', ['vea', 'vae,7'])
def test_unknown_variants_are_refused(module, variant: str):
  with pytest.raises(ValueError, match='has the variants'):
    module.get_config(variant)


def test_recipes_that_train_mean_and_covariance_together_keep_the_mean():
  joint = {
    **{family: compare_digits.get_config(family) for family in compare_digits.VARIANTS},
    'student': compare_cifar10.get_config('low_rank+colour+student'),
    'digits': digits.get_config('low_rank'),
    'folder': folder.get_config(),
    'sos_digits': sos_vae_digits.get_config(),
    'sos_folder': sos_vae_folder.get_config(),
    'paper': sos_vae_celeba.get_config(),
  }
  models: dict[str, Any] = {
    name: built(config, config.likelihood.options.get('levels', 0)).model
    for name, config in joint.items()
  }
  shares = {name: model.options.mean_gradient for name, model in models.items()}
  without = {'discretized_logistic_mixture', 'paper'}
  assert shares == {name: 0.0 if name in without else recipes.MEAN_GRADIENT for name in joint}


@pytest.mark.parametrize(
  ('changes', 'error'),
  [
    ({'mean_loss': 'l1'}, r'objective\.mean_loss=l1 has no effect with .*mean_gradient=0'),
    (
      {'mean_gradient': 0.5, 'reconstruction': 'l1'},
      r'objective\.reconstruction=l1 replaces the density .* use --config\.objective\.mean_loss',
    ),
    ({'mean_gradient': 1.5}, r'objective\.mean_gradient must be .* but is 1\.5'),
    ({'mean_gradient': 0.5, 'mean_loss': 'paper_loss'}, r'objective\.mean_loss'),
  ],
)
def test_a_loss_of_the_mean_without_effect_is_refused(changes: dict[str, Any], error: str):
  config = Config()
  for name, value in changes.items():
    setattr(config.objective, name, value)
  with pytest.raises(ValueError, match=error):
    configuration.resolve(config)


def test_a_mixture_has_no_mean_of_its_own():
  config = compare_digits.get_config('discretized_logistic_mixture')
  config.objective.mean_gradient = 0.9
  with pytest.raises(ValueError, match=r'objective\.mean_gradient=0\.9 separates the mean'):
    built(config, 17)
