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

The gradient by a 3x3 kernel with 32 images, in milliseconds of processor time on a busy machine, medians
of 21 alternating runs; XLA's runs on one thread, the products on both:

  64x64, 16 -> 16                 convolution 22.6, products 13.0
  32x32, 32 -> 32                 convolution 16.7, products 8.6
  16x16, 64 -> 64                 convolution 10.6, products 7.5
  8x8, 128 -> 128                 convolution 4.6, products 5.6 to 6.8: left to XLA

Letters: B batch; H W image height, width; h w the same at a coarser resolution; F G features; k l
height and width of a window.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

LAYOUT = ('NHWC', 'HWIO', 'NHWC')
# XLA's own gradient by a kernel is as fast below so many pixels, and below so many features.
LEAST_PIXELS = 144
LEAST_FEATURES = 8
GROUP = 1 << 16  # numbers of x and of the result that are in the processor's cache together


@jax.custom_jvp
def elu(x: Array) -> Array:
  """x where it is positive and exp(x) - 1 elsewhere. Any shape; its derivative needs no exponential."""
  return jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0)))


@elu.defjvp
def _elu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
  y = elu(*primals)
  return y, jnp.where(y > 0, jnp.ones_like(y), y + 1) * tangents[0]


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
  """Convolve [B, H, W, F] with a kernel [k, k, F, G] of odd k, zeros around the image.

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
  """Same function as `jax.lax.conv_general_dilated` of the layout NHWC, HWIO, with faster gradients.

  They are this module's for 1x1 windows, and for windows of odd sizes at every pixel with zeros around
  the image. Any other window, and any option that changes the function, leaves them to XLA.
  """
  options['dimension_numbers'] = LAYOUT
  sides, strides = kernel.shape[:2], tuple(window_strides)
  changed = [options.get('feature_group_count', 1) != 1, options.get('precision') is not None]
  changed += [set(options.get(name) or (1,)) != {1} for name in ('lhs_dilation', 'rhs_dilation')]
  centred = padding == 'SAME' or [*map(tuple, padding)] == [(k // 2, k // 2) for k in sides]
  if not any(changed) and centred and all(k % 2 for k in sides):
    if sides == (1, 1):
      return _pointwise(x[:, :: strides[0], :: strides[1]], kernel)
    if strides == (1, 1):
      return _centred(x, kernel)
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _pointwise(x: Array, kernel: Array) -> Array:
  features, outputs = kernel.shape[2:]
  return (x.reshape(-1, features) @ kernel.reshape(features, outputs)).reshape(*x.shape[:3], outputs)


def _implementation() -> Any:
  return general


# nn.Conv, whose name and parameters it has, with `general` as its product.
Conv = functools.partial(nn.Conv, conv_general_dilated_cls=_implementation)


@jax.custom_jvp
def _centred(x: Array, kernel: Array) -> Array:
  """Convolution of [B, H, W, F] and [k, l, F, G] of odd k and l: [B, H, W, G]."""
  pads = [(k // 2, k // 2) for k in kernel.shape[:2]]
  return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=LAYOUT)


@functools.partial(_centred.defjvp, symbolic_zeros=True)
def _centred_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
  (x, kernel), (dx, dkernel) = primals, tangents
  y = _centred(x, kernel)
  zero = jax.custom_derivatives.SymbolicZero
  terms = [] if isinstance(dx, zero) else [_centred(dx, kernel)]
  terms += [] if isinstance(dkernel, zero) else [_by_kernel(x, dkernel)]
  return y, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(y)


def _by_kernel(x: Array, kernel: Array) -> Array:
  """`_centred` where it is differentiated by the kernel: its transpose is that gradient."""
  pixels, features = x.shape[1] * x.shape[2], min(kernel.shape[2:])
  if pixels < LEAST_PIXELS or features < LEAST_FEATURES or not x.shape[0]:
    return _centred(x, kernel)
  return jax.lax.platform_dependent(x, kernel, cpu=_by_columns, default=_centred)


def _by_columns(x: Array, kernel: Array) -> Array:
  """`_centred` as products of l columns of each pixel and the kernel, a few images at a time.

  The product leaves k numbers for each pixel, one for each row of the window, which are shifted and
  added. Transposed, this adds up one product [l F, H W] [H W, k G] for each group of images, and
  nothing but x is kept for it. Sums are of float32 at least.
  """
  batch, height, width, features = x.shape
  rows, columns, _, outputs = kernel.shape
  wide = x.dtype if jnp.finfo(x.dtype).bits > 16 else jnp.float32
  taps = kernel.astype(wide).transpose(1, 2, 0, 3).reshape(columns * features, rows * outputs)
  most = max(1, GROUP // (height * width * (features + outputs)))
  count = max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def product(images: Array, taps: Array) -> Array:
    margins = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    padded = jnp.pad(images.astype(wide), margins)
    shifted = [padded[:, :, b : b + width] for b in range(columns)]
    by_row = jnp.concatenate(shifted, axis=-1).reshape(-1, columns * features) @ taps
    by_row = by_row.reshape(count, height + rows - 1, width, rows * outputs)
    parts = enumerate(jnp.split(by_row, rows, axis=-1))
    return functools.reduce(jnp.add, [part[:, a : a + height] for a, part in parts]).astype(x.dtype)

  groups = x.reshape(-1, count, height, width, features)
  return jax.lax.map(lambda images: product(images, taps), groups).reshape(*x.shape[:3], outputs)


def transposed(x: Array, kernel: Array) -> Array:
  """Transposed convolution of stride 2 of [B, h, w, F] with [3, 3, F, G]: [B, 2 h, 2 w, G].

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
