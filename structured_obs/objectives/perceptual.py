"""Losses in the features of a network that was trained on something else.

  D sum_layers mean_pixels |w * (u(x) - u(mean))|^2 (the squares weighted by w)

with u the features of a layer, each pixel's scaled to unit length over the channels. Any network will do
(`perceptual`); `vgg` is that of LPIPS. Weights are not part of this package: users supply them, in the
layout that `load_vgg` describes.

Letters: H W C image height, width, channels; D = H W C; h w c those of a layer's features.

Reference: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018,
equation 1.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base

Array = jax.Array
Loss = Callable[[Array, Array], Array]  # (x [H, W, C], mean [H, W, C]) -> []
Features = Callable[[Array], Sequence[Array]]  # image [H, W, C] -> features [h, w, c] of each layer

VGG_FILE = 'vgg16.npz'
# Convolutions between poolings, by their number of features; the features are those of each block's end.
_BLOCKS = (('conv1_1', 'conv1_2'), ('conv2_1', 'conv2_2'), ('conv3_1', 'conv3_2', 'conv3_3'),
           ('conv4_1', 'conv4_2', 'conv4_3'), ('conv5_1', 'conv5_2', 'conv5_3'))  # fmt: skip
_WIDTHS = (64, 128, 256, 512, 512)
MIN_SIDE = 16  # pixels, of which four poolings leave one
# Mean and standard deviation of ImageNet's channels, of pixels in [0, 1].
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def perceptual(features: Features, weights: Sequence[Array] | None = None) -> Loss:
  """Returns the distance in the features of a network times D, so that it weighs as a sum over pixels.

  Args:
    features: from one image [H, W, C], pixels in [-1, 1], to a list of arrays [h, w, c].
    weights: [c] for each layer, not negative; None weighs all features with 1.
  """

  def loss(x: Array, mean: Array) -> Array:
    base.check_shape('x', x, (None, None, None))
    base.check_shape('mean', mean, jnp.shape(x))
    total = distance(features(x), features(mean), weights).astype(x.dtype)
    return x.size * total

  return loss


def distance(
  first: Sequence[Array], second: Sequence[Array], weights: Sequence[Array] | None = None
) -> Array:
  """Returns the sum over layers of the mean over pixels of |w * (u(first) - u(second))|^2. [].

  Args:
    first: features [h, w, c] of each layer.
    second: those of the other image.
    weights: [c] for each layer; None weighs all features with 1.
  """
  total = jnp.zeros((), first[0].dtype)
  for i, (a, b) in enumerate(zip(first, second, strict=True)):
    squares = jnp.square(_unit(a) - _unit(b))
    if weights is not None:
      squares = squares * jnp.asarray(weights[i], squares.dtype)[None, None]
    total = total + jnp.mean(jnp.sum(squares, axis=-1)).astype(total.dtype)
  return total


def vgg(folder: Path) -> Loss:
  """Returns the loss in the features of VGG-16, with the weights of `folder / 'vgg16.npz'` (`load_vgg`).

  Raises:
    FileNotFoundError: there are no such weights.
    ValueError: the file is not of this layout.
  """
  return perceptual(*load_vgg(folder / VGG_FILE))


def watson(folder: Path) -> Loss:
  """Raises ValueError: the learnt parameters of the Watson model are not part of this package."""
  del folder
  raise ValueError(
    "The Watson perceptual loss is not offered: its parameters are its authors' learnt ones, which are "
    "not part of this package. Choose 'ssim', 'focal_frequency' or, with your own weights, 'vgg', "
    'or give a feature network to objectives.perceptual.perceptual.'
  )


def load_vgg(path: str | Path) -> tuple[Features, list[Array] | None]:
  """Returns features of VGG-16 from an .npz file: the outputs of relu1_2, 2_2, 3_3, 4_3 and 5_3.

  The file holds for each of the 13 convolutions conv1_1 to conv5_3 an array `NAME_kernel`
  [3, 3, inputs, outputs] and `NAME_bias` [outputs], of a network for RGB images that are normalised
  as ImageNet's. It may hold `lin1` to `lin5` [64, 128, 256, 512, 512], LPIPS's weights of the
  features, which are all 1 else. With torchvision, whose layers are in this order:

    convs = [m for m in torchvision.models.vgg16(weights='DEFAULT').features if hasattr(m, 'kernel_size')
             and hasattr(m, 'weight')]
    arrays = {}
    for name, conv in zip(NAMES, convs):  # 'conv1_1', 'conv1_2', 'conv2_1', ..., 'conv5_3'
      arrays[f'{name}_kernel'] = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
      arrays[f'{name}_bias'] = conv.bias.detach().numpy()
    numpy.savez('vgg16.npz', **arrays)

  Images of one channel are given to it as gray ones; they must have at least 16 pixels along each side.

  Returns:
    The features, as a function of one image, and the weights of LPIPS where the file has them.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: the file is not of this layout.
  """
  arrays = read_vgg(path)
  weights = [jnp.asarray(arrays[f'lin{i}'], jnp.float32) for i in range(1, 6) if f'lin{i}' in arrays]
  layers = {name: jnp.asarray(array, jnp.float32) for name, array in arrays.items()}
  return (lambda image: vgg_features(layers, image)), weights or None


def read_vgg(path: str | Path) -> dict[str, np.ndarray]:
  """Returns the arrays of the file that `load_vgg` describes, and raises its errors."""
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f'The weights of VGG-16 are not at {path.absolute()}. They are not part of this package: save '
      "torchvision's vgg16 to that file as objectives.perceptual.load_vgg describes, or choose another "
      "loss ('ssim', 'focal_frequency'), or give a feature network to objectives.perceptual.perceptual."
    )
  with np.load(path) as file:
    arrays = {name: file[name] for name in file.files}
  _check_layout(path, arrays)
  return arrays


def _check_layout(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Raises ValueError, naming the first array that is missing or of another shape."""
  wanted: dict[str, tuple[int, ...]] = {}
  inputs = 3
  for names, width in zip(_BLOCKS, _WIDTHS, strict=True):
    for name in names:
      wanted |= {f'{name}_kernel': (3, 3, inputs, width), f'{name}_bias': (width,)}
      inputs = width
  if any(f'lin{i}' in arrays for i in range(1, 6)):
    wanted |= {f'lin{i}': (width,) for i, width in enumerate(_WIDTHS, 1)}
  for name, shape in wanted.items():
    found = arrays[name].shape if name in arrays else 'no such array'
    if found != shape:
      raise ValueError(f'{path} must hold {name} of shape {shape}; it has {found}.')


