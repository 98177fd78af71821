"""Blur-VAE's two networks: any size, the sizes of the paper, taps against flax's, bounds, gradients."""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.models import observation
from structured_obs.models.autoencoder import Autoencoder
from structured_obs.models.networks import ARCHITECTURES, strided
from structured_obs.models.vae import VAE, num_parameters
from structured_obs.objectives import bounds
from structured_obs.runs import configuration, optimizers
from tests.models.programs import apply

FAMILY = distributions.family('low_rank', rank=3, noise_variance=0.01)
NAMES = ('strided', 'upsampling')


def shapes(function: Any) -> Any:
  """Returns the function, which only says what it would return: compiles nothing."""
  return functools.partial(jax.eval_shape, function)


def filled(init: Any) -> Any:
  """Like what `init` makes variables with, but by NumPy, which has nothing to compile."""

  def run(*args: Any) -> Any:
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> Any:
      if path[-1].key != 'kernel':
        return np.full(leaf.shape, path[-1].key in ('scale', 'var'), leaf.dtype)
      return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(leaf.dtype)

    return jax.tree.map_with_path(fill, shapes(init)(*args))

  return run


def make(
  architecture: str, shape: Any = (5, 6, 1), kind: Any = VAE, init: Any = shapes, **fields: Any
) -> tuple[Any, ...]:
  """A small model, its variables, keys and images. `init` wraps what makes the variables."""
  fields = {'features': (4, 8), 'blocks': 0, 'norm': 'none'} | fields
  model = kind(FAMILY, ImageShape(*shape), latents=3, architecture=architecture, **fields)
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.uniform(jax.random.key(1), (4, *shape), jnp.float32, -1, 1)
  # Parameters drawn by threefry, the default, take four times as long to compile.
  return model, init(model.init)(jax.random.key(2, impl='rbg'), keys, x), keys, x


def make_decoder(architecture: str, shape: Any) -> tuple[Any, Any, Any]:
  """A decoder with three resolutions below the image's, its variables and latents [4, 3]."""
  image = ImageShape(*shape)
  fields = {'features': (4, 8, 8), 'blocks': 0, 'norm': 'none', 'axis_name': None}
  decoder = ARCHITECTURES[architecture].decoder(image=image, outputs=FAMILY.outputs(image), **fields)
  z = jax.random.normal(jax.random.key(0), (4, 3), jnp.float32)
  return decoder, filled(functools.partial(decoder.init, train=False))(jax.random.key(1), z), z


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shape', [(7, 5, 3), (1, 9, 1)])
def test_any_size_gives_the_familys_outputs(name, shape):
  decoder, variables, z = make_decoder(name, shape)
  found = jax.jit(functools.partial(apply, decoder, train=False))(variables, z)
  assert {k: array.shape[1:] for k, array in found.items()} == FAMILY.outputs(ImageShape(*shape))
  for array in found.values():
    # Nothing is constant: neither over the latents nor, where there are several, over the pixels.
    assert np.min(np.std(array, axis=0)) > 1e-3
    assert np.min(np.std(array, axis=2)) > 1e-3


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shape', [(218, 178, 3), (1, 1, 1)])
@pytest.mark.few(2)
def test_shapes_of_large_and_smallest_images(name, shape):
  model, variables, keys, x = make(name, shape, features=(4, 8, 8, 8))
  assert shapes(model.apply)(variables, keys, x).log_p['x'].shape == (4,)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.slow
def test_it_starts_near_the_prior_and_with_outputs_near_0(name):
  model, variables, keys, x = make(name, (9, 7, 3), init=jax.jit)
  terms, params = jax.jit(
    lambda: (apply(model, variables, keys, x), apply(model, variables, keys, method='generate'))
  )()
  chex.assert_tree_all_finite(terms)
  assert np.max(terms.stats['kl_z']) < 20
  assert 0.01 < np.std(params.mean) < 0.3  # head_scale is 0.1
  assert 0.001 < np.std(params.cov_factor) < 0.03  # a tenth of what its head emits
  assert np.mean(params.cov_factor != 0) > 0.9  # a factor of 0 would stay 0


