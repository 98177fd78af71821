"""The network of the Frechet inception distance: Inception-v3 as TensorFlow published it in 2015.

It is the graph of that year as PyTorch's FID tools rebuild it, with its two oddities: averages over a
window leave out the padding, and the last block has a maximum where its twin before has an average.
Its 94 convolutions have no bias and are each followed by batch norm, with fixed statistics, and a
rectifier. The features are the means of the last map over the image.

Images are brought to 299 x 299 by bilinear interpolation between the centres of pixels, without
smoothing. TensorFlow's own graph interpolates between corners instead, so its distances of small
images differ.

Parameters are named as in torch's state dict: 'Mixed_5b.branch1x1.conv.weight' there is
['params']['Mixed_5b']['branch1x1']['conv']['kernel'] here. There are 21,785,568 without the last layer,
which gives classes and is left out.

Letters: B batch; H W C image height, width, channels; h w the same of a map; F features.

References: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016; Heusel et
al., "GANs trained by a two time-scale update rule", 2017; Seitzer, "pytorch-fid: FID score for PyTorch".
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

SIZE = 299  # pixels along each side of the training images
SMALLEST = 75  # pixels along each side that leave one pixel in the last map
AT_ONCE = 16  # images that go through the network together
EPSILON = 1e-3  # added to the variances of batch norm


class Conv(NamedTuple):
  """A convolution with its batch norm and rectifier."""

  features: int
  window: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: str = 'SAME'  # by zeros, or 'VALID'


class Pool(NamedTuple):
  """The maximum, or the mean of what is inside the image, of windows of 3x3."""

  mean: bool = False
  stride: int = 1
  padding: str = 'SAME'


class Outputs(NamedTuple):
  """Features and maps in which images are compared."""

  features: Array  # [B, 2048]
  maps: tuple[Array, ...]  # [B, h, w, F] after the steps MAPS: 64, 192, 768 and 2048 features


Step = Conv | Pool | tuple[Conv, Conv]  # two convolutions of the same map give theirs side by side
Branch = tuple[str, tuple[Step, ...]]  # steps one after the other, under a name

HALVING_POOL = Pool(stride=2, padding='VALID')
CROSS = (Conv(384, (1, 3)), Conv(384, (3, 1)))


def _halving(features: int) -> Conv:
  return Conv(features, (3, 3), 2, 'VALID')


def _block_a(pooled: int) -> tuple[Branch, ...]:
  return (
    ('branch1x1', (Conv(64),)),
    ('branch5x5', (Conv(48), Conv(64, (5, 5)))),
    ('branch3x3dbl', (Conv(64), Conv(96, (3, 3)), Conv(96, (3, 3)))),
    ('branch_pool', (Pool(mean=True), Conv(pooled))),
  )


def _block_b() -> tuple[Branch, ...]:
  return (
    ('branch3x3', (_halving(384),)),
    ('branch3x3dbl', (Conv(64), Conv(96, (3, 3)), _halving(96))),
    ('branch_pool', (HALVING_POOL,)),
  )


def _block_c(inner: int) -> tuple[Branch, ...]:
  row, column = Conv(inner, (1, 7)), Conv(inner, (7, 1))
  return (
    ('branch1x1', (Conv(192),)),
    ('branch7x7', (Conv(inner), row, Conv(192, (7, 1)))),
    ('branch7x7dbl', (Conv(inner), column, row, column, Conv(192, (1, 7)))),
    ('branch_pool', (Pool(mean=True), Conv(192))),
  )


def _block_d() -> tuple[Branch, ...]:
  return (
    ('branch3x3', (Conv(192), _halving(320))),
    ('branch7x7x3', (Conv(192), Conv(192, (1, 7)), Conv(192, (7, 1)), _halving(192))),
    ('branch_pool', (HALVING_POOL,)),
  )


def _block_e(pool: Pool) -> tuple[Branch, ...]:
  return (
    ('branch1x1', (Conv(320),)),
    ('branch3x3', (Conv(384), CROSS)),
    ('branch3x3dbl', (Conv(448), Conv(384, (3, 3)), CROSS)),
    ('branch_pool', (pool, Conv(192))),
  )


NETWORK: dict[str, Conv | Pool | tuple[Branch, ...]] = {
  'Conv2d_1a_3x3': _halving(32),
  'Conv2d_2a_3x3': Conv(32, (3, 3), padding='VALID'),
  'Conv2d_2b_3x3': Conv(64, (3, 3)),
  'maxpool1': HALVING_POOL,
  'Conv2d_3b_1x1': Conv(80),
  'Conv2d_4a_3x3': Conv(192, (3, 3), padding='VALID'),
  'maxpool2': HALVING_POOL,
  'Mixed_5b': _block_a(32),
  'Mixed_5c': _block_a(64),
  'Mixed_5d': _block_a(64),
  'Mixed_6a': _block_b(),
  'Mixed_6b': _block_c(128),
  'Mixed_6c': _block_c(160),
  'Mixed_6d': _block_c(160),
  'Mixed_6e': _block_c(192),
  'Mixed_7a': _block_d(),
  'Mixed_7b': _block_e(Pool(mean=True)),
  'Mixed_7c': _block_e(Pool()),
}
MAPS = ('maxpool1', 'maxpool2', 'Mixed_6e', 'Mixed_7c')
# Flax's names of arrays, and what they are in torch.
TORCH_NAMES = {
  'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var',
}  # fmt: skip


class Layer(nn.Module):
  """One convolution of the table."""

  of: Conv

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, h, w, F] to other features."""
    x = nn.Conv(
      self.of.features, self.of.window, self.of.stride, self.of.padding, use_bias=False, name='conv',
      # Accelerators would round the products, and distances of features are small differences.
      precision=jax.lax.Precision.HIGHEST,
    )(x)  # fmt: skip
    return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name='bn')(x))


