"""Convolutions beside XLA's own, in float64: values, and derivatives in both modes and of two orders."""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from structured_obs.models.networks import convolutions

LAYOUT = ('NHWC', 'HWIO', 'NHWC')


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
  """Small images and few features take the way of large ones."""
  monkeypatch.setattr(convolutions, 'LEAST_PIXELS', 0)
  monkeypatch.setattr(convolutions, 'LEAST_FEATURES', 0)


def _xla(x, kernel, strides, padding):
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def _random(*shape, dtype=jnp.float64):
  rng = np.random.default_rng(sum(shape))
  return jnp.asarray(rng.normal(size=shape), dtype)


def _value_and_gradients(function, x, kernel):
  def loss(x, kernel):
    return jnp.sum(jnp.sin(function(x, kernel)))

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)


@pytest.mark.parametrize(
  ('sides', 'strides', 'padding'),
  [
    ((3, 3), (1, 1), 'SAME'),
    ((3, 3), (1, 1), ((1, 1), (1, 1))),
    ((1, 5), (1, 1), 'SAME'),
    ((5, 3), (1, 1), 'SAME'),
    ((1, 1), (1, 1), 'SAME'),
    ((1, 1), (2, 2), 'SAME'),
    ((3, 3), (2, 2), 'SAME'),
    ((3, 3), (2, 1), ((1, 1), (1, 1))),
    ((3, 3), (1, 1), ((0, 2), (1, 1))),
    ((2, 2), (1, 1), 'SAME'),
    ((2, 4), (3, 2), 'VALID'),
  ],
)
@pytest.mark.few(2)
def test_any_window_has_the_gradients_of_xla(sides, strides, padding):
  x, kernel = _random(3, 5, 4, 2), _random(*sides, 2, 3)

  def ours(x, kernel):
    return convolutions.general(x, kernel, strides, padding)

  found = _value_and_gradients(ours, x, kernel)
  expected = _value_and_gradients(lambda x, k: _xla(x, k, strides, padding), x, kernel)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), found, expected)
  _, gradients = found
  assert all(np.any(leaf != 0) for leaf in gradients)


def test_small_images_and_few_features_are_left_to_xla(monkeypatch):
  """From 16 pixels of the result and 2 features, the gradient by the kernel is a loop of products."""
  x, kernel = _random(2, 4, 4, 3), _random(3, 3, 3, 2)

  def loops(least_pixels: int, least_features: int, stride: int = 1) -> bool:
    monkeypatch.setattr(convolutions, 'LEAST_PIXELS', least_pixels)
    monkeypatch.setattr(convolutions, 'LEAST_FEATURES', least_features)
    gradient = jax.grad(lambda k: jnp.sum(convolutions.convolve(x, k, stride)))
    return 'while' in jax.jit(gradient).lower(kernel).as_text()

  assert loops(16, 2)
  assert loops(4, 2, stride=2)
  assert not loops(17, 2)
  assert not loops(16, 3)
  assert not loops(16, 2, stride=2)


def test_other_options_are_those_of_xla():
  """Dilated and grouped convolutions, and a negative margin."""
  x, kernel = _random(2, 5, 4, 4), _random(3, 3, 4, 2)
  cases: tuple[tuple[Any, Any, dict[str, Any]], ...] = (
    (kernel, 'SAME', {'rhs_dilation': (2, 2)}),
    (kernel[:, :, :2], 'SAME', {'feature_group_count': 2}),
    (kernel, ((-1, 2), (1, 1)), {}),
  )
  for taps, padding, options in cases:
    expected = jax.lax.conv_general_dilated(
      x, taps, (1, 1), padding, dimension_numbers=LAYOUT, **options
    )
    np.testing.assert_array_equal(convolutions.general(x, taps, (1, 1), padding, **options), expected)


@pytest.mark.parametrize('group', [1, 100, 10**6])
def test_images_in_groups(monkeypatch, group: int):
  monkeypatch.setattr(convolutions, 'GROUP', group)
  x, kernel = _random(6, 3, 4, 2), _random(3, 3, 2, 3)
  found = _value_and_gradients(convolutions.convolve, x, kernel)
  expected = _value_and_gradients(lambda x, k: _xla(x, k, (1, 1), 'SAME'), x, kernel)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), found, expected)


