"""The recipes of Blur-VAE: every variant can be built, and differs in what it is about alone."""

from typing import Any

import jax
import numpy as np
import pytest

from configs import (
  blur_vae_celeba,
  blur_vae_celeba_hq,
  blur_vae_cifar10,
  blur_vae_folder,
  blur_vae_nifti,
)
from structured_obs import recipes
from structured_obs.runs import configuration, experiment
from tests.test_configs import built, shapes

MODULES = [blur_vae_celeba, blur_vae_celeba_hq, blur_vae_cifar10, blur_vae_folder, blur_vae_nifti]
PERCEPTUAL = ('vgg', 'watson')  # which need files of weights


@pytest.mark.parametrize('variant', [name for name in recipes.BLUR_VAE if name not in PERCEPTUAL])
def test_every_variant_can_be_built(variant: str):
  config = blur_vae_folder.get_config(variant)
  params = shapes(config)
  fixed = not recipes.BLUR_VAE[variant].generated
  assert ('kernel_generator' in params) != fixed
  own = {'colour_log_scale'} if recipes.BLUR_VAE[variant].rotated else set()  # of all images
  assert set(params['decoder']['heads']) == {'mean', *own}
  fit = experiment.fit_of(configuration.resolve(config))
  assert (fit.boundary is None) == fixed
  assert (fit.reconstruction is None) == (not recipes.BLUR_VAE[variant].loss)


@pytest.mark.parametrize('variant', PERCEPTUAL)
def test_losses_on_features_say_that_weights_are_missing(variant: str):
  with pytest.raises((FileNotFoundError, ValueError), match=r'weights'):
    built(blur_vae_folder.get_config(variant))


@pytest.mark.parametrize('module', MODULES)
def test_kernels_have_the_papers_size_and_white_steps_end(module):
  config = module.get_config()
  size = 41 if module is blur_vae_celeba_hq else 11
  assert shapes(config)['kernel_generator']['Dense_1']['bias'].shape == (size * size,)
  assert 0 < config.objective.white_steps < config.train.steps / 5
  assert config.model.options['kernel']['features'] == 1000


def test_brain_images_are_trained_on_until_nothing_is_gained():
  config = blur_vae_nifti.get_config()
  assert 0 < config.train.patience * config.train.validate_every < config.train.steps / 10
  assert config.optim.schedule == 'constant'  # which needs no step at which to end
  assert config.train.patience * config.train.validate_every >= config.objective.white_steps


def test_each_rotated_channel_has_a_kernel():
  config = blur_vae_celeba.get_config('blur_vae_colour')
  params = shapes(config)
  assert params['kernel_generator']['Dense_1']['bias'].shape == (3 * 11 * 11,)
  config.objective.kernel_gradient = 'latents'
  model: Any = built(config).model
  images = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
  terms, _ = jax.eval_shape(
    lambda key, x: model.clone(axis_name=None).init_with_output(key, jax.random.split(key, 2), x),
    jax.random.key(0), images,
  )  # fmt: skip
  assert terms.images.kernel.shape == terms.images.latent_kernel.shape == (2, 11, 11, 3)
  assert terms.images.kernel_axes.shape == (2, 3, 3)


def test_the_variants_differ_in_likelihood_loss_and_kernel_alone():
  first = configuration.flatten(blur_vae_folder.get_config('l2'))
  for variant in recipes.BLUR_VAE:
    other = configuration.flatten(blur_vae_folder.get_config(variant))
    differing = {name for name in first.keys() | other.keys() if first.get(name) != other.get(name)}
    allowed = {'likelihood.family', 'likelihood.wrappers'}
    allowed |= {f'objective.{name}' for name in ('white_steps', 'reconstruction', 'kernel_gradient')}
    groups = ('likelihood.options.', 'model.options.kernel.', 'objective.reconstruction_options.')
    groups += ('likelihood.wrapper_options.',)
    assert all(name in allowed or name.startswith(groups) for name in differing)


def test_mirrored_images_are_blurred_by_mirrored_kernels():
  recipe = recipes.BlurVae(reflect=True)
  config = recipes.blur_vae(blur_vae_folder.get_config(), recipe, 'blur_vae')
  assert config.likelihood.options['reflect']
  assert config.model.options['kernel']['boundary'] == 'reflect'


@pytest.mark.parametrize('module', MODULES)
def test_unknown_variants_are_refused(module):
  with pytest.raises(ValueError, match='has the variants'):
    module.get_config('vae')