def vgg_features(arrays: Mapping[str, Array], image: Array) -> list[Array]:
  """Returns the features [h, w, c] of VGG-16's five blocks for an image [H, W, C] in [-1, 1].

  Raises ValueError unless it has 1 or 3 channels and at least 16 pixels along each side.

  Args:
    arrays: of `read_vgg`.
    image: [H, W, C].
  """
  if image.shape[2] not in (1, 3) or min(image.shape[:2]) < MIN_SIDE:
    raise ValueError(
      f'VGG-16 needs images of 1 or 3 channels and at least {MIN_SIDE} pixels along each side; got '
      f'{image.shape}.'
    )
  mean, deviation = (jnp.asarray(v, image.dtype)[None, None] for v in (_MEAN, _DEVIATION))
  y = ((jnp.broadcast_to(image, (*image.shape[:2], 3)) + 1) / 2 - mean) / deviation
  found = []
  for i, names in enumerate(_BLOCKS):
    if i:
      y = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), 'VALID')
    for name in names:
      kernel, bias = (arrays[f'{name}_{part}'].astype(y.dtype) for part in ('kernel', 'bias'))
      y = jax.lax.conv_general_dilated(
        y[None], kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )[0]
      y = jax.nn.relu(y + bias[None, None])
    found.append(y)
  return found


def _unit(features: Array) -> Array:
  """Returns features [h, w, c] of unit length at each pixel.

  Those that are all 0 stay so, with a gradient.
  """
  return features * jax.lax.rsqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True) + 1e-10)
