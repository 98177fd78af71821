"""Transforms and transfer functions against sums of rolled and mirrored images, tap by tap."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from structured_obs.linalg import spectral
from structured_obs.linalg.spectral import PERIODIC, REFLECTING

GRIDS = ((4, 4), (5, 3), (3, 6), (1, 7), (6, 1), (2, 2))
KERNELS = ((3, 3), (5, 2), (4, 7), (11, 11))  # odd, even, and larger than the grids
BASES = pytest.mark.parametrize('basis', [PERIODIC, REFLECTING], ids=['periodic', 'reflecting'])
EACH_GRID = pytest.mark.parametrize('grid', GRIDS, ids=str)


def _bound(float64: float, float32: float) -> float:
  return float64 if jnp.zeros(()).dtype == jnp.float64 else float32


def _random(*shape: int, seed: int = 0) -> jax.Array:
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.zeros(()).dtype)


def periodic_blur(kernel: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Matrix of sum_ab k[a, b] x(i - a', j - b'), centred and periodic, by rolls. [H W, H W]."""
  unit = np.eye(grid[0] * grid[1]).reshape(-1, *grid)
  matrix = np.zeros_like(unit)
  for a, b in itertools.product(*map(range, kernel.shape)):
    shift = a - kernel.shape[0] // 2, b - kernel.shape[1] // 2
    matrix += float(kernel[a, b]) * np.roll(unit, shift, axis=(1, 2))
  return matrix.reshape(len(unit), -1).T


def _mirror(places: np.ndarray, size: int) -> np.ndarray:
  inside = places % (2 * size)
  return np.where(inside < size, inside, 2 * size - 1 - inside)


