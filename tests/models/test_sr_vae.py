"""srVAE: its terms against their definitions, gradients, the four operations, and what is refused."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.config import Config, ModelConfig
from structured_obs.data import pipeline, pixels
from structured_obs.devices import mesh as meshes
from structured_obs.distributions import diagonal, kl
from structured_obs.distributions.base import ImageShape
from structured_obs.models import intermediate_images, sr_vae
from structured_obs.models.base import Bound
from structured_obs.models.networks import sr_vae_networks
from structured_obs.objectives import bounds
from structured_obs.objectives.terms import log_weight
from structured_obs.runs import experiment as experiments
from structured_obs.runs import initial as initials
from structured_obs.train import step
from tests.models import programs
from tests.train import stub

BATCH = 4
SIZES: dict[str, Any] = {
  name: 2 if 'growth' in name else 1
  for name, value in sr_vae_networks.Options()._asdict().items()
  if name.endswith(('growth', 'depth', 'blocks'))
  and name not in sr_vae_networks.Learnt._fields
  and value
}
WATCHED = jax.jit(intermediate_images.watched, static_argnums=1)
FAMILY = distributions.family('discretized_logistic_mixture', components=2)
MODE: Any = FAMILY.mode
GRAY = {'compression': 'gray'}
CONSISTENT = {'consistent': True, 'skip': 'bicubic', 'x_y_depth': 1}


class Made(NamedTuple):
  """A model, initialised, and images for it."""

  model: sr_vae.SrVAE
  variables: Any
  keys: jax.Array
  x: jax.Array


def model_of(shape: tuple[int, ...], prior: str = 'normal', **options: Any) -> sr_vae.SrVAE:
  made = sr_vae_networks.Options(**SIZES | options)
  model = sr_vae.SrVAE(FAMILY, ImageShape(*shape), 2, made, prior)
  return sr_vae.with_consistent_images(model) if made.consistent else model


@functools.cache
def make(shape: tuple[int, ...] = (8, 12, 3), initialised: bool = False, **options: Any) -> Made:
  """A model of random variables, or of its own first ones, which take five times as long to compile."""
  model, draw = model_of(shape, **options), np.random.default_rng(0)
  levels = draw.integers(0, 256, (BATCH, *shape)).astype(np.uint8)
  keys, x = jax.random.split(jax.random.key(0), BATCH), pixels.to_unit(jnp.asarray(levels))
  if initialised:
    return Made(model, programs.init(model, jax.random.key(1), keys, x), keys, x)
  shapes = jax.eval_shape(model.init, jax.random.key(1), keys, x)
  fill = lambda leaf: jnp.asarray(0.5 * draw.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
  return Made(model, jax.tree.map(fill, shapes), keys, x)


def apply(made: Made, *arguments: Any, method: str | None = None) -> Any:
  return programs.apply(made.model, made.variables, *arguments, method=method)


def latents(made: Made, record: diagonal.Diagonal, index: int) -> jax.Array:
  """What `__call__` draws with its keys."""
  keys = jax.vmap(lambda key: jax.random.split(key, 3)[index])(made.keys)
  return jax.vmap(diagonal.sample)(keys, record)


@pytest.mark.parametrize(
  ('shape', 'options'),
  [
    ((8, 12, 3), {}),
    ((4, 8, 3), GRAY | {'skip': 'learnt', 'x_y_depth': 1}),
    ((8, 4, 1), {'factor': 4, 'method': 'bilinear'}),
    ((8, 4, 2), CONSISTENT | {'factor': 4}),
  ],
)
@pytest.mark.slow
def test_terms_are_finite_and_of_float32(shape: tuple[int, ...], options: dict[str, Any]):
  made = make(shape, initialised=True, **options)
  terms = apply(made, made.keys, made.x)
  assert set(terms.log_p) == {'x', 'y', 'z', 'u'}
  assert set(terms.log_q) == {'z', 'u'}  # q(y|x) is deterministic: it has no term
  assert set(terms.stats) == {'kl_z'}
  for leaf in jax.tree.leaves(terms):
    assert (leaf.shape, leaf.dtype) == ((BATCH,), jnp.float32)
    assert np.isfinite(leaf).all()


@pytest.mark.slow
def test_terms_are_what_their_names_say():
  made = make()
  terms, y = apply(made, made.keys, made.x), apply(made, made.x, method='compress')
  q_u, q_z = apply(made, y, method='encode_y'), apply(made, made.x, method='encode_x')
  u, z = latents(made, q_u, 0), latents(made, q_z, 1)
  p_z = apply(made, y, u, method='predict_z')
  log_prob = jax.vmap(FAMILY.log_prob)
  expected = {
    'x': log_prob(apply(made, y, z, method='decode_x'), made.x),
    'y': log_prob(apply(made, u, method='decode_y'), y),
    'z': jax.vmap(diagonal.log_prob)(p_z, z),
    'u': -0.5 * jnp.sum(jnp.square(u), axis=(1, 2, 3)) - u[0].size / 2 * math.log(2 * math.pi),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(terms.log_p[name], value, rtol=2e-5)
  for name, (posterior, value) in {'z': (q_z, z), 'u': (q_u, u)}.items():
    np.testing.assert_allclose(
      terms.log_q[name], jax.vmap(diagonal.log_prob)(posterior, value), rtol=2e-5
    )
  gaussian = distributions.family('diagonal')
  closed = jax.vmap(lambda q, p: kl.kl_divergence(gaussian, q, gaussian, p))(q_z, p_z)
  np.testing.assert_allclose(terms.stats['kl_z'], closed, rtol=1e-3, atol=1e-4)


def test_the_bound_is_the_sum_of_the_papers_four_parts():
  terms = apply(make(), make().keys, make().x)
  parts = terms.log_p['x'] + terms.log_p['y'] - terms.stats['kl_z']
  parts = parts - (terms.log_q['u'] - terms.log_p['u'])
  np.testing.assert_allclose(bounds.elbo(terms), parts, rtol=1e-6)
  sampled = terms.log_q['z'] - terms.log_p['z']
  np.testing.assert_allclose(log_weight(terms), parts + terms.stats['kl_z'] - sampled, rtol=1e-5)


@pytest.mark.slow
def test_gradient_reaches_every_parameter():
  made = make(initialised=True)

  def loss(params: Any) -> jax.Array:
    return bounds.negative_elbo()(made.model.apply({'params': params}, made.keys, made.x), {})[0]

  for path, leaf in jax.tree_util.tree_leaves_with_path(
    jax.jit(jax.grad(loss))(made.variables['params'])
  ):
    assert np.isfinite(leaf).all(), path
    one_input = leaf.ndim == 4 and leaf.shape[:3] == (1, 1, 1)  # whose direction is a sign
    assert one_input or np.any(leaf != 0), path


@pytest.mark.slow
def test_an_image_does_not_feel_the_batch_it_is_in():
  made = make()
  together = apply(made, made.keys, made.x)
  alone = apply(made, made.keys[1:3], made.x[1:3])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:3], b, rtol=5e-5, atol=1e-5), together, alone)


@pytest.mark.parametrize(
  'method', [Bound.generate, Bound.reconstruct, Bound.regenerate, Bound.super_resolve]
)
@pytest.mark.few(2)
def test_operations_show_the_small_image_they_go_through(method: Any):
  made = make()
  y = apply(made, made.x, method='compress')
  given = {Bound.generate: (), Bound.super_resolve: (y,)}.get(method, (made.x,))
  params, shown = WATCHED(Bound(made.model, made.variables), method, made.keys, *given)
  assert set(shown) == {'y'}
  if method in (Bound.reconstruct, Bound.super_resolve):
    np.testing.assert_array_equal(shown['y'], y)
  level = (np.asarray(shown['y']) + 1) * 127.5
  np.testing.assert_allclose(level, np.round(level), atol=1e-3)  # sampled on the grid
  assert jax.vmap(FAMILY.mean)(params).shape == made.x.shape
  assert np.isfinite(jax.tree.leaves(params)[0]).all()


@pytest.mark.slow
def test_a_consistent_model_draws_images_that_shrink_to_y():
  made = make((8, 4, 2), **CONSISTENT | {'factor': 4})
  model, bound = made.model, Bound(made.model, made.variables)
  params, shown = WATCHED(bound, Bound.generate, made.keys)
  family: Any = model.family
  both = jax.jit(jax.vmap(lambda key, params: (family.sample(key, params), family.mode(params))))
  drawn, modes = both(made.keys, params)
  for x in (drawn, modes):
    np.testing.assert_array_equal(bound.compress(x), shown['y'])


@pytest.mark.slow
def test_locations_begin_at_the_small_image_made_large():
  made = make((8, 4, 2), **CONSISTENT | {'factor': 4})
  zero = lambda path, leaf: leaf if path[-1].key == 'direction' else 0 * leaf  # noqa: E731
  variables = jax.tree_util.tree_map_with_path(zero, made.variables)  # every output is 0
  y = apply(made, made.x, method='compress')
  z = apply(made, made.x, method='encode_x').mean
  params = programs.apply(made.model, variables, y, z, method='decode_x')
  large = jax.image.resize(y, made.x.shape, 'cubic')
  expected = jnp.repeat(large[..., None], 2, axis=-1)
  np.testing.assert_allclose(params.mixture.locs, jnp.clip(expected, -1, 1), atol=1.01 / 255)


@pytest.mark.slow
def test_without_keys_latents_are_at_their_means():
  made = make()
  y = apply(made, made.x, method='compress')
  u = apply(made, y, method='encode_y').mean
  z = apply(made, y, u, method='predict_z').mean
  expected = apply(made, y, z, method='decode_x')
  found = apply(made, None, y, method='super_resolve')
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)
  inferred = apply(made, None, made.x, method='infer')
  np.testing.assert_allclose(inferred.u, u, rtol=1e-4, atol=1e-5)
  small = jax.vmap(MODE)(apply(made, u, method='decode_y'))
  _, shown = WATCHED(Bound(made.model, made.variables), Bound.decode, inferred)
  np.testing.assert_allclose(shown['y'], small, atol=1e-6)


def test_by_mode_a_model_draws_modes():
  made = make()
  model = intermediate_images.by_mode(made.model, 'mode')
  bound = Bound(model, made.variables)
  _, shown = WATCHED(bound, Bound.regenerate, made.keys, made.x)
  y = apply(made, made.x, method='compress')
  u = latents(made, apply(made, y, method='encode_y'), 0)
  modes = jax.vmap(MODE)(apply(made, u, method='decode_y'))
  np.testing.assert_allclose(shown['y'], modes, atol=1e-6)
  assert intermediate_images.by_mode(made.model, 'sample') is made.model
  with pytest.raises(ValueError, match='a mixture'):
    intermediate_images.by_mode(made.model.clone(family=distributions.family('diagonal')), 'mode')
  with pytest.raises(ValueError, match='one of sample, mode'):
    intermediate_images.by_mode(made.model, 'mean')


def config_of(**model: Any) -> Config:
  config = stub.make_config(steps=2, batch_size=8)
  kind, sizes = model.pop('kind', 'sr_vae'), {'latents': 2, 'prior': 'mixture', **SIZES, 'x_blocks': 1}
  config.model = ModelConfig(kind, (sizes if kind == 'sr_vae' else {}) | model)
  family, options = 'discretized_logistic_mixture', {'components': 2}
  config.likelihood = dataclasses.replace(config.likelihood, family=family, options=options)
  return config


def build(config: Config, height: int = 4) -> experiments.Experiment:
  spec = stub.make_prepared().spec._replace(height=height, width=4)
  return experiments.build(config, spec)


@pytest.mark.slow
def test_devices_agree_with_one():
  experiment = build(config_of())
  images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1)).astype(np.uint8)
  initial, key, _ = initials.run_keys(experiment)
  first = jax.device_get(initials.init_state(experiment, initial, images))
  losses = []
  for devices in (1, 4):
    mesh = meshes.make_mesh(jax.local_devices()[:devices])
    batch = pipeline.global_batch(experiment.config.train, images, 0)
    state, everywhere = meshes.replicate(first, mesh), meshes.replicate(key, mesh)
    update = step.make_step(experiment, mesh)
    state, told = update(state, everywhere, jax.device_put(batch, meshes.split(mesh)))
    # Moments in the place of parameters, as Adam's first step of a gradient near 0 is of either sign.
    losses.append(jax.device_get((told['loss'], told['grad_norm'], state.opt_state)))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *losses)


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    ({'x_grwth': 2}, r'did you mean --config\.model\.options\.x_growth'),
    ({'x_growth': 2.5}, 'x_growth must be a whole number of at least 1, but is 2.5'),
    ({'x_depth': 0}, 'at least 1, but is 0'),
    ({'factor': 3}, 'factor must be one of 2, 4, but is 3'),
    ({'compression': 'label'}, "must be one of 'downscale', 'gray', but is 'label'"),
    (GRAY, "use 'downscale'"),
    ({'consistent': True, 'method': 'bilinear'}, 'windows of .bilinear. overlap'),
    ({**GRAY, 'consistent': True}, r"of --config\.model\.options\.compression='gray'"),
    ({'skip': 'cubic'}, "skip must be one of 'none', 'bicubic', 'learnt'"),
    ({**GRAY, 'factor': 2}, r"of --config\.model\.options\.compression='gray'"),
    ({'x_decoder_growth': 1}, 'halved with every doubling'),
    ({'kind': 'vae', 'x_depth': 2}, "no such option of --config.model.kind='vae'"),
    ({'norm': 'batch'}, "no such option of --config.model.kind='sr_vae'"),
    ({'kind': 'vae', 'architecture': 'dense', 'norm': 'batch'}, "of .*options.architecture='dense'"),
    ({'kind': 'ae', 'architecture': 'dense'}, "must be one of 'mirror', .* but is 'dense'"),
  ],
)
def test_options_that_cannot_be_are_refused(model: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=message):
    build(config_of(**model))


def test_densities_and_indivisible_images_are_refused():
  config = config_of()
  config.likelihood = dataclasses.replace(config.likelihood, family='diagonal', options={})
  with pytest.raises(ValueError, match='needs a family of gray levels'):
    build(config)
  with pytest.raises(ValueError, match='must have a height and a width that divide by 4'):
    build(config_of(), height=6)
