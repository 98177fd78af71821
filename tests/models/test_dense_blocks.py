"""Dense blocks: the convolutions against definitions, the first batch's mean and deviation, sizes."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.models.networks import convolutions, dense_blocks
from tests.models.programs import apply, init

NETWORKS = {
  'net': dense_blocks.DenseNet(6, growth=3, steps=2, blocks=2, head_deviation=0.3),
  'encoder': dense_blocks.DenseEncoder(6, growth=2, steps=2, levels=2, head_deviation=0.3),
  'decoder': dense_blocks.DenseDecoder(6, growth=4, steps=2, levels=2, head_deviation=0.3),
}


def images(shape=(5, 6, 8, 3), seed=0, dtype=jnp.float32):
  return jax.random.uniform(jax.random.key(seed), shape, dtype, -1, 1)


def padded_sum(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
  """A convolution by its definition, one output pixel and tap at a time."""
  batch, height, width, _ = x.shape
  half = kernel.shape[0] // 2
  rows, columns = range(0, height, stride), range(0, width, stride)
  out = np.zeros((batch, len(rows), len(columns), kernel.shape[-1]))
  for (i, row), (j, column) in itertools.product(enumerate(rows), enumerate(columns)):
    for a, b in np.ndindex(*kernel.shape[:2]):
      r, c = row + a - half, column + b - half
      if 0 <= r < height and 0 <= c < width:
        out[:, i, j] += x[:, r, c] @ kernel[a, b]
  return out


@pytest.mark.parametrize(('window', 'stride'), [(1, 1), (3, 1), (3, 2), (1, 2)])
@pytest.mark.parametrize('size', [(4, 6), (5, 3)])
def test_convolutions_are_their_sums(window, stride, size):
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(window, window, 3, 4))
  got = convolutions.convolve(jnp.asarray(x), jnp.asarray(kernel), stride)
  np.testing.assert_allclose(got, padded_sum(x, kernel, stride), atol=2e-5)


def test_both_forms_of_the_transposed_convolution_scatter_each_pixel():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(3, 3, 5, 2))
  expected = np.zeros((2, 8, 10, 2))  # with a border of one pixel that is cut off
  for i, j, a, b in np.ndindex(3, 4, 3, 3):
    expected[:, 2 * i + a, 2 * j + b] += x[:, i, j] @ kernel[a, b]
  expected = expected[:, 1:7, 1:9]
  for form in (convolutions._transposed_by_taps, convolutions._transposed_plain):
    np.testing.assert_allclose(form(jnp.asarray(x), jnp.asarray(kernel)), expected, atol=2e-5)
  np.testing.assert_allclose(
    convolutions.transposed(jnp.asarray(x), jnp.asarray(kernel)), expected, atol=2e-5
  )


def test_elu_and_its_derivative():
  x = jnp.asarray([-30.0, -2.0, -1e-3, 0.0, 1e-3, 3.0])
  np.testing.assert_allclose(convolutions.elu(x), jax.nn.elu(x), rtol=1e-6)
  np.testing.assert_allclose(
    jax.vmap(jax.grad(convolutions.elu))(x), jax.vmap(jax.grad(jax.nn.elu))(x), rtol=1e-5
  )


@pytest.mark.parametrize('compiled', [True, False])
@pytest.mark.parametrize(
  ('layer', 'shape'),
  [
    (dense_blocks.WeightNormConv(4, 1, deviation=0.2), (5, 6, 8, 4)),
    (dense_blocks.WeightNormConv(4, 3), (5, 6, 8, 4)),
    (dense_blocks.downsample(7, deviation=3.0), (5, 3, 4, 7)),
    (dense_blocks.upsample(2, deviation=0.01), (5, 12, 16, 2)),
  ],
)
@pytest.mark.few(2)
def test_the_first_batch_has_mean_0_and_the_stated_deviation(layer, shape, compiled):
  x = images() * 3 + 2
  begin = jax.jit(layer.init) if compiled else layer.init
  y = apply(layer, begin(jax.random.key(1), x), x)
  assert y.shape == shape
  assert y.dtype == jnp.float32
  np.testing.assert_allclose(np.mean(y, axis=(0, 1, 2)), 0, atol=1e-5 * layer.deviation)
  np.testing.assert_allclose(np.std(y, axis=(0, 1, 2)), layer.deviation, rtol=1e-4)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.slow
def test_every_layer_of_a_network_is_normalised_in_one_pass(name, monkeypatch: pytest.MonkeyPatch):
  # So that every layer has an output.
  monkeypatch.setattr(dense_blocks, 'is_less_together', lambda *_: False)
  network, x = NETWORKS[name], images((4, 4, 8, 3))
  variables = jax.jit(lambda key: network.init(key, x))(jax.random.key(1))

  def of_layers(module, method):
    return isinstance(module, dense_blocks.WeightNormConv) and method == '__call__'

  y, state = jax.jit(lambda v: network.apply(v, x, capture_intermediates=of_layers))(variables)
  layers = jax.tree_util.tree_leaves_with_path(state['intermediates'])
  assert len(layers) > 10
  for path, value in layers:
    deviation = 0.3 if 'head' in jax.tree_util.keystr(path) else 1
    np.testing.assert_allclose(np.mean(value, axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(np.std(value, axis=(0, 1, 2)), deviation, rtol=2e-3)
  scale = {'net': 1, 'encoder': 1 / 4, 'decoder': 4}[name]
  assert y.shape == (4, int(4 * scale), int(8 * scale), 6)


def test_the_kernel_s_length_has_no_effect_and_its_scale_is_the_channel_s():
  layer, x = dense_blocks.WeightNormConv(4), images()
  variables: Any = init(layer, jax.random.key(1), x)
  params = variables['params']
  longer = {**params, 'direction': 7 * params['direction']}
  np.testing.assert_allclose(
    apply(layer, {'params': longer}, x), apply(layer, {'params': params}, x), atol=1e-5
  )
  unit = np.asarray(params['direction'], np.float64)
  unit = unit / np.sqrt(np.sum(unit**2, axis=(0, 1, 2)))
  expected = padded_sum(np.asarray(x, np.float64), unit * np.asarray(params['scale']), 1)
  expected = expected + np.asarray(params['bias'])
  np.testing.assert_allclose(apply(layer, {'params': params}, x), expected, atol=1e-5)


@pytest.mark.parametrize('compiled', [True, False])
def test_one_image_is_refused_at_init_alone(compiled):
  layer, x = dense_blocks.WeightNormConv(4), images()
  variables = init(layer, jax.random.key(1), x)
  assert apply(layer, variables, x[:1]).shape == (1, 6, 8, 4)
  begin = jax.jit(layer.init) if compiled else layer.init
  with pytest.raises(ValueError, match='at least 2 images, but x holds 1'):
    begin(jax.random.key(1), x[:1])


def test_a_constant_batch_is_refused_or_gives_nan():
  layer, x = dense_blocks.WeightNormConv(4, 1), jnp.full((4, 6, 8, 3), 0.3, jnp.float32)
  with pytest.raises(ValueError, match='4 of 4 output channels are constant'):
    layer.init(jax.random.key(1), x)
  assert np.all(np.isnan(jax.jit(layer.init)(jax.random.key(1), x)['params']['scale']))


def test_two_convolutions_are_one_of_the_product_of_their_kernels(monkeypatch: pytest.MonkeyPatch):
  block, x = dense_blocks.DenseBlock(3, steps=3, dtype=jnp.float64), images()
  variables: Any = init(block, jax.random.key(1), x)
  variables, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (variables, x))
  found = []
  for together in (False, True):
    monkeypatch.setattr(dense_blocks, 'is_less_together', lambda *_, together=together: together)

    def loss(v: Any, x: jax.Array) -> Any:
      y: Any = block.apply(v, x)
      return jnp.sum(jnp.cos(y)), y

    found.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x))
  assert float(jnp.max(jnp.abs(variables['params']['narrow_0']['bias']))) > 0.01  # seen at the border
  jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, 1e-9, 1e-9), *found)


def test_they_are_one_where_that_takes_fewer_products():
  assert dense_blocks.is_less_together((8, 32, 32, 64), 64)
  assert not dense_blocks.is_less_together((8, 32, 32, 512), 64)  # 4608 against 2048 + 2304 a pixel
  assert not dense_blocks.is_less_together((1, 4, 4, 64), 64)  # few pixels for one product of kernels


def test_a_block_appends_behind_its_input_and_attention_scales_channels():
  block, x = dense_blocks.DenseBlock(3, steps=2, attention=False), images()
  variables = init(block, jax.random.key(1), x)
  y = apply(block, variables, x)
  assert y.shape == (5, 6, 8, 3 + 2 * 3)
  np.testing.assert_allclose(y[..., :3], jax.nn.elu(jax.nn.elu(x)), atol=1e-6)
  attention = dense_blocks.ChannelAttention()
  ratio = apply(attention, init(attention, jax.random.key(2), y), y) / y
  assert np.all((ratio > 0) & (ratio < 1))
  np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-4)


@pytest.mark.slow
def test_bfloat16_computes_in_it_with_float32_parameters_and_outputs():
  x = images()
  block = dense_blocks.DenseBlock(3, steps=2, dtype=jnp.bfloat16)
  assert apply(block, init(block, jax.random.key(1), x), x).dtype == jnp.bfloat16
  network = NETWORKS['net']
  variables = init(network, jax.random.key(1), x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  half = apply(network.copy(dtype=jnp.bfloat16), variables, x)
  assert half.dtype == jnp.float32
  assert 1e-4 < float(jnp.std(half - apply(network, variables, x))) < 0.1


def test_growth_that_cannot_be_halved_is_refused():
  with pytest.raises(ValueError, match=r'growth is 3.*at least 4'):
    dense_blocks.DenseDecoder(6, growth=3, steps=2, levels=3).init(jax.random.key(1), images())
