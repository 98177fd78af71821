"""The paper's ResNet: any size, the size it claims, white at the start, heads by name, batch norm."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.devices import mesh
from structured_obs.distributions.base import ImageShape
from structured_obs.models import observation
from structured_obs.models.autoencoder import Autoencoder
from structured_obs.models.networks import resnet
from structured_obs.models.vae import VAE, num_parameters
from structured_obs.objectives import bounds
from structured_obs.runs import configuration, optimizers
from tests.models.programs import apply

FAMILY = distributions.family('low_rank', rank=3, noise_variance=0.01)
SHAPES = [(9, 7, 3), (1, 6, 1), (11, 1, 3)]


def make(shape: Any = (5, 6, 1), kind: Any = VAE, init: Any = jax.jit, **fields: Any) -> tuple[Any, ...]:
  """A small model, its variables, keys and images. `init` wraps what makes the variables."""
  fields = {'features': (4, 8), 'blocks': 1, 'norm': 'none'} | fields
  model = kind(FAMILY, ImageShape(*shape), latents=3, architecture='resnet', **fields)
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.uniform(jax.random.key(1), (4, *shape), jnp.float32, -1, 1)
  return model, init(model.init)(jax.random.key(2), keys, x), keys, x


def shapes(function: Any) -> Any:
  """Returns the function, which only says what it would return: compiles nothing."""
  return functools.partial(jax.eval_shape, function)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.few(3)
def test_any_size_gives_outputs_near_0(shape):
  image = ImageShape(*shape)
  decoder = resnet.Decoder(image, FAMILY.outputs(image), (8, 8, 8), 1, 'none', None)
  z = jax.random.normal(jax.random.key(0), (4, 3), jnp.float32)
  found, _ = jax.jit(lambda key: decoder.init_with_output(key, z, False))(jax.random.key(1))
  assert {name: array.shape[1:] for name, array in found.items()} == FAMILY.outputs(image)
  for array in found.values():
    assert 0.01 < np.std(array) < 0.3  # head_scale is 0.1
    assert np.mean(array != 0) > 0.9  # a factor of 0 would stay 0


@pytest.mark.slow
def test_terms_are_finite_and_the_posterior_begins_near_the_prior():
  model, variables, keys, x = make((9, 7, 3))
  terms = jax.jit(model.apply)(variables, keys, x)
  chex.assert_tree_all_finite(terms)
  assert np.max(terms.stats['kl_z']) < 20


@pytest.mark.parametrize(
  ('shape', 'millions'), [((218, 178, 3), 31.12), ((64, 64, 3), 21.54), ((64, 64, 1), 21.54)]
)
@pytest.mark.few(3)
def test_it_has_the_size_of_the_papers(shape, millions):
  family = distributions.family('low_rank', rank=25)
  paper = {'latents': 128, 'features': (64, 128, 256, 512), 'blocks': 2, 'norm': 'batch'}
  model = VAE(family, ImageShape(*shape), architecture='resnet', **paper)
  x, key = jnp.zeros((1, *shape), jnp.float32), jax.random.key(0)
  variables = shapes(model.init)(key, key[None], x)
  assert round(num_parameters(variables) / 1e6, 2) == millions


def test_the_encoder_of_an_image_knows_no_size():
  """It ends in a maximum over the image: one network serves every size."""
  encoder = resnet.Encoder(outputs=4, features=(4, 8), blocks=1, norm='none', axis_name=None)
  x = jax.random.normal(jax.random.key(0), (1, 12, 8, 2), jnp.float32)
  init, run = (functools.partial(function, train=False) for function in (encoder.init, encoder.apply))
  variables = shapes(init)(jax.random.key(1), x)
  for height, width in ((7, 8), (12, 1)):
    assert shapes(run)(variables, x[:, :height, :width]).shape == (1, 4)


@pytest.mark.parametrize('stride', [1, 2])
def test_a_block_is_two_convolutions_beside_a_projection(stride):
  """Against the definition, with loops over pixels and taps, in float64."""
  block = resnet.Block(3, stride)
  x = jax.random.normal(jax.random.key(0), (1, 5, 4, 2), jnp.float32)
  variables = jax.jit(functools.partial(block.init, train=False))(jax.random.key(1), x)
  first, second, skip = (
    np.asarray(variables['params'][f'Conv_{i}']['kernel'], np.float64) for i in range(3)
  )
  image = np.asarray(x[0], np.float64)
  y = _convolved(np.maximum(_convolved(image, first, stride), 0), second, 1)
  expected = np.maximum(y + image[::stride, ::stride] @ skip[0, 0], 0)
  found = jax.jit(functools.partial(apply, block, train=False))(variables, x)
  np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


def _convolved(image: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
  """3x3 correlation with a border of zeros, at every `stride`-th pixel."""
  height, width, _ = image.shape
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  rows = [
    [
      np.einsum('ijc,ijcf->f', padded[row : row + 3, column : column + 3], kernel)
      for column in range(0, width, stride)
    ]
    for row in range(0, height, stride)
  ]
  return np.array(rows)


def test_an_autoencoder_may_have_it_too():
  model, variables, keys, x = make(kind=Autoencoder, init=shapes, norm='batch')
  assert shapes(model.apply)(variables, keys, x).log_p['x'].shape == (4,)
  assert 'BatchNorm_0' in variables['params']['encoder']


@pytest.mark.slow
def test_gradient_reaches_every_parameter():
  model, variables, keys, x = make(norm='batch')

  def loss(params: Any) -> Any:
    state = {'params': params, 'batch_stats': variables['batch_stats']}
    terms, _ = apply(model, state, keys, x, train=True, mutable=['batch_stats'])
    return bounds.negative_elbo()(terms, {})[0]

  size = float(jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(variables['params']))))
  for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(variables['params'])):
    name = jax.tree_util.keystr(path)
    assert np.all(np.isfinite(leaf)), name
    # A bias in front of batch norm has none but round-off; everything else must have one.
    if not ('bias' in name and 'Conv' in name):
      assert np.max(np.abs(leaf)) > 1e-6 * size, name


def test_stages_find_the_heads_by_name():
  _, variables, _, _ = make(init=shapes)
  labels = optimizers.labels({'model': variables['params']})['model']
  heads = labels['decoder']['heads']
  assert set(jax.tree.leaves(heads['mean'])) == {'mean_head'}
  assert set(jax.tree.leaves(heads['cov_factor'])) == {'other_heads'}
  rest = {**labels, 'decoder': {k: v for k, v in labels['decoder'].items() if k != 'heads'}}
  assert set(jax.tree.leaves(rest)) == {'rest'}


def test_the_covariance_may_have_a_resnet_of_its_own():
  options = observation.Options((4, 8), covariance_layers=1, covariance_sees_mean=True)
  model, variables, keys, x = make((5, 3, 1), init=shapes, options=options)
  assert set(variables['params']['decoder']['heads']) == {'mean'}
  assert set(variables['params']['covariance_decoder']['heads']) == {'cov_factor'}
  assert shapes(model.apply)(variables, keys, x).log_p['x'].shape == (4,)


@pytest.mark.slow
def test_batch_norm_is_over_all_devices_of_the_axis():
  model, variables, keys, x = make(norm='batch', axis_name=mesh.AXIS)
  alone, _, _, _ = make(init=shapes, norm='batch')

  def local(model: Any, variables: Any, keys: Any, x: Any) -> Any:
    terms, updated = apply(model, variables, keys, x, train=True, mutable=['batch_stats'])
    return terms.log_p['x'], updated['batch_stats']

  cut, whole = PartitionSpec(mesh.AXIS), PartitionSpec()
  mapped = jax.shard_map(
    functools.partial(local, model),
    mesh=mesh.make_mesh(jax.devices()[:2]),
    in_specs=(whole, cut, cut),
    out_specs=(cut, whole),
  )
  single = jax.jit(functools.partial(local, alone))
  found, expected = jax.jit(mapped)(variables, keys, x), single(variables, keys, x)
  chex.assert_trees_all_close(found[1], expected[1], rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found[0], expected[0], rtol=2e-3)
  assert any(
    np.max(np.abs(new - old)) > 1e-4
    for new, old in zip(
      jax.tree.leaves(expected[1]), jax.tree.leaves(variables['batch_stats']), strict=True
    )
  )


def test_the_configuration_is_checked():
  config = Config()
  config.model.options = {'architecture': 'resnet'}
  configuration.resolve(config)
  config.model.options['blocks'] = 0
  with pytest.raises(ValueError, match=r'options\.blocks must be .* at least 1, but is 0'):
    configuration.resolve(config)
  config.model.options = {'architecture': 'resnte'}
  with pytest.raises(ValueError, match=r"options.architecture must.*'resnet'"):
    configuration.resolve(config)