class Block(nn.Module):
  """Branches side by side; the convolutions of a branch are numbered where there are several."""

  branches: tuple[Branch, ...]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, h, w, F] to the features of all branches."""
    return jnp.concatenate([self._branch(name, steps, x) for name, steps in self.branches], axis=-1)

  def _branch(self, name: str, steps: tuple[Step, ...], x: Array) -> Array:
    several = sum(not isinstance(step, Pool) for step in steps) > 1
    for number, step in enumerate(steps, 1):
      own = f'{name}_{number}' if several else name
      if isinstance(step, Pool):
        x = _pooled(step, x)
      elif isinstance(step, Conv):
        x = Layer(step, name=own)(x)
      else:
        x = jnp.concatenate([Layer(conv, name=own + 'ab'[i])(x) for i, conv in enumerate(step)], axis=-1)
    return x


class Inception(nn.Module):
  """The network up to the mean of its last map."""

  @nn.compact
  def __call__(self, images: Array) -> Outputs:
    """Maps images [B, H, W, 3] in [-1, 1] with sides of at least 75 pixels, which are not resized."""
    x, maps = images, []
    for name, step in NETWORK.items():
      if isinstance(step, Pool):
        x = _pooled(step, x)
      else:
        x = Layer(step, name=name)(x) if isinstance(step, Conv) else Block(step, name=name)(x)
      if name in MAPS:
        maps.append(x)
    return Outputs(x.mean((1, 2)), tuple(maps))


def _pooled(pool: Pool, x: Array) -> Array:
  strides = (pool.stride, pool.stride)
  if not pool.mean:
    return nn.max_pool(x, (3, 3), strides, pool.padding)
  # Flax's own means count pixels in the default dtype.
  total, inside = (
    jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 3, 3, 1), (1, *strides, 1), pool.padding)
    for y in (x, jnp.ones_like(x[:1, :, :, :1]))
  )
  return total / inside


def resized(images: Array, size: int = SIZE) -> Array:
  """Brings images [B, H, W, 1 or 3] to [B, size, size, 3]; gray ones get three equal channels.

  Raises:
    ValueError: another number of channels.
  """
  batch, _, _, channels = images.shape
  if channels not in (1, 3):
    raise ValueError(f'Inception needs images of 1 or 3 channels; these have {channels}.')
  images = jax.image.resize(images, (batch, size, size, channels), 'bilinear', antialias=False)
  return jnp.broadcast_to(images, (batch, size, size, 3))


def evaluate(variables: Mapping[str, Any], images: Array, size: int = SIZE) -> Outputs:
  """Returns features and maps of images [B, H, W, 1 or 3] in [-1, 1], seen at size x size pixels.

  The images go through in groups of 16, which need 0.18 GB; 64 at once need 0.53 (`memory_analysis` of
  the compiled programs, in float32 on a CPU).

  Args:
    variables: of `Inception`.
    images: [B, H, W, 1 or 3].
    size: pixels along a side, to which images are resized.
  """

  def of_one(image: Array) -> Outputs:
    outputs = Inception().apply(variables, resized(image[None], size))
    return jax.tree.map(lambda x: x[0], outputs)

  return jax.lax.map(of_one, images, batch_size=AT_ONCE)


def state_shapes() -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the arrays that the network needs from torch's state dict, sorted by name."""
  leaves = jax.tree.leaves_with_path(_shapes())
  return dict(sorted((_torch_name(path), _torch_shape(leaf)) for path, leaf in leaves))


def variables_of(state: Mapping[str, np.ndarray]) -> Any:
  """Returns the network's parameters and statistics from torch's state dict, which may hold more.

  Raises:
    ValueError: an array is not there or has another shape; the first such one is named.
  """
  for name, shape in state_shapes().items():
    if name not in state:
      raise ValueError(f"The weights of Inception must hold an array '{name}' {shape}; there is none.")
    if state[name].shape != shape:
      raise ValueError(f"The array '{name}' must be of shape {shape}; it is {state[name].shape}.")

  def leaf(path: tuple[Any, ...], _: jax.ShapeDtypeStruct) -> np.ndarray:
    array = state[_torch_name(path)]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array

  return jax.tree.map_with_path(leaf, _shapes())


@functools.cache
def _shapes() -> Any:
  """Returns Flax's variables without numbers."""
  image = jax.ShapeDtypeStruct((1, SMALLEST, SMALLEST, 3), jnp.float32)
  return jax.eval_shape(Inception().init, jax.random.key(0), image)


def _torch_name(path: tuple[Any, ...]) -> str:
  _, *modules, name = (key.key for key in path)
  return '.'.join([*modules, TORCH_NAMES[name]])


def _torch_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
  """Returns the shape in torch: [outputs, inputs, h, w] for a kernel [h, w, inputs, outputs]."""
  return leaf.shape[:-3:-1] + leaf.shape[:2] if len(leaf.shape) == 4 else leaf.shape