def mirrored_blur(kernel: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
  """Matrix of the blur of an image that is mirrored without end, by looking pixels up. [H W, H W]."""
  unit = np.eye(grid[0] * grid[1]).reshape(-1, *grid)
  matrix = np.zeros_like(unit)
  for a, b in itertools.product(*map(range, kernel.shape)):
    rows = _mirror(np.arange(grid[0]) - (a - kernel.shape[0] // 2), grid[0])
    columns = _mirror(np.arange(grid[1]) - (b - kernel.shape[1] // 2), grid[1])
    matrix += float(kernel[a, b]) * unit[:, rows][:, :, columns]
  return matrix.reshape(len(unit), -1).T


def symmetric_part(kernel: np.ndarray) -> np.ndarray:
  """Mean of a kernel's four reflections about [k1 // 2, k2 // 2]; of odd size. [k1', k2']."""
  pads = [(0, 1 - size % 2) for size in kernel.shape]  # an even size has one more tap before its centre
  odd = np.pad(np.asarray(kernel, np.float64), pads)
  return (odd + odd[::-1] + odd[:, ::-1] + odd[::-1, ::-1]) / 4


def _matrix(basis: spectral.Basis, values: jax.Array, grid: tuple[int, int]) -> np.ndarray:
  """The matrix that values [H, F] stand for, column by column. [H W, H W]."""
  size = grid[0] * grid[1]
  unit = jnp.eye(size, dtype=values.dtype).reshape(size, *grid, 1)
  columns = jax.vmap(lambda image: spectral.multiply(basis, values[..., None], image))(unit)
  return np.asarray(columns, np.float64).reshape(size, size).T


@EACH_GRID
@pytest.mark.parametrize('shape', KERNELS, ids=str)
@pytest.mark.few(7)
def test_periodic_transfer(grid: tuple[int, int], shape: tuple[int, int]):
  kernel = _random(*shape)
  blur = periodic_blur(np.asarray(kernel), grid)
  real, imaginary = PERIODIC.transfer(kernel, *grid)
  expected = np.fft.rfft2(blur[:, 0].reshape(grid))  # of what becomes of a single bright pixel
  scale = np.abs(kernel).sum()
  assert np.max(np.abs(np.asarray(real) - expected.real)) < _bound(1e-14, 1e-6) * scale
  assert np.max(np.abs(np.asarray(imaginary) - expected.imag)) < _bound(1e-14, 1e-6) * scale
  covariance = _matrix(PERIODIC, spectral.power((real, imaginary)), grid)
  assert np.max(np.abs(covariance - blur @ blur.T)) < _bound(1e-13, 1e-5) * scale**2


@EACH_GRID
@pytest.mark.parametrize('shape', KERNELS, ids=str)
@pytest.mark.few(5)
def test_reflecting_transfer(grid: tuple[int, int], shape: tuple[int, int]):
  """Of a kernel without symmetry it is the symmetric part's."""
  kernel = np.asarray(_random(*shape))
  blur = mirrored_blur(symmetric_part(kernel), grid)
  (values,) = REFLECTING.transfer(jnp.asarray(kernel), *grid)
  error = np.abs(_matrix(REFLECTING, values, grid) - blur)
  assert np.max(error) < _bound(1e-14, 1e-6) * np.abs(kernel).sum()


def test_the_mirror_is_the_one_of_scipy():
  kernel, image = symmetric_part(np.asarray(_random(3, 5))), np.asarray(_random(6, 7, seed=1))
  expected = scipy.ndimage.correlate(image, kernel, mode='reflect')
  blur = mirrored_blur(kernel, image.shape)
  np.testing.assert_allclose((blur @ image.ravel()).reshape(image.shape), expected, atol=1e-6)


@BASES
@EACH_GRID
@pytest.mark.few(5)
def test_transforms_are_orthonormal(basis: spectral.Basis, grid: tuple[int, int]):
  image = _random(*grid, 2)
  spectrum = basis.forward(image)
  weights = basis.weights(grid[1])
  assert weights.shape == (basis.columns(grid[1]),)
  assert weights.sum() == grid[1]
  total = np.sum(weights[:, None] * np.asarray(spectral.power(spectrum), np.float64))
  assert total == pytest.approx(np.sum(np.square(image, dtype=np.float64)), rel=_bound(1e-14, 1e-6))
  back = basis.inverse(spectrum, grid[1])
  np.testing.assert_allclose(back, image, atol=_bound(1e-14, 1e-6))


@BASES
@EACH_GRID
@pytest.mark.few(5)
def test_modes_are_the_eigenvectors(basis: spectral.Basis, grid: tuple[int, int]):
  """Of any values, made symmetric: eigenpairs, diagonal and symmetry of their matrix."""
  height, width = grid
  values = basis.symmetric(_random(height, basis.columns(width), 1), width)
  matrix = _matrix(basis, values[..., 0], grid)
  assert np.max(np.abs(matrix - matrix.T)) < _bound(1e-14, 2e-6)
  rows, columns = jnp.divmod(jnp.arange(height * width), width)
  modes = np.asarray(basis.modes(rows, columns, height, width), np.float64).reshape(len(matrix), -1)
  np.testing.assert_allclose(modes @ modes.T, np.eye(len(modes)), atol=_bound(1e-13, 1e-5))
  unfolded = np.asarray(basis.unfold(values, width)).reshape(-1)
  np.testing.assert_allclose(modes.T @ np.diag(unfolded) @ modes, matrix, atol=_bound(1e-13, 1e-5))
  diagonal = np.asarray(basis.diagonal(values, width)).reshape(-1)
  np.testing.assert_allclose(diagonal, np.diag(matrix), atol=_bound(1e-13, 1e-5))


@pytest.mark.x64
@BASES
@EACH_GRID
@pytest.mark.few(5)
def test_a_blur_is_symmetric_already(basis: spectral.Basis, grid: tuple[int, int]):
  power = spectral.power(basis.transfer(_random(3, 4), *grid))
  np.testing.assert_allclose(basis.symmetric(power, grid[1]), power, atol=_bound(1e-12, 1e-5))


@pytest.mark.x64
@BASES
def test_float32_transfer_of_a_large_kernel(basis: spectral.Basis):
  """Each frequency within a few roundings of the kernel's sum, where an FFT has them of its image."""
  kernel = np.abs(np.random.default_rng(0).normal(size=(41, 41)))
  kernel = (kernel / kernel.sum()).astype(np.float32)
  single = basis.transfer(jnp.asarray(kernel), 256, 256)
  double = basis.transfer(jnp.asarray(kernel, jnp.float64), 256, 256)
  for one, other in zip(single, double, strict=True):
    assert one.dtype == jnp.float32
    assert np.max(np.abs(np.asarray(one, np.float64) - np.asarray(other))) < 4e-7


@pytest.mark.x64
@BASES
def test_a_removed_frequency_has_a_gradient(basis: spectral.Basis):
  """|F|^2 of a kernel of zeros: its derivative is 0, not NaN."""
  gradient = jax.grad(lambda kernel: jnp.sum(spectral.power(basis.transfer(kernel, 4, 4))))
  np.testing.assert_array_equal(gradient(jnp.zeros((3, 3))), 0)
