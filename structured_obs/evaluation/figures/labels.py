"""What figures say about their images: titles with model, step and data, and the PSNR under an image."""

from collections.abc import Sequence

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation.metrics import image_errors
from structured_obs.runs.trained import Trained


def title(what: str, models: Sequence[Trained], source: str = '') -> str:
  """Returns the title of a figure of models of one source; `source` replaces the name of it."""
  names = ', '.join(f'{trained.name} (step {trained.step})' for trained in models)
  return f'{what} of {source or models[0].spec.source}: {names}'


def scored_row(name: str, images: np.ndarray, clean: np.ndarray | None) -> plotting.Row:
  """Returns a row of images [N, H, W, C], with the PSNR under each, in dB, where `clean` is known."""
  if clean is None:
    return plotting.Row(name, images)
  ratios = image_errors.peak_signal_to_noise(images, clean)
  return plotting.Row(name, images, captions=tuple(f'{ratio:.1f}' for ratio in ratios))
