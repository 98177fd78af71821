"""Convolutions of images, forward and backward, in the form that is fast on each platform.

Every network's convolution is `convolve`, or the layer `Conv`, which has the parameters of flax's. On
accelerators both are XLA's convolution. On CPUs XLA is fast in the result and in the gradient by the
image, but slow in the gradient by the kernel, and very slow in the gradients of a transposed
convolution. So there the gradient by the kernel is that of matrix products, a few images at a time, and
the transposed convolution is a matrix product to all nine taps of every pixel, whose results are
shifted and added. A 1x1 window is a matrix product everywhere.

Measured with 8 images, forward and all gradients in float32 on two cores shared with other work, in
milliseconds, the smallest of 7 or 9 runs (each form under `jax.vjp` and `jax.jit` on random numbers):

  1x1, 32x32, 384 -> 256          convolution 129, product 55
  1x1, 32x32, 700 -> 256          convolution 264, product 113
  3x3, 32x32, 256 -> 64           convolution 80, patches 369, product to nine taps 155
  3x3 stride 2, 16x16, 195 -> 390           convolution 50, patches 38
  3x3 transposed, 16x16, 520 -> 260         convolution 6122, product to nine taps 428
  ELU of 8x32x32x600              flax's 50, the one below 19

The gradient by a 3x3 kernel with 32 images, in milliseconds of processor time, and megabytes of
temporaries, on two cores shared with much other work, medians of 15 alternating runs of
`python -m launch.benchmark --suite=convolutions --sizes=64,32,16 --batches=32 --out=FILE`:

  64x64, 16 -> 16                 convolution 30.6 and 16.8, products 16.9 and 1.9
  32x32, 32 -> 32                 convolution 19.8 and 8.4, products 9.6 and 1.0
  16x16, 64 -> 64                 convolution 13.2 and 4.3, products 8.6 and 1.3

At 8x8, 128 -> 128, products are no faster.

Letters: B batch; H W image height, width; h w those of the result, or at a coarser resolution; F G
features; k l height and width of a window.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

Strides = tuple[int, int]  # down, across
Pads = tuple[tuple[int, int], tuple[int, int]]  # pixels above and below, left and right

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# XLA's own gradient by a kernel is as fast below this many pixels of the result or this many features.
LEAST_PIXELS = 144
LEAST_FEATURES = 8
GROUP = 1 << 16  # numbers of x and of the result that are in the processor's cache together


@jax.custom_jvp
def elu(x: Array) -> Array:
  """Returns x where it is positive and exp(x) - 1 elsewhere.

  Any shape; its derivative needs no exponential.
  """
  return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


@elu.defjvp
def _elu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
  y = elu(*primals)
  return y, jnp.where(y > 0, jnp.ones_like(y), y + 1) * tangents[0]


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
  """Convolves [B, H, W, F] with a kernel [k, k, F, G] of odd k, zeros around the image.

  Args:
    x: [B, H, W, F].
    kernel: [k, k, F, G].
    stride: of both axes.

  Returns:
    [B, ceil(H / stride), ceil(W / stride), G]; pixel (0, 0) is centred on pixel (0, 0).
  """
  pad = (kernel.shape[0] // 2, kernel.shape[0] // 2)
  return general(x, kernel, (stride, stride), (pad, pad))


def general(
  x: Array,
  kernel: Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> Array:
  """Returns `jax.lax.conv_general_dilated` of the layout NHWC, HWIO, with faster gradients.

  Options that change the function (dilations, groups, a precision) leave the gradients to XLA.

  Args:
    x: [B, H, W, F].
    kernel: [k, l, F, G].
    window_strides: down and across.
    padding: as of `jax.lax.conv_general_dilated`.
    **options: others of that function.
  """
  options['dimension_numbers'] = LAYOUT
  sides, (down, across) = kernel.shape[:2], tuple(window_strides)
  changed = [options.get('feature_group_count', 1) != 1, options.get('precision') is not None]
  changed += [set(options.get(name) or (1,)) != {1} for name in ('lhs_dilation', 'rhs_dilation')]
  if any(changed) or not (isinstance(padding, str) or all(min(pair) >= 0 for pair in padding)):
    return jax.lax.conv_general_dilated(x, kernel, (down, across), padding, **options)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(x.shape[1:3], sides, (down, across), padding)
  rows, columns = ((int(before), int(after)) for before, after in padding)
  if sides == (1, 1) and rows == columns == (0, 0):
    return _pointwise(x[:, ::down, ::across], kernel)
  return _convolution(x, kernel, (down, across), (rows, columns))


def _pointwise(x: Array, kernel: Array) -> Array:
  features, outputs = kernel.shape[2:]
  return (x.reshape(-1, features) @ kernel.reshape(features, outputs)).reshape(*x.shape[:3], outputs)


def _implementation() -> Any:
  return general


# nn.Conv, whose name and parameters it has, with `general` as its product.
Conv = functools.partial(nn.Conv, conv_general_dilated_cls=_implementation)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolution(x: Array, kernel: Array, strides: Strides, pads: Pads) -> Array:
  """Returns the convolution of [B, H, W, F] and [k, l, F, G]: [B, h, w, G]."""
  return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=LAYOUT)


@functools.partial(_convolution.defjvp, symbolic_zeros=True)
def _convolution_jvp(
  strides: Strides, pads: Pads, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Array]:
  (x, kernel), (dx, dkernel) = primals, tangents
  y = _convolution(x, kernel, strides, pads)
  zero = jax.custom_derivatives.SymbolicZero
  terms = [] if isinstance(dx, zero) else [_convolution(dx, kernel, strides, pads)]
  if not isinstance(dkernel, zero):
    plain = functools.partial(_convolution, strides=strides, pads=pads)
    if y.shape[1] * y.shape[2] < LEAST_PIXELS or min(kernel.shape[2:]) < LEAST_FEATURES or not y.size:
      terms.append(plain(x, dkernel))
    else:
      products = functools.partial(_by_columns, strides=strides, pads=pads)
      terms.append(jax.lax.platform_dependent(x, dkernel, cpu=products, default=plain))
  return y, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(y)


def _by_columns(x: Array, kernel: Array, strides: Strides, pads: Pads) -> Array:
  """Returns `_convolution` in the form whose transpose by the kernel is fast, a few images at a time.

  The l columns that a window sees of each row lie side by side and are multiplied with the kernel: one
  number for each row of the window, which are shifted and added. Transposed, this adds up one product
  [l F, H w] [H w, k G] for each group of images, and nothing but x is kept for it. With a stride each
  row takes part in the products of the window's rows that meet it. Sums are of float32 at least.
  """
  (batch, height, width, features), (rows, columns, _, outputs) = x.shape, kernel.shape
  (down, across), ((top, bottom), (left, right)) = strides, pads
  lines = (height + top + bottom - rows) // down + 1
  pixels = (width + left + right - columns) // across + 1
  tall = -(-(height + top + bottom) // down)
  wide = x.dtype if jnp.finfo(x.dtype).bits > 16 else jnp.float32
  # Taps of the rows 0, s, ..; of the rows 1, s + 1, ..; for a stride of s.
  taps = [kernel[first::down].astype(wide).transpose(1, 2, 0, 3) for first in range(min(down, rows))]
  taps = [each.reshape(columns * features, -1) for each in taps]
  most = max(1, GROUP // (height * width * features + lines * pixels * outputs))
  count = max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def product(images: Array, taps: list[Array]) -> Array:
    margins = ((0, 0), (top, tall * down - height - top), (left, right), (0, 0))
    padded = jnp.pad(images.reshape(count, height, width, features).astype(wide), margins)
    ends = range(across * (pixels - 1) + 1, across * (pixels - 1) + 1 + columns)
    seen = [padded[:, :, first:end:across] for first, end in enumerate(ends)]
    beside = jnp.concatenate(seen, axis=-1).reshape(-1, down, pixels, columns * features)
    parts = []
    for first, each in enumerate(taps):
      by_row = beside[:, first].reshape(-1, columns * features) @ each
      by_row = by_row.reshape(count, tall, pixels, -1)
      split = enumerate(jnp.split(by_row, by_row.shape[-1] // outputs, axis=-1))
      parts += [part[:, shift : shift + lines] for shift, part in split]
    result = functools.reduce(jnp.add, parts).astype(x.dtype)
    return result.reshape(*images.shape[:-3], lines, pixels, outputs)

  # An axis of size 1 would make the compiler copy all images.
  groups = x if count == 1 else x.reshape(-1, count, height, width, features)
  found = jax.lax.map(lambda images: product(images, taps), groups)
  return found.reshape(batch, lines, pixels, outputs)


def transposed(x: Array, kernel: Array) -> Array:
  """Returns the transposed convolution of stride 2 of [B, h, w, F] with [3, 3, F, G]: [B, 2 h, 2 w, G].

  Input pixel (i, j) adds its product with tap (a, b) to output pixel (2 i - 1 + a, 2 j - 1 + b).
  """
  return jax.lax.platform_dependent(x, kernel, cpu=_transposed_by_taps, default=_transposed_plain)


def _transposed_plain(x: Array, kernel: Array) -> Array:
  return jax.lax.conv_general_dilated(
    x, kernel[::-1, ::-1], (1, 1), ((1, 2), (1, 2)), lhs_dilation=(2, 2), dimension_numbers=LAYOUT
  )


def _transposed_by_taps(x: Array, kernel: Array) -> Array:
  batch, height, width, features = x.shape
  outputs = kernel.shape[-1]
  y = x.reshape(-1, features) @ kernel.transpose(2, 0, 1, 3).reshape(features, 9 * outputs)
  y = y.reshape(batch, height, width, 3, 3, outputs)
  # Even pixels see the middle tap alone, odd ones the last tap and the first one of the next pixel.
  following = jnp.pad(y[:, 1:, :, 0], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
  y = jnp.stack([y[:, :, :, 1], y[:, :, :, 2] + following], axis=2)
  following = jnp.pad(y[:, :, :, 1:, 0], ((0, 0), (0, 0), (0, 0), (0, 1), (0, 0)))
  y = jnp.stack([y[:, :, :, :, 1], y[:, :, :, :, 2] + following], axis=4)
  return y.reshape(batch, 2 * height, 2 * width, outputs)
