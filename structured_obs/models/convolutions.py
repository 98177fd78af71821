"""Products of images with 3x3 and 1x1 kernels, forward and backward, in the form that is fast.

XLA's convolution on CPUs is fast for a 3x3 window in all three products, but slow in the gradient by the
weights of a 1x1 window, and very slow in the gradients of a transposed convolution. So a 1x1 window is a
matrix product everywhere, and on CPUs the transposed convolution is a matrix product to all nine taps
of every pixel, whose results are shifted and added.

Measured with 8 images, forward and all gradients in float32 on two cores shared with other work, in
milliseconds, the smallest of 7 or 9 runs (each form under `jax.vjp` and `jax.jit` on random numbers):

  1x1, 32x32, 384 -> 256          convolution 129, product 55
  1x1, 32x32, 700 -> 256          convolution 264, product 113
  3x3, 32x32, 256 -> 64           convolution 80, patches 369, product to nine taps 155
  3x3 stride 2, 16x16, 195 -> 390           convolution 50, patches 38
  3x3 transposed, 16x16, 520 -> 260         convolution 6122, product to nine taps 428
  ELU of 8x32x32x600              flax's 50, the one below 19

Letters: B batch; H W image height, width; h w the same at a coarser resolution; F G features.
"""

import jax
import jax.numpy as jnp

Array = jax.Array

LAYOUT = ('NHWC', 'HWIO', 'NHWC')


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
  window, _, features, outputs = kernel.shape
  if window == 1 and stride == 1:
    return (x.reshape(-1, features) @ kernel.reshape(features, outputs)).reshape(*x.shape[:3], outputs)
  pad = (window // 2, window // 2)
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), (pad, pad), dimension_numbers=LAYOUT
  )


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
