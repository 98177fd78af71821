"""The denoiser: noise by keys, residual prediction, and what it leaves out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models import denoiser, observation
from structured_obs.models.base import Bound
from structured_obs.models.kind import Setting
from structured_obs.objectives import bounds
from structured_obs.runs import optimizers
from tests.models.programs import apply, init

FAMILY = distributions.family('low_rank', rank=2, noise_variance=0.1, learn_diag=True)
IMAGE = ImageShape(5, 6, 1)
KEYS = jax.random.split(jax.random.key(0), 4)
X = jax.random.uniform(jax.random.key(1), (4, *IMAGE), jnp.float32, -1, 1)


def make(**fields):
  """A model and its variables."""
  model = denoiser.Denoiser(FAMILY, IMAGE, (4, 8), noise=0.5, **fields)
  return model, init(model, jax.random.key(2), KEYS, X)


MODEL, VARIABLES = make()
ADD_NOISE = jax.jit(denoiser.Denoiser.add_noise, static_argnums=0)


def test_it_sees_noise_and_is_scored_on_the_clean_image():
  noisy = apply(MODEL, VARIABLES, KEYS, X, method='add_noise')
  params = apply(MODEL, VARIABLES, None, noisy, method='reconstruct')
  terms = apply(MODEL, VARIABLES, KEYS, X)
  expected = jax.vmap(FAMILY.log_prob)(params, X)
  np.testing.assert_allclose(terms.log_p['x'], expected, rtol=1e-6)
  np.testing.assert_allclose(bounds.elbo(terms), expected, rtol=1e-6)
  assert terms.log_q == {}
  np.testing.assert_allclose(terms.images.mean, params.mean, rtol=1e-6)
  scored = jax.jit(Bound.predict)(Bound(MODEL, VARIABLES), KEYS, X)
  np.testing.assert_allclose(scored.mean, params.mean, rtol=1e-6)


def test_the_noise_has_its_size_and_is_one_draw_a_key():
  keys, zeros = jax.random.split(jax.random.key(3), 500), jnp.zeros((500, *IMAGE), jnp.float32)
  noise = np.asarray(ADD_NOISE(MODEL, keys, zeros))
  np.testing.assert_allclose(noise.std(), 0.5, rtol=0.02)
  assert abs(noise.mean()) < 0.02
  np.testing.assert_allclose(noise[3:5], ADD_NOISE(MODEL, keys[3:5], zeros[:2]))
  sizes = np.asarray(ADD_NOISE(MODEL.clone(blind=True), keys, zeros)).std(axis=(1, 2, 3))
  assert sizes.max() < 0.7
  np.testing.assert_allclose(np.mean(sizes), 0.25, rtol=0.1)  # uniform from 0 to 0.5
  np.testing.assert_allclose(np.quantile(sizes, 0.25), 0.125, rtol=0.2)
  # A sample drawn with the same key is no copy of the noise.
  seen = ADD_NOISE(MODEL, KEYS, zeros[:4])[0]
  for other in (KEYS[0], *jax.random.split(KEYS[0], 4)):
    same = 0.5 * jax.random.normal(other, IMAGE, jnp.float32)
    assert np.abs(seen - same).max() > 0.1


def test_the_mean_is_the_image_where_the_network_emits_nothing():
  heads = jax.tree.map(jnp.zeros_like, VARIABLES['params']['decoder']['heads']['mean'])
  params = {**VARIABLES['params']}
  params['decoder'] = {**params['decoder'], 'heads': {**params['decoder']['heads'], 'mean': heads}}
  found = apply(MODEL, {'params': params}, None, X, method='reconstruct')
  np.testing.assert_allclose(found.mean, X)


def test_stages_learn_the_mean_with_one_variance():
  model, variables = make(options=observation.Options(white=True, learn_scale=True))
  params = apply(model, variables, None, X, method='reconstruct')
  np.testing.assert_allclose(params.cov_factor, 0)
  assert np.ptp(params.cov_diag) < 1e-6
  labels = optimizers.labels({'model': variables['params']})['model']
  heads = labels['decoder'].pop('heads')
  assert {*jax.tree.leaves(heads['mean'])} == {'mean_head'}
  assert {*jax.tree.leaves(heads['cov_factor'])} == {'other_heads'}
  assert {labels['log_scale'], *jax.tree.leaves(labels['decoder'])} == {'rest'}


def test_every_pixel_reaches_far_and_every_parameter_learns():
  def loss(params):
    return -bounds.elbo(apply(MODEL, {'params': params}, KEYS, X)).mean()

  gradient = jax.jit(jax.grad(loss))(VARIABLES['params'])
  assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient))

  def corner(x):
    return apply(MODEL, VARIABLES, None, x, method='reconstruct').mean[0, 0, 0, 0]

  assert np.all(np.asarray(jax.jit(jax.grad(corner))(X))[0] != 0)


def test_what_it_cannot_do_is_refused():
  levels = distributions.family('discretized_logistic_mixture', levels=17, components=2)
  options = {'features': (4,), 'blocks': 1, 'norm': 'none', 'noise': 0.1, 'blind': False}
  with pytest.raises(ValueError, match=r'which this --config\.likelihood\.family lacks'):
    denoiser.KIND.build({**options, 'scale': 'none'}, levels, IMAGE, Setting())
  with pytest.raises(ValueError, match='has no latents'):
    Bound(MODEL, VARIABLES).infer(None, X)
  with pytest.raises(ValueError, match=r'of shape \(batch, 5, 6, 1\)'):
    Bound(MODEL, VARIABLES).reconstruct(None, X[:, 1:])


@pytest.mark.slow
def test_it_learns_to_remove_noise():
  """Of images with two degrees of freedom: hardly anything of the noise has to stay."""
  model = denoiser.Denoiser(
    distributions.family('diagonal'), ImageShape(8, 8, 1), (8, 16), noise=0.5,
    options=observation.Options(white=True, learn_scale=True),
  )  # fmt: skip
  rows, columns = np.mgrid[:8, :8].astype(np.float32) / 7 - 0.5

  def batch(key):
    slopes = jax.random.uniform(key, (16, 2, 1, 1), jnp.float32, -1, 1)
    images = slopes[:, 0] * rows[None] + slopes[:, 1] * columns[None]
    return images[..., None], jax.random.split(key, 16)

  def loss(params, key):
    x, keys = batch(key)
    terms: Any = model.apply({'params': params}, keys, x)
    return -bounds.elbo(terms).mean(), jnp.mean(jnp.square(terms.images.mean - x))

  optimizer = optax.adam(2e-3)

  @jax.jit
  def update(state, key):
    params, moments = state
    (_, error), gradient = jax.value_and_grad(loss, has_aux=True)(params, key)
    with jax.numpy_dtype_promotion('standard'):  # optax mixes integers and floats
      change, moments = optimizer.update(gradient, moments)
      return (optax.apply_updates(params, change), moments), error

  x, keys = batch(jax.random.key(0))
  params = init(model, jax.random.key(1), keys, x)['params']
  state, errors = (params, optimizer.init(params)), []
  for key in jax.random.split(jax.random.key(2), 150):
    state, error = update(state, key)
    errors.append(float(error))
  assert errors[0] == pytest.approx(0.25, rel=0.2)
  assert np.mean(errors[-20:]) < 0.05
