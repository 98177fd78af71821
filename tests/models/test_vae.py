"""The VAE: any size and family, terms against their definitions, one key per image."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import base, diagonal, kl
from structured_obs.distributions.base import ImageShape
from structured_obs.models.vae import VAE, num_parameters
from structured_obs.objectives import bounds
from tests.models.programs import apply, init

SHAPES = [(8, 8, 1), (1, 6, 1), (5, 1, 3), (3, 2, 2)]


@functools.cache
def make(name='low_rank', shape=(7, 9, 3), norm='none', batch=4, **options):
  model = VAE(
    distributions.family(name, **options), ImageShape(*shape), latents=3, features=(4, 8), norm=norm
  )
  keys = jax.random.split(jax.random.key(0), batch)
  x = jax.random.uniform(jax.random.key(1), (batch, *shape), jnp.float32, -1, 1)
  x = base.round_to_levels(x, model.family.levels)
  return model, init(model, jax.random.key(2), keys, x), keys, x


@pytest.mark.parametrize(
  ('name', 'shape'),  # the networks' sizes have nothing to do with the family
  [(name, (7, 9, 3)) for name in distributions.FAMILIES] + [('diagonal', shape) for shape in SHAPES],
)
@pytest.mark.slow
def test_any_family_and_size_gives_finite_terms_in_float32(name, shape):
  model, variables, keys, x = make(name, shape)
  terms = jax.jit(model.apply)(variables, keys, x)
  for leaf in jax.tree.leaves(terms._replace(images=None)):
    assert leaf.shape == (4,)
    assert leaf.dtype == jnp.float32
    assert np.all(np.isfinite(leaf))


def test_terms_are_what_their_names_say():
  model, variables, keys, x = make('low_rank', rank=2, noise_variance=0.1)
  terms = apply(model, variables, keys, x)
  posterior = apply(model, variables, x, method='encode')
  z = jax.vmap(diagonal.sample)(keys, posterior)
  params = apply(model, variables, z, method='decode')
  np.testing.assert_allclose(terms.log_p['x'], jax.vmap(model.family.log_prob)(params, x), rtol=1e-5)
  family = distributions.family('diagonal')
  prior = jax.tree.map(jnp.zeros_like, posterior)
  closed = jax.vmap(lambda p, q: kl.kl_divergence(family, p, family, q))
  images = jax.tree.map(lambda leaf: leaf[:, None, None, :], (posterior, prior))
  np.testing.assert_allclose(terms.stats['kl_z'], closed(*images), rtol=1e-4)


@pytest.mark.slow
def test_sampled_and_closed_kl_agree_on_average():
  model, variables, _, x = make(batch=1)
  keys = jax.random.split(jax.random.key(5), 4000)
  terms = apply(model, variables, keys, jnp.repeat(x, 4000, axis=0))
  difference = np.asarray(terms.log_q['z'] - terms.log_p['z'] - terms.stats['kl_z'])
  assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


def test_an_image_does_not_feel_the_batch_it_is_in():
  model, variables, keys, x = make()
  together = apply(model, variables, keys, x)
  alone = apply(model, variables, keys[2:3], x[2:3])
  of_one = jax.tree.map(lambda a: a[2:3], together)
  chex.assert_trees_all_close(of_one, alone, rtol=2e-5, atol=1e-6)


def test_heads_carry_the_names_of_the_outputs():
  model, variables, _, _ = make('low_rank', rank=5, learn_diag=True, noise_variance=0.1)
  heads = variables['params']['decoder']['heads']
  assert set(heads) == set(model.family.outputs(model.image)) == {'mean', 'cov_factor', 'cov_diag'}
  assert num_parameters(variables) == sum(leaf.size for leaf in jax.tree.leaves(variables['params']))


def test_gradient_reaches_every_parameter():
  model, variables, keys, x = make('low_rank', rank=5, learn_diag=True, noise_variance=0.1)

  def loss(params):
    return bounds.negative_elbo()(apply(model, {'params': params}, keys, x), {})[0]

  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables['params'])):
    assert np.all(np.isfinite(leaf)), path
    assert np.any(leaf != 0), path


def test_reconstruct_and_generate_return_one_record_per_image():
  model, variables, keys, x = make('low_rank', rank=5)
  at_mean = apply(model, variables, None, x, method='reconstruct')
  assert at_mean.cov_factor.shape == (4, 7, 9, 3, 5)
  drawn = apply(model, variables, keys, x, method='reconstruct')
  assert not np.array_equal(at_mean.mean, drawn.mean)
  assert apply(model, variables, keys, method='generate').mean.shape == (4, 7, 9, 3)


def test_batch_norm_keeps_running_statistics():
  model, variables, keys, x = make(norm='batch')
  _, updated = apply(model, variables, keys, x, train=True, mutable=['batch_stats'])
  before, after = jax.tree.leaves(variables['batch_stats']), jax.tree.leaves(updated['batch_stats'])
  assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x[:, :6], 'x must be floating-point images of shape'),
    (lambda x: x[0], 'x must be floating-point images of shape'),
    (lambda x: (x * 255).astype(jnp.uint8), 'scaled to'),
  ],
)
def test_wrong_images_are_refused(change, message):
  model, variables, keys, x = make()
  with pytest.raises(ValueError, match=message):
    apply(model, variables, keys, change(x))


def test_an_unknown_norm_is_refused():
  with pytest.raises(ValueError, match='norm must be one of none, group, batch'):
    make(norm='layer')
