"""Inception-v3 of the FID tools for one image, in NumPy: windows and einsum, channels first."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

from structured_obs.models.networks import inception

Map = NDArray[np.floating]  # [F, h, w]


def random_state(dtype: DTypeLike, seed: int = 0) -> dict[str, np.ndarray]:
  """Arrays of torch's names and shapes that keep the scale of what passes through, and of no class."""
  rng, state = np.random.default_rng(seed), {}
  for name, shape in inception.state_shapes().items():
    if len(shape) == 4:
      array = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(('bn.weight', 'running_var')):
      array = rng.uniform(0.5, 1.5, shape)
    else:
      array = 0.2 * rng.normal(size=shape)
    state[name] = array.astype(dtype)
  return state


def resized(image: np.ndarray, size: int) -> np.ndarray:
  """[H, W, C] between centres of pixels, linearly: one axis after the other. [size, size, C]."""
  for axis in (0, 1):
    length = image.shape[axis]
    at = (np.arange(size) + 0.5) * length / size - 0.5  # np.interp holds the ends
    image = np.apply_along_axis(lambda line, at=at: np.interp(at, range(len(line)), line), axis, image)
  return image


def _windows(
  x: Map, window: tuple[int, int], stride: int, pad: tuple[int, int], fill: float
) -> np.ndarray:
  padded = np.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1])), constant_values=fill)
  return sliding_window_view(padded, window, axis=(1, 2))[:, ::stride, ::stride]


def maximum(x: Map, stride: int, pad: int) -> Map:
  """Maxima of 3x3."""
  return _windows(x, (3, 3), stride, (pad, pad), -np.inf).max((-2, -1))


def mean(x: Map) -> Map:
  """Means of 3x3, of pixels inside alone."""
  total, count = (_windows(y, (3, 3), 1, (1, 1), 0).sum((-2, -1)) for y in (x, np.ones_like(x)))
  return total / count


class Network(NamedTuple):
  """The blocks, written out."""

  state: dict[str, np.ndarray]

  def conv(self, x: Map, name: str, stride: int = 1, pad: tuple[int, int] = (0, 0)) -> Map:
    """Convolution, batch norm and rectifier."""
    kernel = self.state[f'{name}.conv.weight']
    window = (kernel.shape[2], kernel.shape[3])
    y = np.einsum('chwij,ocij->ohw', _windows(x, window, stride, pad, 0), kernel, optimize=True)
    scale, shift, centre, variance = (
      self.state[f'{name}.bn.{leaf}'][:, None, None]
      for leaf in ('weight', 'bias', 'running_mean', 'running_var')
    )
    return np.maximum(scale * (y - centre) / np.sqrt(variance + 0.001) + shift, 0)

  def block_a(self, x: Map, at: str) -> Map:
    """35 x 35 pixels of a large image."""
    five = self.conv(self.conv(x, f'{at}.branch5x5_1'), f'{at}.branch5x5_2', 1, (2, 2))
    three = self.conv(self.conv(x, f'{at}.branch3x3dbl_1'), f'{at}.branch3x3dbl_2', 1, (1, 1))
    three = self.conv(three, f'{at}.branch3x3dbl_3', 1, (1, 1))
    pooled = self.conv(mean(x), f'{at}.branch_pool')
    return np.concatenate([self.conv(x, f'{at}.branch1x1'), five, three, pooled])

  def block_b(self, x: Map, at: str) -> Map:
    """From 35 to 17."""
    double = self.conv(self.conv(x, f'{at}.branch3x3dbl_1'), f'{at}.branch3x3dbl_2', 1, (1, 1))
    double = self.conv(double, f'{at}.branch3x3dbl_3', 2)
    return np.concatenate([self.conv(x, f'{at}.branch3x3', 2), double, maximum(x, 2, 0)])

  def block_c(self, x: Map, at: str) -> Map:
    """17 x 17."""
    seven = self.conv(self.conv(x, f'{at}.branch7x7_1'), f'{at}.branch7x7_2', 1, (0, 3))
    seven = self.conv(seven, f'{at}.branch7x7_3', 1, (3, 0))
    double = self.conv(self.conv(x, f'{at}.branch7x7dbl_1'), f'{at}.branch7x7dbl_2', 1, (3, 0))
    double = self.conv(double, f'{at}.branch7x7dbl_3', 1, (0, 3))
    double = self.conv(double, f'{at}.branch7x7dbl_4', 1, (3, 0))
    double = self.conv(double, f'{at}.branch7x7dbl_5', 1, (0, 3))
    pooled = self.conv(mean(x), f'{at}.branch_pool')
    return np.concatenate([self.conv(x, f'{at}.branch1x1'), seven, double, pooled])

  def block_d(self, x: Map, at: str) -> Map:
    """From 17 to 8."""
    three = self.conv(self.conv(x, f'{at}.branch3x3_1'), f'{at}.branch3x3_2', 2)
    seven = self.conv(self.conv(x, f'{at}.branch7x7x3_1'), f'{at}.branch7x7x3_2', 1, (0, 3))
    seven = self.conv(seven, f'{at}.branch7x7x3_3', 1, (3, 0))
    seven = self.conv(seven, f'{at}.branch7x7x3_4', 2)
    return np.concatenate([three, seven, maximum(x, 2, 0)])

  def block_e(self, x: Map, at: str, pooled: Map) -> Map:
    """8 x 8."""
    three = self.conv(x, f'{at}.branch3x3_1')
    double = self.conv(self.conv(x, f'{at}.branch3x3dbl_1'), f'{at}.branch3x3dbl_2', 1, (1, 1))
    return np.concatenate([
      self.conv(x, f'{at}.branch1x1'),
      self.conv(three, f'{at}.branch3x3_2a', 1, (0, 1)),
      self.conv(three, f'{at}.branch3x3_2b', 1, (1, 0)),
      self.conv(double, f'{at}.branch3x3dbl_3a', 1, (0, 1)),
      self.conv(double, f'{at}.branch3x3dbl_3b', 1, (1, 0)),
      self.conv(pooled, f'{at}.branch_pool'),
    ])  # fmt: skip

  def __call__(self, image: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features [2048] and four maps [h, w, F] of an image [H, W, 3] in [-1, 1]."""
    x = self.conv(image.transpose(2, 0, 1), 'Conv2d_1a_3x3', 2)
    x = self.conv(self.conv(x, 'Conv2d_2a_3x3'), 'Conv2d_2b_3x3', 1, (1, 1))
    first = maximum(x, 2, 0)
    second = maximum(self.conv(self.conv(first, 'Conv2d_3b_1x1'), 'Conv2d_4a_3x3'), 2, 0)
    x = second
    for letter in 'bcd':
      x = self.block_a(x, f'Mixed_5{letter}')
    x = self.block_b(x, 'Mixed_6a')
    for letter in 'bcde':
      x = self.block_c(x, f'Mixed_6{letter}')
    third, x = x, self.block_d(x, 'Mixed_7a')
    x = self.block_e(x, 'Mixed_7b', mean(x))
    x = self.block_e(x, 'Mixed_7c', maximum(x, 1, 1))
    return x.mean((1, 2)), [y.transpose(1, 2, 0) for y in (first, second, third, x)]
