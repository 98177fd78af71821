"""The autoencoder, a decoder of the covariance's own, and what is frozen in either."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models import observation
from structured_obs.models.autoencoder import Autoencoder
from structured_obs.models.vae import VAE
from structured_obs.objectives import alternating, bounds
from structured_obs.objectives.alternating import Fit
from structured_obs.runs import optimizers
from tests.models.programs import apply, init

OWN = observation.Options(
  covariance_features=(4,), covariance_layers=1, covariance_sees_mean=True, learn_scale=True
)
FAMILY = distributions.family('low_rank', rank=2, noise_variance=0.1, learn_diag=True)
IMAGE = ImageShape(5, 6, 1)


def make(kind: Any = VAE, options: observation.Options = OWN, **fields: Any) -> tuple[Any, ...]:
  """A model, its variables, keys and images."""
  model = kind(FAMILY, IMAGE, latents=3, features=(4, 8), blocks=0, options=options, **fields)
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.uniform(jax.random.key(1), (4, *IMAGE), jnp.float32, -1, 1)
  return model, init(model, jax.random.key(2), keys, x), keys, x


def grads(model: Any, variables: Any, keys: Any, x: Any, fit: Fit = alternating.DENSITY) -> Any:
  """Gradient of the negative ELBO, as {'model': ..}."""

  def loss(params: Any) -> Any:
    return bounds.negative_elbo(fit=fit)(apply(model, {'params': params}, keys, x), {})[0]

  return {'model': jax.grad(loss)(variables['params'])}


def norms(tree: Any) -> dict[str, float]:
  """Largest absolute gradient of each label."""
  found: dict[str, float] = {}
  labels = jax.tree.leaves(optimizers.labels(tree))
  for label, leaf in zip(labels, jax.tree.leaves(tree), strict=True):
    found[label] = max(found.get(label, 0.0), float(jnp.max(jnp.abs(leaf))))
  return found


@pytest.mark.parametrize('kind', [VAE, Autoencoder])
def test_a_covariance_decoder_has_all_outputs_but_the_mean(kind):
  _, variables, _, _ = make(kind)
  params = variables['params']
  assert set(params['decoder']['heads']) == {'mean'}
  assert set(params['covariance_decoder']['heads']) == {'cov_factor', 'cov_diag'}
  assert params['log_scale'].shape == ()


def test_an_autoencoder_is_deterministic_and_has_no_kl():
  model, variables, keys, x = make(Autoencoder)
  terms = apply(model, variables, keys, x)
  assert terms.log_q == {}
  assert 'kl_z' not in terms.stats
  params = apply(model, variables, None, x, method='reconstruct')
  expected = jax.vmap(FAMILY.log_prob)(params, x)
  np.testing.assert_allclose(terms.log_p['x'], expected, rtol=1e-6)
  np.testing.assert_allclose(bounds.elbo(terms), expected, rtol=1e-6)


def test_a_denoising_autoencoder_sees_noise_and_is_scored_on_the_clean_image():
  model, variables, keys, x = make(Autoencoder, input_noise=0.5)
  noise = jax.vmap(lambda key: jax.random.normal(key, IMAGE, x.dtype))(keys)
  params = apply(model, variables, None, x + 0.5 * noise, method='reconstruct')
  terms = apply(model, variables, keys, x)
  np.testing.assert_allclose(terms.log_p['x'], jax.vmap(FAMILY.log_prob)(params, x), rtol=1e-6)


def test_the_scale_multiplies_every_standard_deviation():
  model, variables, _, x = make()
  plain = apply(model, variables, None, x, method='reconstruct')
  variables['params']['log_scale'] = jnp.float32(np.log(3) / observation.RATE)
  scaled = apply(model, variables, None, x, method='reconstruct')
  np.testing.assert_allclose(scaled.mean, plain.mean, rtol=1e-6)
  np.testing.assert_allclose(scaled.cov_diag, 9 * plain.cov_diag, rtol=1e-5)


@pytest.mark.parametrize('kind', [VAE, Autoencoder])
@pytest.mark.slow
def test_a_frozen_mean_has_no_gradient_and_the_covariance_the_same_one(kind):
  free = make(kind)
  frozen = make(kind, OWN._replace(frozen_mean=True))
  found, expected = grads(*frozen), grads(*free)
  assert norms(found)['mean_head'] == 0 < norms(expected)['mean_head']
  assert np.any(jax.tree.leaves(expected['model']['encoder'])[0] != 0)
  a, b = (tree['model']['covariance_decoder'] for tree in (found, expected))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), a, b)
  assert norms({'model': {'covariance_decoder': a}})['other_heads'] > 0


@pytest.mark.parametrize('kind', [VAE, Autoencoder])
@pytest.mark.slow
def test_batch_norm_of_a_frozen_mean_uses_and_keeps_its_running_statistics(kind):
  fields = {'architecture': 'strided', 'norm': 'batch'}
  model, variables, keys, x = make(kind, OWN._replace(frozen_mean=True), **fields)
  variables['batch_stats'] = jax.tree.map(lambda leaf: leaf + 0.3, variables['batch_stats'])
  terms, state = apply(model, variables, keys, x, train=True, mutable=['batch_stats'])
  np.testing.assert_array_equal(terms.images.mean, apply(model, variables, keys, x).images.mean)
  for name in ('encoder', 'decoder', 'covariance_decoder'):
    old, new = (jax.tree.leaves(tree['batch_stats'][name]) for tree in (variables, state))
    same = all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
    assert same == (name != 'covariance_decoder')
  free = make(kind, OWN, **fields)[0]
  moved = apply(free, variables, keys, x, train=True, mutable=['batch_stats'])[0]
  assert not np.allclose(moved.images.mean, terms.images.mean)


def test_a_white_model_is_independent_pixels_of_one_scale():
  model, variables, keys, x = make(options=OWN._replace(white=True))
  params = apply(model, variables, None, x, method='reconstruct')
  np.testing.assert_allclose(params.cov_factor, 0)
  assert np.ptp(params.cov_diag) < 1e-6
  assert norms(grads(model, variables, keys, x))['other_heads'] == 0


def test_labels_of_a_model_with_two_decoders():
  _, variables, _, _ = make()
  found = optimizers.labels({'model': variables['params']})['model']
  assert set(jax.tree.leaves(found['decoder'])) == {'mean_head'}
  assert set(jax.tree.leaves(found['covariance_decoder'])) == {'other_heads'}
  assert {found['log_scale'], *jax.tree.leaves(found['encoder'])} == {'rest'}


@pytest.mark.parametrize('share', [0.75, 1.0])
@pytest.mark.parametrize('kind', [VAE, Autoencoder])
def test_the_mean_learns_from_two_likelihoods_and_the_covariance_from_its_own(kind, share):
  """All that the mean is made of has the mixture's gradient, the rest the density's."""
  free = make(kind)
  mixed = make(kind, OWN._replace(mean_gradient=share))
  np.testing.assert_array_equal(
    apply(mixed[0], *mixed[1:]).log_p['x'], apply(free[0], *free[1:]).log_p['x']
  )
  own = grads(*free)['model']
  white = grads(*free, fit=Fit(lambda images: -alternating.white_log_prob(images)))['model']
  found = grads(*mixed, fit=Fit(mean_gradient=share))['model']
  covariance = {'covariance_decoder', 'log_scale'}
  assert covariance < set(found)
  for name, tree in found.items():
    parts = (own[name], white[name])
    expected = own[name]
    if name not in covariance:
      expected = jax.tree.map(lambda one, other: (1 - share) * one + share * other, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), tree, expected)
