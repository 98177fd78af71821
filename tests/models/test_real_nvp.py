"""RealNVP: log-determinant against autodiff, inverse, density, squeezes, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.models.latent_priors import real_nvp
from structured_obs.models.latent_priors.real_nvp import Options, RealNVP
from tests.models.programs import apply, init

SMALL = Options(growth=3, layers=1, couplings=2)
CASES = {
  'vector': ((5,), Options(growth=6, layers=2)),
  'image': ((4, 6, 2), SMALL),
  'gray': ((2, 4, 1), SMALL),
  'odd': ((3, 5, 2), SMALL._replace(scales=1)),
}


def make(event, options, dtype=jnp.float32, batch=4):
  """A flow with parameters far from those it begins with, and latents."""
  flow = RealNVP(event, options, dtype)
  z = jax.random.normal(jax.random.key(0), (batch, *event), dtype)
  variables = init(flow, jax.random.key(1), z, method='log_prob')

  def disturbed(path: Any, leaf: Any) -> Any:
    key = jax.random.fold_in(jax.random.key(2), sum(map(ord, jax.tree_util.keystr(path))))
    return leaf + 0.3 * jax.random.normal(key, leaf.shape, leaf.dtype)

  return flow, jax.tree_util.tree_map_with_path(disturbed, variables), z


def through(flow: Any, variables: Any, z: Any) -> Any:
  return apply(flow, variables, z, method='to_noise')


def back(flow: Any, variables: Any, noise: Any) -> Any:
  return apply(flow, variables, noise, method='from_noise')


@pytest.mark.x64
@pytest.mark.parametrize('name', CASES)
@pytest.mark.slow
def test_log_determinant_is_that_of_the_jacobian(name):
  event, options = CASES[name]
  flow, variables, z = make(event, options, jnp.float64)
  _, log_dets = through(flow, variables, z)
  one = lambda z: through(flow, variables, z[None])[0][0].reshape(-1)  # noqa: E731
  jacobian = np.asarray(jax.jacobian(one)(z[1])).reshape(z[1].size, -1)
  sign, log_det = np.linalg.slogdet(jacobian)
  assert sign == 1
  assert abs(log_det) > 0.1
  np.testing.assert_allclose(log_dets[1], log_det, rtol=1e-9)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.slow
def test_inverse_round_trip_in_float32(name):
  flow, variables, z = make(*CASES[name])
  noise, log_det = through(flow, variables, z)
  assert noise.dtype == log_det.dtype == jnp.float32
  assert float(jnp.max(jnp.abs(noise - z))) > 0.3
  np.testing.assert_allclose(back(flow, variables, noise), z, atol=1e-5)
  np.testing.assert_allclose(through(flow, variables, back(flow, variables, z))[0], z, atol=1e-5)


@pytest.mark.parametrize('name', ['vector', 'image'])
@pytest.mark.slow
def test_every_number_is_changed_and_depends_on_others(name):
  flow, variables, z = make(*CASES[name])
  noise, _ = through(flow, variables, z)
  assert np.all(np.abs(noise - z).max(axis=0) > 1e-4)
  other, _ = through(flow, variables, z.at[:, 0].add(0.5))
  assert np.mean(np.abs(other - noise) > 1e-7) > 0.6


def test_density_of_two_numbers_integrates_to_1():
  flow, variables, _ = make((2,), Options(growth=8, layers=1, couplings=1))
  axis = jnp.linspace(-40, 40, 801, dtype=jnp.float32)
  grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
  log_prob: Any = jax.jit(lambda z: flow.apply(variables, z, method='log_prob'))(grid)
  total = np.exp(np.asarray(log_prob, np.float64)).sum() * float(axis[1] - axis[0]) ** 2
  assert abs(total - 1) < 1e-3


@pytest.mark.parametrize('name', ['vector', 'image'])
@pytest.mark.few(2)
def test_samples_come_from_noise_of_one_key_each(name):
  flow, variables, _ = make(*CASES[name])
  keys = jax.random.split(jax.random.key(7), 3)
  sample: Any = jax.jit(lambda keys: flow.apply(variables, keys, method='sample'))
  z = sample(keys)
  noise = jnp.stack([jax.random.normal(key, flow.event, jnp.float32) for key in keys])
  np.testing.assert_allclose(through(flow, variables, z)[0], noise, atol=2e-5)
  np.testing.assert_allclose(sample(keys[1:2]), z[1:2], atol=1e-5)


def test_squeeze_orders_by_channel_and_the_diagonal_goes_on():
  x = jnp.arange(2 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 6, 2)
  y = real_nvp.squeeze(x)
  assert y.shape == (2, 2, 3, 8)
  for channel in range(2):
    for index, (a, b) in enumerate([(0, 0), (1, 1), (0, 1), (1, 0)]):
      np.testing.assert_array_equal(y[..., 4 * channel + index], x[:, a::2, b::2, channel])
  np.testing.assert_array_equal(real_nvp.unsqueeze(y), x)
  goes_on, leaves = real_nvp._split(y)
  np.testing.assert_array_equal(goes_on, y[..., np.array([0, 1, 4, 5])])
  np.testing.assert_array_equal(real_nvp._join(goes_on, leaves), y)


@pytest.mark.slow
def test_log_determinant_is_float32_where_products_are_bfloat16():
  flow, variables, z = make((4, 4, 2), SMALL)
  half = RealNVP(flow.event, flow.options, jnp.bfloat16)
  noise, log_det = through(half, variables, z)
  assert noise.dtype == log_det.dtype == jnp.float32
  np.testing.assert_allclose(back(half, variables, noise), z, atol=1e-4)  # exact for its own numbers


def test_the_full_size_is_that_of_the_paper():
  flow, z = RealNVP((8, 8, 16)), jnp.zeros((2, 8, 8, 16), jnp.float32)
  shapes: Any = jax.eval_shape(lambda: flow.init(jax.random.key(0), z, method='log_prob'))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 11_411_604


@pytest.mark.parametrize(
  ('event', 'options', 'message'),
  [
    ((7, 8, 2), Options(), 'set its option scales=1, or use the prior'),
    ((2, 2, 3), Options(), 'at least 2 pixels, but they are 2 x 2: set its option scales=1'),
    ((1, 1, 3), Options(scales=1), "at least 2 pixels.*use the prior 'mixture' or 'normal'"),
    ((1,), Options(), 'at least 2 numbers'),
    ((4, 4), Options(), 'shape'),
    ((4,), Options(layers=0), "'layers' must be at least 1"),
  ],
)
def test_what_cannot_be_is_refused_in_a_sentence(event, options, message):
  with pytest.raises(ValueError, match=message):
    real_nvp.check(event, options)
  flow = RealNVP(event, options)
  with pytest.raises(ValueError, match=message):
    flow.init(jax.random.key(0), jnp.zeros((2, *event), jnp.float32), method='log_prob')


def test_latents_of_another_shape_are_refused():
  flow, variables, z = make((4,), Options(growth=4))
  with pytest.raises(ValueError, match=r'shape \(batch, \*\(4,\)\)'):
    through(flow, variables, z[:, :3])
