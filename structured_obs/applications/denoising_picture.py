"""The picture of a denoising: every method, with the PSNR under each image.

Letters: N images; H W C image height, width, channels.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation.figures import labels
from structured_obs.runs.trained import Trained

POSTERIOR = 'posterior mean'
NETWORK = 'denoiser'
DEVIATION = 'its standard deviation'  # of POSTERIOR, or of NETWORK; drawn below it
SHOWN = 8  # images in the figure


def draw(
  path: Path,
  trained: Trained,
  found: Mapping[str, np.ndarray],
  clean: np.ndarray | None,
  sigma: float,
) -> Path:
  """Draws a row per method.

  Args:
    path: of the PNG file.
    trained: the run that the picture is about.
    found: images [N, H, W, C] by the method's name; `DEVIATION` is that of the last `POSTERIOR` or
      `NETWORK`.
    clean: [N, H, W, C]; None if unknown.
    sigma: standard deviation of the noise.
  """
  rows = [] if clean is None else [plotting.Row('original', clean[:SHOWN])]
  owner = [name for name in found if name.startswith((POSTERIOR, NETWORK))][-1:]  # the refined one
  for name, images in found.items():
    if name == DEVIATION:
      continue
    known = None if clean is None else clean[:SHOWN]
    rows.append(labels.scored_row(name.replace(', ', ',\n'), images[:SHOWN], known))
    if [name] == owner and DEVIATION in found:
      label = 'standard deviation\nof the ' + name.replace(', ', ',\n')
      rows.append(plotting.Row(label, found[DEVIATION][:SHOWN], 'size'))
  title = labels.title(f'Denoising (noise {sigma:g})', [trained])
  title += '' if clean is None else '; PSNR in dB'
  return plotting.image_rows(path, rows, title=title)
