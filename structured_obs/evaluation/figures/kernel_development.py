"""Shows how the blur kernels of a few images change over training, as in Figure 2 of the paper.

Letters: N images; T checkpoints; k size of a kernel; H W C image height, width, channels.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from structured_obs import plotting
from structured_obs.data import pixels
from structured_obs.evaluation import finite, tables
from structured_obs.runs.trained import Trained


class Moment(NamedTuple):
  """Kernels and reconstructions at one checkpoint."""

  step: int
  kernels: np.ndarray  # [N, k, k]; kernels by channel are averaged
  means: np.ndarray  # [N, H, W, C]


def at(trained: Trained, images: np.ndarray) -> Moment:
  """Returns kernels at the means of q(z|x) of stored images [N, H, W, C], and the means of p(x|z).

  Raises:
    ValueError: the model's covariances have no blur kernel.
  """
  x = pixels.to_unit(images, trained.spec.levels)
  found = np.asarray(trained.blur_kernels(x))
  found = found if found.ndim == 3 else found.mean(axis=-1)
  return Moment(trained.step, found, reconstruct(trained, images))


def reconstruct(trained: Trained, images: np.ndarray) -> np.ndarray:
  """Returns means of p(x|z) at the means of q(z|x) of stored images. [N, H, W, C]."""
  params = trained.reconstruct(pixels.to_unit(images, trained.spec.levels))
  return np.asarray(jax.vmap(trained.model.family.mean)(params))


def width(kernels: np.ndarray) -> np.ndarray:
  """Returns the root mean square distance of a kernel's taps from their centroid, in pixels.

  Kernels are [..., k, k]. Taps are weighted by their magnitude; a single tap has width 0.
  """
  weight = np.abs(np.asarray(kernels, np.float64))
  with np.errstate(invalid='ignore'):  # a kernel that is 0 or not finite gives NaN
    weight = weight / weight.sum(axis=(-2, -1), keepdims=True)
  rows, columns = np.mgrid[: kernels.shape[-2], : kernels.shape[-1]]
  centred = [axis - (weight * axis).sum(axis=(-2, -1), keepdims=True) for axis in (rows, columns)]
  return np.sqrt((weight * (centred[0] ** 2 + centred[1] ** 2)).sum(axis=(-2, -1)))


def table(moments: Sequence[Moment]) -> str:
  """Returns the width of the kernels and how much they differ between images, by step, as Markdown."""
  rows = [['step', 'width of kernels, pixels', 'its sd over images', 'central tap', 'taps differ by']]
  for moment in moments:
    widths, kernels = width(moment.kernels), moment.kernels
    middle = kernels[:, kernels.shape[1] // 2, kernels.shape[2] // 2]
    # Distance between two images' kernels, relative to the size of one.
    spread = np.sqrt(np.sum(np.var(kernels, axis=0)) / np.sum(np.mean(kernels**2, axis=0)))
    cells = (f'{widths.mean():.3f}', f'{widths.std():.3f}', f'{middle.mean():.3f}', f'{spread:.3f}')
    rows.append([str(moment.step), *cells])
  bad = finite.sentences({f'step {moment.step}: kernels': moment.kernels for moment in moments})
  return tables.paragraphs(tables.markdown_table(rows), bad)


def draw(path: Path, moments: Sequence[Moment], images: np.ndarray) -> Path:
  """Draws images [N, H, W, C] in [-1, 1], and below them kernels and means at every checkpoint."""
  rows = [plotting.Row('image', images)]
  for moment in moments:
    limit = float(np.max(moment.kernels, where=np.isfinite(moment.kernels), initial=0))
    kernels = moment.kernels[..., None]
    rows.append(plotting.Row(f'kernel, step {moment.step}', kernels, 'size', limit=limit))
    rows.append(plotting.Row(f'mean, step {moment.step}', moment.means))
  return plotting.image_rows(path, rows, title='Blur kernels over training')