def _derivatives(product):
  """Derivatives in both modes and of two orders, of a function that is linear in neither argument."""

  def loss(x, kernel):
    return jnp.sum(jnp.sin(product(x, kernel)))

  def run(x, kernel, dx, dkernel):
    gradient = jax.grad(loss, argnums=(0, 1))
    forward = jax.jvp(product, (x, kernel), (dx, dkernel))[1]
    over = jax.jvp(gradient, (x, kernel), (dx, dkernel))[1]
    along = lambda x, k: sum(map(jnp.vdot, gradient(x, k), (dx, dkernel)))  # noqa: E731
    penalty = jax.grad(along, argnums=(0, 1))(x, kernel)
    of_image = jax.grad(lambda k: jnp.sum(jnp.square(jax.grad(loss)(x, k))))(kernel)
    return forward, over, penalty, of_image

  return jax.jit(run)


def test_derivatives_of_any_order_in_both_modes():
  arguments = [_random(*shape) for shape in ((2, 3, 4, 2), (3, 3, 2, 3)) * 2]
  found = _derivatives(convolutions.convolve)(*arguments)
  expected = _derivatives(lambda x, k: _xla(x, k, (1, 1), 'SAME'))(*arguments)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), found, expected)


@pytest.mark.parametrize(('dtype', 'tolerance'), [(jnp.float32, 2e-6), (jnp.bfloat16, 8e-3)])
def test_precision(dtype, tolerance: float):
  """Sums over many images are of float32 at least, whatever the dtype of the products."""
  x, kernel, g = (_random(*shape, dtype=dtype) for shape in ((64, 8, 8, 8), (3, 3, 8, 8), (64, 8, 8, 8)))

  def gradient(product, x, kernel, g):
    return jax.jit(lambda x, k, g: jax.vjp(lambda k: product(x, k), k)[1](g)[0])(x, kernel, g)

  found = gradient(convolutions.convolve, x, kernel, g)
  assert found.dtype == dtype
  wide = [array.astype(jnp.float64) for array in (x, kernel, g)]
  expected = gradient(lambda x, k: _xla(x, k, (1, 1), 'SAME'), *wide)
  error = jnp.max(jnp.abs(found.astype(jnp.float64) - expected)) / jnp.max(jnp.abs(expected))
  assert error < tolerance


def test_under_vmap():
  """Images and kernels of a batch of networks."""
  x, kernels = _random(3, 2, 4, 4, 2), _random(3, 3, 3, 2, 3)

  def loss(kernel, x):
    return jnp.sum(jnp.square(convolutions.convolve(x, kernel)))

  for axes in ((0, 0), (0, None), (None, 0)):
    arguments = [a if axis == 0 else a[0] for a, axis in zip((kernels, x), axes, strict=True)]
    found = jax.jit(jax.vmap(jax.grad(loss), axes))(*arguments)
    one = [
      jax.grad(loss)(*(a[i] if axis == 0 else a for a, axis in zip(arguments, axes, strict=True)))
      for i in range(3)
    ]
    np.testing.assert_allclose(found, jnp.stack(one), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize('varying', [True, False])
def test_over_devices(varying: bool):
  """Under shard_map with its check, of kernels that vary over the devices and of those that do not."""
  mesh = jax.make_mesh((2,), ('batch',), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
  x, kernel = _random(4, 3, 4, 2), _random(3, 3, 2, 3)

  def loss(kernel, x):
    return jnp.sum(jnp.sin(convolutions.convolve(x, kernel)))

  def one(kernel, x):
    if not varying:
      return jax.grad(loss)(kernel, x)  # summed over the devices by shard_map itself
    return jax.lax.psum(jax.grad(loss)(jax.lax.pcast(kernel, 'batch', to='varying'), x), 'batch')

  whole, cut = PartitionSpec(), PartitionSpec('batch')
  found = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(whole, cut), out_specs=whole))(kernel, x)
  np.testing.assert_allclose(found, jax.grad(loss)(kernel, x), rtol=1e-10, atol=1e-11)


def test_the_layer_has_the_parameters_of_flax():
  x = _random(2, 4, 5, 3, dtype=jnp.float32)
  for sides, strides, padding in itertools.product(((3, 3), (1, 1)), (1, 2), ('SAME', 1)):
    ours = nn.Sequential([convolutions.Conv(4, sides, strides, padding)])
    theirs = nn.Sequential([nn.Conv(4, sides, strides, padding)])
    found, variables = ours.init_with_output(jax.random.key(0), x)
    expected, reference = theirs.init_with_output(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, reference)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_nothing_to_convolve():
  kernel = _random(3, 3, 2, 3)
  gradient = jax.grad(lambda k: jnp.sum(convolutions.convolve(_random(0, 3, 4, 2), k)))(kernel)
  np.testing.assert_array_equal(gradient, np.zeros_like(kernel))
