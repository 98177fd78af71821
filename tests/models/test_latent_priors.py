"""Priors of latents: densities by definition, one key a sample, names and options, VAEs with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models import classes, latent_priors
from structured_obs.models.vae import VAE
from structured_obs.objectives import bounds, constraints
from tests.models.programs import apply, init

FLOW = {'growth': 4, 'layers': 1, 'couplings': 1}
OPTIONS = {'normal': {}, 'mixture': {'components': 3}, 'realnvp': FLOW}


def make(kind, event=(3,)):
  prior = latent_priors.make(kind, event, OPTIONS[kind])
  z = jax.random.normal(jax.random.key(0), (4, *event), jnp.float32)
  variables: Any = init(prior, jax.random.key(1), z, method='log_prob')
  if kind == 'mixture':
    noise = lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape, leaf.dtype)  # noqa: E731
    variables = jax.tree.map(lambda leaf: leaf + noise(leaf), variables)
  return prior, variables, z


@pytest.mark.parametrize('kind', latent_priors.PRIORS)
@pytest.mark.parametrize('event', [(3,), (4, 4, 2)])
@pytest.mark.slow
def test_one_density_per_latent_and_one_sample_per_key(kind, event):
  prior, variables, z = make(kind, event)
  log_prob = apply(prior, variables, z, method='log_prob')
  assert log_prob.shape == (4,)
  assert log_prob.dtype == jnp.float32
  alone = apply(prior, variables, z[2:3], method='log_prob')
  np.testing.assert_allclose(alone, log_prob[2:3], rtol=1e-5)
  keys = jax.random.split(jax.random.key(5), 4)
  samples = apply(prior, variables, keys, method='sample')
  assert samples.shape == z.shape
  np.testing.assert_allclose(
    apply(prior, variables, keys[1:2], method='sample'), samples[1:2], rtol=1e-4, atol=1e-5
  )
  assert np.std(samples[:, 0]) > 0.01


def test_the_standard_normal_has_nothing_to_learn():
  prior, variables, z = make('normal')
  assert not variables
  expected = stats.norm.logpdf(np.asarray(z, np.float64)).sum(axis=-1)
  np.testing.assert_allclose(apply(prior, variables, z, method='log_prob'), expected, rtol=1e-6)


def test_the_mixture_is_its_sum_over_components():
  prior, variables, z = make('mixture', (2, 1, 3))
  params = {name: np.asarray(leaf, np.float64) for name, leaf in variables['params'].items()}
  weights = np.exp(params['logits']) / np.exp(params['logits']).sum()
  scales = np.exp(np.asarray(distributions.base.soft_clip(jnp.asarray(params['log_scales']), -3.5, 3.5)))
  flat = np.asarray(z, np.float64).reshape(4, 1, 6)
  densities = stats.norm.pdf(flat, params['means'][None], scales[None]).prod(axis=-1)
  np.testing.assert_allclose(
    apply(prior, variables, z, method='log_prob'), np.log(densities @ weights), rtol=1e-5
  )


def test_samples_of_the_mixture_have_its_mean_and_its_weights():
  prior, variables, _ = make('mixture', (1,))
  logits, means = np.log([0.2, 0.5, 0.3]), [[-9.0], [0.0], [7.0]]
  params = {'logits': logits, 'means': means, 'log_scales': [[0.0]] * 3}
  variables = {'params': {name: jnp.asarray(leaf, jnp.float32) for name, leaf in params.items()}}
  keys = jax.random.split(jax.random.key(0), 4000)
  z = np.asarray(jax.jit(lambda keys: apply(prior, variables, keys, method='sample'))(keys))[:, 0]
  shares = [np.mean(z < -4.5), np.mean(np.abs(z - 0.5) < 4), np.mean(z > 4)]
  np.testing.assert_allclose(shares, [0.2, 0.5, 0.3], atol=0.035)
  assert abs(z[z < -4.5].mean() + 9) < 0.15
  assert abs(z[z < -4.5].std() - 1) < 0.1


@pytest.mark.parametrize(
  ('kind', 'options', 'message'),
  [
    ('mixtur', {}, "option prior of the latents must .* got 'mixtur'. Did you mean 'mixture'"),
    ('mixture', {'component': 3}, "no such option of the prior 'mixture'; did you mean components"),
    ('normal', {'components': 3}, 'it has none'),
    ('realnvp', {'scales': 0}, 'at least 1; got 0'),
    ('realnvp', {'growth': '64'}, "must be a whole number of at least 1; got '64'"),
  ],
)
def test_wrong_names_and_values_are_refused(kind, options, message):
  with pytest.raises((TypeError, ValueError), match=message):
    latent_priors.make(kind, (4,), options)


def test_options_are_written_out():
  assert latent_priors.options_of('mixture') == {'components': 10}
  assert latent_priors.options_of('realnvp', {'scales': 1}) == {
    'scales': 1, 'couplings': 3, 'growth': 64, 'layers': 5,
  }  # fmt: skip


def vae(kind, labels=False):
  family = distributions.family('diagonal')
  named = classes.Classes((3, 2), 256) if labels else None
  model = VAE(
    family, ImageShape(4, 4, 1), latents=3, features=(4,), prior=kind, prior_options=OPTIONS[kind],
    label_classes=named,
  )  # fmt: skip
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1 + labels), jnp.float32, -1, 1)
  if labels:
    x = x.at[..., 1].set(jnp.asarray([0, 1, 1, 0], jnp.float32)[:, None, None] * (2 / 255) - 1)
  return model, init(model, jax.random.key(2), keys, x), keys, x


@pytest.mark.parametrize('kind', latent_priors.PRIORS)
@pytest.mark.parametrize('labels', [False, True])
@pytest.mark.slow
def test_a_vae_of_any_prior_bounds_constrains_and_generates(kind, labels):
  model, variables, keys, x = vae(kind, labels)
  assert not model.traits.data_dependent
  terms = apply(model, variables, keys, x)
  sampled = terms.log_q['z'] - terms.log_p['z']
  z = apply(model, variables, keys, x, method='infer')[:, :3]
  of_prior = lambda module, z: module.latent_prior.log_prob(z)  # noqa: E731
  np.testing.assert_allclose(terms.log_p['z'], apply(model, variables, z, method=of_prior), rtol=1e-5)
  if kind != 'normal':
    np.testing.assert_allclose(terms.stats['kl_z'], sampled, rtol=1e-6)
  np.testing.assert_allclose(bounds.elbo(terms), terms.log_p['x'] - terms.stats['kl_z'], rtol=1e-6)
  held = {'kl_z': constraints.Constraint(0.1)}
  objective = bounds.negative_elbo(0.0, held)
  loss = lambda params: objective(  # noqa: E731
    apply(model, {'params': params}, keys, x), constraints.initial_multipliers(held)
  )[0]
  gradient: Any = jax.grad(loss)(variables['params'])
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
  learnt = gradient.get('latent_prior', {})
  assert bool(learnt) == (kind != 'normal')
  params = apply(model, variables, keys, method='generate')
  assert params.mean.shape == (4, 4, 4, 1)
