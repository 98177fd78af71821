"""Draws how the blur kernels of a few test images changed over a training, and tells their widths.

  python -m launch.kernels --workdir=runs/blur/blur_vae --images=4

One row for each checkpoint that the run has kept, so that `train.keep` and `train.checkpoint_every`
decide how many. Writes kernels.png and prints the table.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
Figure 2.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from launch import flags
from structured_obs.data import pixels
from structured_obs.evaluation.figures import kernel_development
from structured_obs.runs import checkpoint, restore

_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_IMAGES = flags.define_integer('images', 4, 'Test images that are drawn.', 1)
_MEASURED = flags.define_integer('measured', 256, 'Test images whose kernels are measured.', 1)
_OUT = flags.define_path('out', '', 'PNG file; WORKDIR/figures/kernels.png without it.')


def main(arguments: Sequence[str]) -> None:
  """Draws what the flags name."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run.')
  steps = checkpoint.steps_in(Path(_WORKDIR.value) / checkpoint.CHECKPOINTS)
  if not steps:
    raise FileNotFoundError(f'{_WORKDIR.value} has no checkpoints.')
  opened = [restore.load(_WORKDIR.value, step) for step in steps]
  trained, prepared = opened[0]
  images = np.asarray(prepared.images['test'][: max(_MEASURED.value, _IMAGES.value)])
  moments = [kernel_development.at(one, images) for one, _ in opened]
  print(kernel_development.table(moments))
  shown = images[: _IMAGES.value]
  few = [
    moment._replace(kernels=moment.kernels[: len(shown)], means=moment.means[: len(shown)])
    for moment in moments
  ]
  path = Path(_OUT.value or Path(_WORKDIR.value) / 'figures' / 'kernels.png')
  original = pixels.to_unit(shown, trained.spec.levels)[..., : trained.spec.channels]
  print(f'\nfigure  {kernel_development.draw(path, few, np.asarray(original))}')


if __name__ == '__main__':
  flags.run(main)
