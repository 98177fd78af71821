"""How close images come to the ones they should be: squared error and PSNR, compared image by image.

Letters: N images; H W C image height, width, channels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs.evaluation import likelihood, results

RANGE = 2.0  # of pixels in [-1, 1]


def mean_squared_error(found: np.ndarray, true: np.ndarray) -> np.ndarray:
  """Mean squared error of each image over its pixels and channels, [N] float64, in squared units.

  Raises:
    ValueError: if the two are not of the same shape.
  """
  if found.shape != true.shape:
    raise ValueError(
      f'The images and the true ones differ in shape: {found.shape} and {true.shape}.'
    )
  difference = np.asarray(found, np.float64) - np.asarray(true, np.float64)
  return np.mean(np.square(difference), axis=tuple(range(1, difference.ndim)))


def peak_signal_to_noise(found: np.ndarray, true: np.ndarray) -> np.ndarray:
  """PSNR of each image, [N] float64, decibels: 10 log10 of range^2 / MSE, the range being 2."""
  with np.errstate(divide='ignore'):
    return 10 * np.log10(RANGE**2 / mean_squared_error(found, true))


def comparison(
  methods: Mapping[str, np.ndarray], true: np.ndarray, against: str
) -> tuple[str, dict[str, Any]]:
  """Compares restored images with the true ones: a Markdown table, and the same for JSON.

  Args:
    methods: by the method's name, its images [N, H, W, C], pixels in [-1, 1].
    true: [N, H, W, C].
    against: the method that the others are compared with, image by image.

  Returns:
    The table, with mean and standard error, and nested dictionaries of summaries.
  """
  errors = {name: mean_squared_error(images, true) for name, images in methods.items()}
  ratios = {name: peak_signal_to_noise(images, true) for name, images in methods.items()}
  lines = [[f'mean over {len(true)} images', 'PSNR, dB', '1000 MSE', f'1000 MSE - {against}']]
  tree: dict[str, Any] = {}
  for name in methods:
    decibels, squared = (likelihood.summarize(values[name]) for values in (ratios, errors))
    difference = likelihood.paired_difference(errors[name], errors[against])
    cells = [_cell(decibels, 2), _cell(squared, 3, 1000)]
    lines.append([name, *cells, '' if name == against else _cell(difference, 3, 1000)])
    tree[name] = {
      'psnr_db': decibels._asdict(),
      'mse': squared._asdict(),
      f'mse_minus_{against}': difference._asdict(),
    }
  return results.markdown_table(lines), tree


def write(directory: Path, table: str, tree: Mapping[str, Any], about: str) -> Path:
  """Writes report.md and scores.json; returns the path of the report."""
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'scores.json').write_text(results.strict_json(tree))
  path = directory / 'report.md'
  path.write_text(f'# Denoising\n\n{about}\n\n{table}\n')
  return path


def _cell(summary: likelihood.Summary, decimals: int, factor: float = 1.0) -> str:
  return f'{factor * summary.mean:.{decimals}f} ± {factor * summary.standard_error:.{decimals}f}'