@pytest.mark.parametrize(
  ('name', 'features', 'millions'),
  [('strided', (64, 128, 256, 512), 26.08), ('upsampling', (32, 64, 128, 256, 512), 7.08)],
)
def test_the_papers_sizes(name, features, millions):
  model = VAE(
    distributions.family('diagonal'), ImageShape(64, 64, 3), 256, features, 0, 'batch', architecture=name
  )
  x, key = jnp.zeros((1, 64, 64, 3), jnp.float32), jax.random.key(0)
  variables = shapes(model.init)(key, key[None], x)
  assert round(num_parameters(variables) / 1e6, 2) == millions
  sides = [leaf.shape for leaf in jax.tree.leaves(variables['params']['decoder']) if leaf.ndim == 4]
  taps = 4 if name == 'strided' else 3
  assert sorted(sides)[-len(features) :] == sorted(
    (taps, taps, a, b) for a, b in zip((features[-1], *features[:0:-1]), features[::-1], strict=True)
  )


@pytest.mark.parametrize('shape', [(3, 4), (1, 5), (1, 1)])
def test_a_transposed_convolution_is_that_of_flax(shape):
  x = jax.random.normal(jax.random.key(0), (2, *shape, 3), jnp.float32)
  ours = strided.TransposedConv(5)
  theirs = nn.ConvTranspose(5, (4, 4), (2, 2))
  params = {
    'kernel': jax.random.normal(jax.random.key(1), (4, 4, 3, 5), jnp.float32),
    'bias': jax.random.normal(jax.random.key(2), (5,), jnp.float32),
  }
  assert jax.tree.map(jnp.shape, shapes(ours.init)(jax.random.key(3), x)['params']) == jax.tree.map(
    jnp.shape, params
  )

  def loss(layer: Any, params: Any, x: Any) -> Any:
    return jnp.sum(jnp.sin(apply(layer, {'params': params}, x)))

  found = jax.jit(functools.partial(apply, ours))({'params': params}, x)
  expected = jax.jit(functools.partial(apply, theirs))({'params': params}, x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  gradients = [jax.jit(jax.grad(functools.partial(loss, f), (0, 1)))(params, x) for f in (ours, theirs)]
  chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_the_mean_alone_is_bounded_just_outside_the_images_range(name):
  """A dequantised white pixel reaches 1 + 1 / 255, which a tanh of 1 could not follow."""
  decoder, variables, z = make_decoder(name, (5, 6, 1))
  run = jax.jit(functools.partial(apply, decoder, train=False))

  def outputs(scale: float) -> Any:
    """With heads of so many times these weights."""
    heads = jax.tree.map(lambda leaf: scale * leaf, variables['params']['heads'])
    return run({'params': {**variables['params'], 'heads': heads}}, z)

  raw, double, far = outputs(1e-3), outputs(2e-3), outputs(300.0)
  assert 1 + 1 / 255 < np.max(np.abs(far['mean'])) <= strided.BOUND * (1 + 1e-6)
  assert np.max(np.abs(far['cov_factor'])) > 10
  # Far from the bound it is the head's own output, with the slope 1.
  np.testing.assert_allclose(double['mean'], 2 * raw['mean'], rtol=1e-3)
  np.testing.assert_allclose(far['mean'], strided.BOUND * np.tanh(3e5 * raw['mean']), rtol=1e-2)


def test_heads_of_a_pixel_see_its_neighbours():
  """The paper's last convolution is 3x3, as a head of each output that is an image."""
  _, variables, _, _ = make('strided')
  heads = variables['params']['decoder']['heads']
  assert heads['mean']['kernel'].shape == (3, 3, 4, 1)
  assert heads['cov_factor']['kernel'].shape == (3, 3, 4, 3)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.slow
def test_gradient_reaches_every_parameter(name):
  model, variables, keys, x = make(name, norm='batch', init=filled)

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


@pytest.mark.parametrize('name', NAMES)
def test_other_models_stages_and_a_decoder_of_the_covariance(name):
  options = observation.Options((4, 8), covariance_layers=1, covariance_sees_mean=True)
  model, variables, keys, x = make(name, (5, 3, 1), kind=Autoencoder, options=options)
  assert set(variables['params']['decoder']['heads']) == {'mean'}
  assert set(variables['params']['covariance_decoder']['heads']) == {'cov_factor'}
  assert shapes(model.apply)(variables, keys, x).log_p['x'].shape == (4,)
  labels = optimizers.labels({'model': make(name)[1]['params']})['model']
  assert set(jax.tree.leaves(labels['decoder']['heads']['mean'])) == {'mean_head'}


@pytest.mark.parametrize('name', NAMES)
def test_the_configuration_is_checked(name):
  config = Config()
  config.model.options = {'architecture': name, 'blocks': 1}
  with pytest.raises(ValueError, match=rf"no such option of .*architecture='{name}'"):
    configuration.resolve(config)
  del config.model.options['blocks']
  configuration.resolve(config)
