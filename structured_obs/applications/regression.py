"""Regressions from small images to large ones: what a model of super-resolution has to beat.

Both learn from training images and know nothing of a distribution. `local_linear` predicts each pixel of
a block by one linear map of the 5 x 5 small pixels around it, and so works at any size. `kernel_ridge`
is a Gaussian process's mean given the whole small image, which few images suffice to learn where these
are tiny. Width and penalty of its kernel are chosen on a fifth of the training images.

Letters: N images; H W C image height, width, channels; h w c those of the small ones; f factor.
"""

import itertools
from collections.abc import Callable

import numpy as np

Upscale = Callable[[np.ndarray], np.ndarray]  # [N, h, w, c] -> [N, H, W, C], in [-1, 1]

WINDOW = 5  # small pixels across, which a large one is predicted from
IMAGES = 2000  # training images that are used
CHUNK = 200  # images whose windows are in memory at a time
RIDGE = 1e-6  # penalty of the linear maps, of the mean square of a feature
MOST_VALUES = 256  # of a small image that kernel ridge regression is offered for
WIDTHS = (0.5, 1.0, 2.0)  # of the kernel, in median distances of two images
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the kernel's variance


def local_linear(y: np.ndarray, x: np.ndarray) -> Upscale:
  """Returns the linear regression of each pixel of a block on the small pixels around it.

  Args:
    y: [N, h, w, c], small images; the first IMAGES are used.
    x: [N, H, W, C], their large ones.
  """
  y, x = y[:IMAGES], x[:IMAGES]
  (rows, columns), channels = (x.shape[1] // y.shape[1], x.shape[2] // y.shape[2]), x.shape[-1]
  size = WINDOW**2 * y.shape[-1] + 1
  gram, moments = np.zeros((size, size)), np.zeros((size, rows * columns * channels))
  for first in range(0, len(y), CHUNK):
    part = slice(first, first + CHUNK)
    seen = _windows(y[part])
    gram += seen.T @ seen
    moments += seen.T @ _blocks(x[part], rows, columns)
  gram[np.diag_indices(size)] += RIDGE * np.trace(gram) / size
  weights = np.linalg.solve(gram, moments)

  def upscale(small: np.ndarray) -> np.ndarray:
    number, height, width, _ = small.shape
    found = np.concatenate([_windows(small[i : i + CHUNK]) @ weights for i in range(0, number, CHUNK)])
    cut = found.reshape(number, height, width, rows, columns, channels).transpose(0, 1, 3, 2, 4, 5)
    return np.clip(cut.reshape(number, height * rows, width * columns, channels), -1, 1)

  return upscale


def kernel_ridge(y: np.ndarray, x: np.ndarray) -> Upscale | None:
  """Returns the kernel ridge regression on whole small images, with a Gaussian kernel.

  Args:
    y: [N, h, w, c], small images; the first IMAGES are used.
    x: [N, H, W, C], their large ones.

  Returns:
    None where a small image has more than MOST_VALUES values, or there are too few to choose by.
  """
  y, x = y[:IMAGES], x[:IMAGES]
  if y[0].size > MOST_VALUES or len(y) < 10:
    return None
  seen, shape = y.reshape(len(y), -1).astype(np.float64), x.shape[1:]
  wanted = x.reshape(len(x), -1).astype(np.float64)
  centre, held = wanted.mean(axis=0), len(y) // 5
  unit = float(np.median(_square_distances(seen[:held], seen[held:])))
  if not unit > 0:
    return None
  fits = {}
  for width in WIDTHS:
    near = _kernel(seen[held:], seen[held:], width**2 * unit)
    across = _kernel(seen[:held], seen[held:], width**2 * unit)
    values, vectors = np.linalg.eigh(near)
    projected = vectors.T @ (wanted[held:] - centre)
    for penalty in PENALTIES:
      found = across @ (vectors @ (projected / (np.maximum(values, 0) + penalty)[:, None])) + centre
      fits[width, penalty] = float(np.mean(np.square(found - wanted[:held])))
  width, penalty = min(itertools.product(WIDTHS, PENALTIES), key=fits.__getitem__)
  near = _kernel(seen, seen, width**2 * unit) + penalty * np.eye(len(seen))
  weights = np.linalg.solve(near, wanted - centre)

  def upscale(small: np.ndarray) -> np.ndarray:
    across = _kernel(small.reshape(len(small), -1).astype(np.float64), seen, width**2 * unit)
    return np.clip((across @ weights + centre).reshape(len(small), *shape), -1, 1)

  return upscale


def _windows(y: np.ndarray) -> np.ndarray:
  """Returns the values around each small pixel, and a 1. [N h w, WINDOW^2 c + 1]."""
  around = WINDOW // 2
  padded = np.pad(y.astype(np.float64), ((0, 0), (around, around), (around, around), (0, 0)), 'edge')
  cut = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW), axis=(1, 2))
  flat = cut.reshape(-1, WINDOW**2 * y.shape[-1])
  return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)


def _blocks(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Returns the values of each block of a large image. [N h w, rows columns C]."""
  number, height, width, channels = x.shape
  cut = x.reshape(number, height // rows, rows, width // columns, columns, channels)
  return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns * channels).astype(np.float64)


def _square_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns the square distance of each row of a from each of b. [rows of a, rows of b]."""
  squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None]
  return np.maximum(squares - 2 * a @ b.T, 0)


def _kernel(a: np.ndarray, b: np.ndarray, square_width: float) -> np.ndarray:
  """Returns the Gaussian kernel of the rows of a and b, with a variance of 1."""
  return np.exp(-_square_distances(a, b) / (2 * square_width))
