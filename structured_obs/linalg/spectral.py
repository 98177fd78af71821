"""Orthonormal bases in which covariances of blurred noise are diagonal: of periodic and mirrored images.

A blur with a kernel k commutes with every shift of an image that is continued without end: periodically,
or by reflection at its borders (the border pixel is repeated: half-sample symmetry). The first kind is
diagonal in the discrete Fourier basis, the second, for a kernel symmetric in both axes, in that of the
discrete cosine transform (DCT-II). Multiplying a spectrum by real numbers is then a symmetric matrix.

Letters: H W C image height, width, channels; F columns of a spectrum: W // 2 + 1 of the periodic one,
whose other half repeats these, and W of the reflecting one.

A spectrum is a tuple of real arrays [H, F, C], its parts: real and imaginary, or the cosine one alone.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.linalg import products

Array = jax.Array
Parts = tuple[Array, ...]


class Basis(NamedTuple):
  """An orthonormal transform of images, and what is diagonal in it.

  A matrix is given by its values [H, F, C] or [H, F, 1], real eigenvalues laid out as a spectrum. In
  columns 0 and, W even, W / 2 of a periodic one, rows u and H - u are opposite frequencies of one value:
  only the first of the two is read.
  """

  columns: Callable[[int], int]  # W -> F
  weights: Callable[[int], NDArray[np.float64]]  # W -> [F], how often a column counts in sums
  counts: Callable[[int, int], NDArray[np.float64]]  # (H, W) -> [H, F], dimensions that a value is of
  forward: Callable[[Array], Parts]  # image [H, W, C] -> spectrum; a weighted sum of squares is kept
  inverse: Callable[[Parts, int], Array]  # (spectrum, W) -> image [H, W, C]
  transfer: Callable[[Array, int, int], Parts]  # (kernel [k1, k2], H, W) -> parts [H, F]
  symmetric: Callable[[Array, int], Array]  # (values, W) -> those not read replaced by those that are
  diagonal: Callable[[Array, int], Array]  # (values, W) -> the matrix's diagonal [H, W, C]
  modes: Callable[[Array, Array, int, int], Array]  # (rows [k], columns [k], H, W) -> [k, H, W]
  unfold: Callable[[Array, int], Array]  # (values, W) -> values of all modes [H, W, C]
  table: Callable[[Array, int], Array]  # (values, W) -> what `entries` reads [C, ...]; linear
  # (table of one channel, places [b] int32 in raster order) -> columns of the matrix [b, H W]
  entries: Callable[[Array, Array], Array]


def power(parts: Parts) -> Array:
  """Returns the squared magnitude of a spectrum, with a gradient at 0 too. [H, F, C]."""
  return sum((jnp.square(part) for part in parts[1:]), start=jnp.square(parts[0]))


def total(basis: Basis, values: Array, width: int) -> Array:
  """Returns the sum of values by frequency over all dimensions that each stands for. [].

  Args:
    basis: of the values.
    values: [H, F, C] or [H, F, 1].
    width: W.
  """
  counts = jnp.asarray(basis.counts(values.shape[0], width), values.dtype)
  return jnp.sum(values * counts[:, :, None])


def scale(parts: Parts, values: Array) -> Parts:
  """Returns a spectrum times real values of a rank like its own."""
  return tuple(part * values for part in parts)


def multiply(basis: Basis, values: Array, image: Array) -> Array:
  """Returns the product of a matrix, given by its values, with an image. [H, W, C].

  Args:
    basis: in which the matrix is diagonal.
    values: [H, F, C] or [H, F, 1], its eigenvalues.
    image: [H, W, C].
  """
  symmetric = basis.symmetric(values, image.shape[1])
  return basis.inverse(scale(basis.forward(image), symmetric), image.shape[1])


def _cosines(frequencies: int, taps: NDArray[np.int64], period: int) -> NDArray[np.float64]:
  """Returns cos(2 pi u a / period) [u, a], exact for any integers, which are taken modulo the period."""
  return np.cos(2 * math.pi * (np.outer(np.arange(frequencies), taps) % period) / period)


def _sines(frequencies: int, taps: NDArray[np.int64], period: int) -> NDArray[np.float64]:
  return np.sin(2 * math.pi * (np.outer(np.arange(frequencies), taps) % period) / period)


def _centred(size: int) -> NDArray[np.int64]:
  return np.arange(size) - size // 2


def _half_weights(width: int) -> NDArray[np.float64]:
  weights = np.full(width // 2 + 1, 2.0)
  weights[0] = 1
  if width % 2 == 0:
    weights[-1] = 1
  return weights


def _fourier(image: Array) -> Parts:
  # Transforms of the last axes save transposed copies of complex numbers.
  spectrum = jnp.fft.rfft2(jnp.moveaxis(image, -1, 0), norm='ortho')
  return jnp.moveaxis(spectrum.real, 0, -1), jnp.moveaxis(spectrum.imag, 0, -1)


def _inverse_fourier(parts: Parts, width: int) -> Array:
  size = parts[0].shape[0], width
  return jnp.fft.irfft2(jax.lax.complex(*parts), s=size, axes=(0, 1), norm='ortho')


def _fourier_transfer(kernel: Array, height: int, width: int) -> Parts:
  """Returns the parts of sum_ab k[a, b] exp(-2 pi i (u (a - k1 // 2) / H + v (b - k2 // 2) / W)) [H, F].

  Two products with tables of cosines and sines instead of a transform of the padded kernel: taps beyond
  the image's size add to those they fall on, and no error is larger than the kernel's own rounding.
  """
  (rows, columns), half, dtype = kernel.shape, width // 2 + 1, kernel.dtype
  down, right = _centred(rows), _centred(columns)
  across = np.concatenate([_cosines(half, right, width), _sines(half, right, width)])
  cosine, sine = _cosines(height, down, height), _sines(height, down, height)
  along = np.block([[cosine, -sine], [-sine, -cosine]])
  mixed = products.matmul(kernel, jnp.asarray(across.T, dtype))
  stacked = jnp.concatenate([mixed[:, :half], mixed[:, half:]])
  both = products.matmul(jnp.asarray(along, dtype), stacked)
  return both[:height], both[height:]


def _half_counts(height: int, width: int) -> NDArray[np.float64]:
  counts = np.full((height, width // 2 + 1), 2.0)
  rows = np.arange(height)
  once = np.where(2 * rows % height == 0, 1.0, np.where(2 * rows < height, 2.0, 0.0))
  counts[:, _half_weights(width) == 1] = once[:, None]
  return counts


def _first_of_opposites(values: Array, width: int) -> Array:
  rows = np.arange(values.shape[0])
  first = np.minimum(rows, -rows % values.shape[0])
  inner = (width - 1) // 2 + 1  # columns from 1 to here have their opposites in the other half
  return jnp.concatenate([values[first, :1], values[:, 1:inner], values[first, inner:]], axis=1)


def _fourier_diagonal(values: Array, width: int) -> Array:
  height, _, channels = values.shape
  counts = jnp.asarray(_half_counts(height, width), values.dtype)[:, :, None]
  mean = jnp.sum(values * counts, axis=(0, 1), keepdims=True) / (height * width)
  return jnp.broadcast_to(mean, (height, width, channels))


def _hartley_modes(rows: Array, columns: Array, height: int, width: int) -> Array:
  """Returns cos + sin of each frequency: with its opposite's a real basis of the same two dimensions."""

  def turns(index: Array, period: int) -> Array:
    whole = index[:, None] * jnp.arange(period, dtype=index.dtype)[None] % period
    return whole.astype(jnp.zeros(()).dtype) / period

  angle = 2 * math.pi * (turns(rows, height)[:, :, None] + turns(columns, width)[:, None, :])
  return (jnp.cos(angle) + jnp.sin(angle)) / math.sqrt(height * width)


def _unfold_half(values: Array, width: int) -> Array:
  # Column W - v, row u is the opposite of column v, row -u.
  values = _first_of_opposites(values, width)
  rest = values[:, 1 : width - values.shape[1] + 1]
  opposite = jnp.roll(rest[::-1, ::-1], 1, axis=0)
  return jnp.concatenate([values, opposite], axis=1)


def _cosine_basis(size: int) -> NDArray[np.float64]:
  """Returns the orthonormal DCT-II. [frequency, pixel]."""
  basis = _cosines(size, 2 * np.arange(size) + 1, 4 * size) * math.sqrt(2 / size)
  basis[0] = math.sqrt(1 / size)
  return basis


def _both_axes(image: Array, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Array:
  """Returns sum_ij rows[u, i] columns[v, j] image[i, j, c]. [u, v, C]."""
  first = products.einsum('ui,ijc->ujc', jnp.asarray(rows, image.dtype), image)
  return products.einsum('vj,ujc->uvc', jnp.asarray(columns, image.dtype), first)


def _cosine(image: Array) -> Parts:
  height, width, _ = image.shape
  return (_both_axes(image, _cosine_basis(height), _cosine_basis(width)),)


def _inverse_cosine(parts: Parts, width: int) -> Array:
  (part,) = parts
  return _both_axes(part, _cosine_basis(part.shape[0]).T, _cosine_basis(width).T)


def _cosine_transfer(kernel: Array, height: int, width: int) -> Parts:
  """Returns sum_ab k[a, b] cos(pi u (a - k1 // 2) / H) cos(pi v (b - k2 // 2) / W) [H, W].

  It is the blur of a mirrored image where k is symmetric in both axes, k(a, b) = k(-a, b) = k(a, -b)
  about its centre. For another k it is that of its symmetric part, the mean of its four reflections.
  """
  rows, columns = kernel.shape
  across = _cosines(width, _centred(columns), 2 * width)
  along = _cosines(height, _centred(rows), 2 * height)
  mixed = products.matmul(kernel, jnp.asarray(across.T, kernel.dtype))
  return (products.matmul(jnp.asarray(along, kernel.dtype), mixed),)


def _cosine_diagonal(values: Array, width: int) -> Array:
  rows, columns = (np.square(_cosine_basis(size)).T for size in (values.shape[0], width))
  return _both_axes(values, rows, columns)


def _cosine_modes(rows: Array, columns: Array, height: int, width: int) -> Array:
  dtype = jnp.zeros(()).dtype

  def waves(places: Array, size: int) -> Array:
    # A product, since on a mesh of explicit axes a sharded array cannot index another one.
    chosen = places[:, None] == jnp.arange(size, dtype=places.dtype)[None]
    return products.matmul(chosen.astype(dtype), jnp.asarray(_cosine_basis(size), dtype))

  return waves(rows, height)[:, :, None] * waves(columns, width)[:, None, :]


def _fourier_table(values: Array, width: int) -> Array:
  """Returns g(a, b), the entry of pixels that far apart, for -H <= a < H and -W <= b < W."""
  real = _first_of_opposites(values, width)
  once = _inverse_fourier((real, jnp.zeros_like(real)), width) / math.sqrt(len(values) * width)
  return jnp.tile(jnp.moveaxis(once, -1, 0), (1, 2, 2))


def _fourier_entries(table: Array, places: Array) -> Array:
  height, width = (size // 2 for size in table.shape)

  def column(place: Array) -> Array:
    start = height - place // width, width - place % width
    return jax.lax.dynamic_slice(table, start, (height, width)).reshape(-1)

  return jax.vmap(column)(places)


def _cosine_table(values: Array, _: int) -> Array:
  """Returns g(a, b) for a from -H to 2 H - 1 and b from -W to 2 W - 1.

  An entry is the mean of g(i - k, j - l), g(i + k + 1, j - l), g(i - k, j + l + 1) and
  g(i + k + 1, j + l + 1), of pixels (i, j) and (k, l).
  """

  def waves(size: int) -> NDArray[np.float64]:
    norms = np.where(np.arange(size) == 0, 1, 2)[None, :] / size
    return norms * _cosines(3 * size, np.arange(size), 2 * size) * np.cos(math.pi * np.arange(size))

  height, width, _ = values.shape
  return jnp.moveaxis(_both_axes(values, waves(height), waves(width)), -1, 0)


def _cosine_entries(table: Array, places: Array) -> Array:
  height, width = (size // 3 for size in table.shape)

  def column(place: Array) -> Array:
    i, j = place // width, place % width
    starts = itertools.product((height - i, height + i + 1), (width - j, width + j + 1))
    parts = (jax.lax.dynamic_slice(table, start, (height, width)) for start in starts)
    return sum(parts, start=jnp.zeros_like(table, shape=(height, width))).reshape(-1) / 4

  return jax.vmap(column)(places)


PERIODIC = Basis(
  columns=lambda width: width // 2 + 1,
  weights=_half_weights,
  counts=_half_counts,
  forward=_fourier,
  inverse=_inverse_fourier,
  transfer=_fourier_transfer,
  symmetric=_first_of_opposites,
  diagonal=_fourier_diagonal,
  modes=_hartley_modes,
  unfold=_unfold_half,
  table=_fourier_table,
  entries=_fourier_entries,
)
REFLECTING = Basis(
  columns=lambda width: width,
  weights=np.ones,
  counts=lambda height, width: np.ones((height, width)),
  forward=_cosine,
  inverse=_inverse_cosine,
  transfer=_cosine_transfer,
  symmetric=lambda values, width: values,
  diagonal=_cosine_diagonal,
  modes=_cosine_modes,
  unfold=lambda values, width: values,
  table=_cosine_table,
  entries=_cosine_entries,
)
