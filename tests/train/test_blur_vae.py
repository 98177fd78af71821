"""A kernel network beside a VAE: who learns from what, at which rate, and the same on many devices."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.data import pipeline
from structured_obs.devices import mesh as meshes
from structured_obs.objectives import alternating, reconstruction
from structured_obs.runs import configuration, initial
from structured_obs.runs import experiment as experiments
from structured_obs.train import step
from tests.train import stub


def make_config(**objective: Any) -> Config:
  config = stub.make_config(steps=3)
  config.model.options = {
    'latents': 2, 'features': (4,), 'blocks': 0, 'kernel': {'features': 8}, 'scale': 'optimal',
  }  # fmt: skip
  options = {'kernel_size': 3, 'scale': 'fixed'}
  config.likelihood = dataclasses.replace(config.likelihood, family='circulant', options=options)
  config.objective = dataclasses.replace(config.objective, dequantize=False, **objective)
  config.optim = dataclasses.replace(config.optim, learning_rate=1e-2)
  return config


def terms_of(experiment: experiments.Experiment, state: Any, keys: Any, x: Any) -> Any:
  variables = {'params': state.params['model'], **state.model_state}
  return experiment.model.apply(variables, keys, x, train=True, mutable=['batch_stats'])[0]


@pytest.fixture(scope='module')
def started() -> tuple[experiments.Experiment, Any, Any, Any]:
  experiment = experiments.build(make_config(), stub.make_prepared().spec)
  experiment = experiment._replace(model=experiment.model.clone(axis_name=None))
  state = initial.init_state(experiment, jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), 4)
  x = jax.random.uniform(jax.random.key(2), (4, 3, 4, 1), jnp.float32, -1, 1)
  return experiment, state, keys, x


@pytest.mark.slow
def test_the_kernel_network_learns_from_its_own_loss_and_the_rest_from_the_density(started):
  experiment, state, keys, x = started

  def whole(params: Any) -> Any:
    terms = terms_of(experiment, state._replace(params=params), keys, x)
    return terms, alternating.kernel_error(terms.images).mean()

  density = jax.grad(lambda p: whole(p)[0].log_p['x'].mean())(state.params)['model']
  kernel = jax.grad(lambda p: whole(p)[1])(state.params)['model']
  largest = lambda tree: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))  # noqa: E731
  assert largest(density['kernel_generator']) == 0 < largest(density['decoder'])
  assert largest(density['encoder']) > 0
  assert largest({name: tree for name, tree in kernel.items() if name != 'kernel_generator'}) == 0
  assert largest(kernel['kernel_generator']) > 0


LOSSES = {  # of terms, to be small
  'density': lambda terms: -terms.log_p['x'].mean(),
  'paper_loss': lambda terms: alternating.of_kernels(
    functools.partial(reconstruction.paper_loss, epsilon=0.05)
  )(terms.images).mean(),
  'kernel_error': lambda terms: alternating.kernel_error(terms.images).mean(),
}


class Gradients(NamedTuple):
  """Gradients of the losses in float64, and the losses themselves."""

  of: dict[tuple[str, str], Any]  # (loss, 'held' or 'latents') -> by network
  params: Any
  value: Any  # (params, name) -> []


@pytest.fixture(scope='module')
def gradients() -> Gradients:
  random = np.random.default_rng(0)
  keys, x = jax.random.split(jax.random.key(1), 4), jnp.asarray(random.uniform(-1, 1, (4, 3, 4, 1)))
  of: dict[tuple[str, str], Any] = {}
  params = None
  for chosen in ('held', 'latents'):
    experiment = experiments.build(make_config(kernel_gradient=chosen), stub.make_prepared().spec)
    model = experiment.model.clone(axis_name=None, dtype=None)
    state = initial.init_state(experiment._replace(model=model), jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), state._replace(opt_state=()))
    if params is None:  # kernels far from a single tap, of which nothing would be blurred
      params = jax.tree.map(lambda leaf: leaf + 0.4 * random.normal(size=leaf.shape), state.params)
    experiment = experiment._replace(model=model)

    def loss(params: Any, name: str, experiment=experiment, state=state) -> Any:
      with jax.numpy_dtype_promotion('standard'):  # flax's layer norm asks for float32 or more
        return LOSSES[name](terms_of(experiment, state._replace(params=params), keys, x))

    for name in LOSSES:
      of[name, chosen] = jax.jit(jax.grad(loss), static_argnums=1)(params, name)['model']
    value = jax.jit(loss, static_argnums=1)
  return Gradients(of, params, value)


def numerical(gradients: Gradients, name: str, network: str) -> tuple[float, Any]:
  """Returns the slope of a loss along a direction in the parameters of a network, and the direction."""
  params, random, step = gradients.params, np.random.default_rng(1), 1e-5
  way = jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params['model'][network])

  def at(t: float) -> float:
    moved = jax.tree.map(lambda leaf, by: leaf + t * by, params['model'][network], way)
    return float(gradients.value({**params, 'model': {**params['model'], network: moved}}, name))

  return (at(step) - at(-step)) / (2 * step), way


def along(gradient: Any, way: Any) -> float:
  return sum(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.sum(a * b)), gradient, way)))


@pytest.mark.x64
@pytest.mark.parametrize('name', ['density', 'paper_loss'])
@pytest.mark.parametrize('network', ['encoder', 'decoder'])
@pytest.mark.slow
def test_latents_learn_from_all_that_their_kernel_does(gradients: Gradients, name: str, network: str):
  slope, way = numerical(gradients, name, network)
  np.testing.assert_allclose(along(gradients.of[name, 'latents'][network], way), slope, rtol=1e-6)
  held = along(gradients.of[name, 'held'][network], way)
  if network == 'encoder':  # without the part through the kernel
    assert abs(held - slope) > 1e-2 * abs(slope)
  else:  # which does not see the mean
    np.testing.assert_allclose(held, slope, rtol=1e-6)


@pytest.mark.x64
def test_the_kernel_network_learns_the_same_from_its_own_loss_alone(gradients: Gradients):
  slope, way = numerical(gradients, 'kernel_error', 'kernel_generator')
  for chosen in ('held', 'latents'):
    found = gradients.of['kernel_error', chosen]
    np.testing.assert_allclose(along(found['kernel_generator'], way), slope, rtol=1e-6)
    for network in ('encoder', 'decoder'):
      assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(found[network]))
    for name in ('density', 'paper_loss'):
      leaves = jax.tree.leaves(gradients.of[name, chosen]['kernel_generator'])
      assert all(np.all(np.asarray(leaf) == 0) for leaf in leaves)


def test_the_scale_is_the_one_that_fits_the_batch_best(started):
  experiment, state, keys, x = started
  variables = {'params': state.params['model'], **state.model_state}
  training = functools.partial(experiment.model.apply, train=True, mutable=['batch_stats'])
  apply = jax.jit(experiment.model.apply)
  terms, updated = jax.jit(training)(variables, keys, x)
  best = np.sum(terms.log_p['x'])
  found = updated['batch_stats']['optimal_scale']['log_scale']
  assert updated['batch_stats']['optimal_scale']['batches'] == 1
  for change in (0.0, 0.05, -0.05):  # the running scale of one batch is that batch's
    stats = {'optimal_scale': {'log_scale': found + change, 'batches': jnp.ones(())}}
    terms = apply({**variables, 'batch_stats': stats}, keys, x)
    total = np.sum(terms.log_p['x'])
    if change:
      assert total < best
    else:
      np.testing.assert_allclose(total, best, rtol=1e-5)


def run(experiment: experiments.Experiment, devices: int, steps: int = 3) -> Any:
  mesh = meshes.make_mesh(jax.local_devices()[:devices])
  _, key, _ = initial.run_keys(experiment)
  state = meshes.replicate(initial.init_state(experiment, key), mesh)
  update, key = step.make_step(experiment, mesh), meshes.replicate(key, mesh)
  images = stub.make_prepared().images['train']
  for number in range(steps):
    batch = pipeline.global_batch(experiment.config.train, images, number)
    state, _ = update(state, key, jax.device_put(batch, meshes.split(mesh)))
  return jax.device_get(state)


def test_devices_agree_with_one():
  experiment = experiments.build(make_config(white_steps=1), stub.make_prepared().spec)
  one, four = run(experiment, 1), run(experiment, 4)
  for a, b in ((one.params, four.params), (one.model_state, four.model_state)):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), a, b)


@pytest.mark.slow
def test_the_kernel_network_has_a_learning_rate_of_its_own():
  config = make_config()
  moved = []
  for rate in (0.0, 1e-4):
    config.optim.warmup_steps = 1
    config.model.options['kernel']['learning_rate'] = rate
    experiment = experiments.build(config, stub.make_prepared().spec)
    start = initial.init_state(experiment, initial.run_keys(experiment)[1])
    end = run(experiment, 1, steps=1)
    moved.append(
      jax.tree.map(lambda a, b: float(np.abs(a - b).max()), start.params['model'], end.params['model'])
    )
  first, second = (jax.tree.leaves(tree['kernel_generator']) for tree in moved)
  np.testing.assert_allclose(first, 1e-2, rtol=0.01)  # Adam's first step
  np.testing.assert_allclose(second, 1e-4, rtol=0.01)
  assert moved[0]['decoder'] == moved[1]['decoder']


@pytest.mark.parametrize(
  ('section', 'change', 'message'),
  [
    ('likelihood', {'family': 'diagonal', 'options': {}}, "options.kernel .*'diagonal' has none"),
    ('model', {'kind': 'covariance'}, "no such option of --config.model.kind='covariance'"),
    ('model', {'options': {'kernel': {'features': 0}}}, 'kernel.features must be .* but is 0'),
    ('model', {'options': {'kernel': {'boundary': 'wrap'}}}, "boundary must be one of .*'wrap'"),
    ('model', {'options': {'scale': 'learnt'}}, "scale must be .* Did you mean 'learned'"),
    ('objective', {'reconstruction': 'l3'}, "objective.reconstruction must .*'l3'"),
    ('objective', {'reconstruction_options': {'weight': 1.0}}, "weight=1.0: there is no such option of"),
    (
      'objective',
      {'reconstruction': 'l1', 'reconstruction_options': {'weight': 0.0}},
      'reconstruction_options.weight must be a number above 0, but is 0.0',
    ),
    (
      'objective',
      {'reconstruction': 'l1', 'reconstruction_options': {'epsilon': 0.1}},
      "epsilon=0.1: there is no such option of --config.objective.reconstruction='l1'",
    ),
    ('objective', {'kernel_gradient': 'latent'}, "kernel_gradient must .* Did you mean 'latents'"),
    ('objective', {'white_steps': -1}, 'objective.white_steps must be .* at least 0, but is -1'),
  ],
)
def test_what_does_not_go_together_is_refused(section: str, change: dict[str, Any], message: str):
  config = make_config()
  setattr(config, section, dataclasses.replace(getattr(config, section), **change))
  with pytest.raises(ValueError, match=message):
    configuration.resolve(config)


def test_a_gradient_through_kernels_needs_a_network_of_them():
  config = make_config(kernel_gradient='latents')
  config.model.options['kernel'] = {}
  with pytest.raises(ValueError, match=r"^--config.objective.kernel_gradient='latents' is of a network"):
    configuration.resolve(config)
  config.objective.kernel_gradient = 'held'
  configuration.resolve(config)
  config = make_config(kernel_gradient='latents', mean_gradient=1.0)
  with pytest.raises(
    ValueError, match=r"^--config.objective.kernel_gradient='latents' has no effect with"
  ):
    configuration.resolve(config)
  config = Config()
  config.model.kind, config.objective.kernel_gradient = 'distribution', 'latents'
  with pytest.raises(ValueError, match=r"_gradient='latents' has no effect with .*'distribution'"):
    configuration.resolve(config)


def test_the_papers_loss_needs_a_kernel():
  config = make_config(reconstruction='paper_loss')
  config.model.options['kernel'] = {}
  with pytest.raises(ValueError, match='paper_loss does not learn a kernel'):
    configuration.resolve(config)
  config.likelihood.options['gaussian_variance'] = 2.0
  assert configuration.resolve(config).likelihood.options['gaussian_variance'] == 2.0
