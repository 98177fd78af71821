"""One distribution for all images: its densities, gradients and places in a training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs import distributions
from structured_obs.distributions import gaussian, probabilistic_pca
from structured_obs.distributions.base import ImageShape
from structured_obs.models import distribution, observation
from structured_obs.models.distribution import Distribution
from structured_obs.objectives import bounds
from structured_obs.runs import optimizers
from tests.models.programs import apply, init

IMAGE = ImageShape(4, 3, 1)
FAMILIES = {
  'low_rank': distributions.family('low_rank', rank=2, noise_variance=0.1, learn_diag=True),
  'diagonal': distributions.family('diagonal'),
  'sparse_precision': distributions.family('sparse_precision', filter_size=3),
  'dense_precision': distributions.family('dense_precision'),
}
LOW_RANK = distributions.family('low_rank', rank=2, noise_variance=0.03, factor_scale=1.0)


def make_images(count: int = 5) -> jax.Array:
  return jax.random.uniform(jax.random.key(1), (count, *IMAGE), jnp.float32, -1, 1)


def make(family: Any = LOW_RANK, **fields: Any) -> tuple[Any, dict[str, Any], jax.Array, jax.Array]:
  """A model, random parameters for it, keys and images."""
  model, x = Distribution(family, IMAGE, **fields), make_images()
  keys = jax.random.split(jax.random.key(0), len(x))
  shapes = jax.eval_shape(model.init, jax.random.key(2), keys, x)
  rng = np.random.default_rng(0)
  draw = lambda a: jnp.asarray(0.2 * rng.normal(size=a.shape), a.dtype)  # noqa: E731
  return model, jax.tree.map(draw, shapes), keys, x


def gradients(model: Any, variables: Any, keys: Any, x: Any) -> Any:
  """Gradient of the negative ELBO."""

  def loss(params: Any) -> Any:
    return bounds.negative_elbo()(model.apply({'params': params}, keys, x), {})[0]

  return jax.jit(jax.grad(loss))(variables['params'])


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.few(2)
def test_every_image_has_the_same_distribution_of_any_family(name: str):
  family = FAMILIES[name]
  model, variables, keys, x = make(family, options=observation.Options(learn_scale=True))
  terms = apply(model, variables, keys, x)
  params = apply(model, variables, None, x, method='reconstruct')
  jax.tree.map(np.testing.assert_array_equal, params, apply(model, variables, keys, method='generate'))
  for leaf in jax.tree.leaves(params):
    assert leaf.shape[0] == len(x)
    np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
  expected = jax.jit(jax.vmap(family.log_prob))(params, x)
  np.testing.assert_allclose(terms.log_p['x'], expected, rtol=1e-5)
  np.testing.assert_allclose(bounds.elbo(terms), expected, rtol=1e-5)
  assert terms.log_q == {}
  assert not model.traits.has_prior


def test_a_family_that_is_not_gaussian_is_scored_image_by_image():
  params, x = jax.tree.map(jnp.float32, (jnp.zeros(IMAGE), 0)), make_images()
  family = FAMILIES['diagonal']._replace(gaussian=None)
  known = distributions.diagonal.Diagonal(params[0], params[0])
  np.testing.assert_allclose(
    distribution.log_probs(family, known, x),
    distribution.log_probs(FAMILIES['diagonal'], known, x),
    rtol=1e-6,
  )


def test_the_start_is_nearly_white_with_a_factor_that_can_learn():
  x = make_images()
  model = Distribution(LOW_RANK, IMAGE)
  keys = jax.random.split(jax.random.key(0), 5)
  params = init(model, jax.random.key(0), keys, x)['params']
  heads = params['decoder']['heads']
  assert set(heads) == {'mean', 'cov_factor'}
  np.testing.assert_array_equal(heads['mean'], 0)
  assert 0.05 < float(jnp.std(heads['cov_factor'])) < 0.2


def test_stages_know_the_mean_from_the_rest():
  _, variables, _, _ = make(options=observation.Options(learn_scale=True))
  found = optimizers.labels({'model': variables['params']})['model']
  assert found['decoder']['heads'] == {'mean': 'mean_head', 'cov_factor': 'other_heads'}
  assert found['log_scale'] == 'rest'


def test_options_are_those_of_other_models():
  model, variables, keys, x = make(options=observation.Options(white=True))
  params = apply(model, variables, None, x, method='reconstruct')
  np.testing.assert_array_equal(params.cov_factor, 0)
  model, variables, keys, x = make(options=observation.Options(frozen_mean=True))
  found = gradients(model, variables, keys, x)['decoder']['heads']
  np.testing.assert_array_equal(found['mean'], 0)
  assert np.any(np.asarray(found['cov_factor']) != 0)


def test_the_natural_gradient_is_the_covariance_times_the_gradient():
  options = observation.Options(learn_scale=True)
  model, variables, keys, x = make(options=options)
  plain = gradients(model, variables, keys, x)
  natural = gradients(Distribution(LOW_RANK, IMAGE, options, True), variables, keys, x)
  params = jax.tree.map(lambda a: a[0], apply(model, variables, keys, method='generate'))
  covariance_of = jax.jit(functools.partial(gaussian.covariance, LOW_RANK))
  covariance = np.asarray(covariance_of(params), np.float64)
  for name, gradient in plain['decoder']['heads'].items():
    expected = covariance @ np.asarray(gradient, np.float64).reshape(IMAGE.size, -1)
    found = np.asarray(natural['decoder']['heads'][name]).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(natural['log_scale'], plain['log_scale'], rtol=1e-5)


def test_the_natural_gradient_by_the_mean_leads_to_the_average_of_the_images():
  model, variables, keys, x = make(natural_gradient=True)
  found = gradients(model, variables, keys, x)['decoder']['heads']['mean']
  mean = variables['params']['decoder']['heads']['mean']
  np.testing.assert_allclose(mean - found, jnp.mean(x, axis=0), atol=1e-5)


@pytest.mark.parametrize('natural', [True, False])
@pytest.mark.few(2)
def test_gradients_alone_find_the_closed_form(natural: bool):
  rng = np.random.default_rng(0)
  factor = rng.normal(size=(IMAGE.size, 2)) * [1.0, 0.7]  # variances of about 12 and 6
  x = rng.normal(size=(200, 2)) @ factor.T + 0.2 * rng.normal(size=(200, IMAGE.size)) + 1
  x = jnp.asarray(x.reshape(200, *IMAGE), jnp.float32)
  model = Distribution(LOW_RANK, IMAGE, observation.Options(learn_scale=True), natural)
  keys = jax.random.split(jax.random.key(0), len(x))
  params = init(model, jax.random.key(1), keys, x)['params']
  terms: Any = lambda params: model.apply({'params': params}, keys, x)  # noqa: E731
  adam = optax.adam(optax.cosine_decay_schedule(0.05, 400), b2=0.9)

  def loss(params: Any) -> Any:
    return -jnp.mean(terms(params).log_p['x'])

  def step(carry: Any, _: None) -> Any:
    params, state = carry
    value, gradient = jax.value_and_grad(loss)(params)
    with jax.numpy_dtype_promotion('standard'):
      updates, state = adam.update(gradient, state)
    return (optax.apply_updates(params, updates), state), value

  _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=400))((params, adam.init(params)))
  images = probabilistic_pca.moments(np.asarray(x), 2)
  best = -probabilistic_pca.mean_log_prob(images, probabilistic_pca.optimum(images, 2))
  assert best - 1e-3 < losses[-1] < best + 1e-3 < losses[0] - 10


def test_what_cannot_be_is_refused():
  family = LOW_RANK._replace(gaussian=None)
  with pytest.raises(ValueError, match='natural_gradient needs a family with a covariance'):
    make(family, natural_gradient=True)
  model, variables, keys, x = make()
  with pytest.raises(ValueError, match='x must be'):
    apply(model, variables, keys, x[:, 1:])
