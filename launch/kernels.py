"""Draws how the blur kernels of a few test images changed during a training, and reports their widths.

  python -m launch.kernels --workdir=runs/blur/blur_vae --images=4

The figure has one row per checkpoint that the run has kept; `train.keep` and `train.checkpoint_every`
determine their number. Writes kernels.png and prints the table.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
Figure 2.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from launch import common_flags, flags
from structured_obs.data import pixels
from structured_obs.evaluation.figures import kernel_development
from structured_obs.runs import checkpoint, restore

_RUN = common_flags.Run(checkpoint=False)
_IMAGES = flags.define_integer('images', 4, 'Test images to draw.', 1)
_MEASURED = flags.define_integer('measured', 256, 'Test images whose kernels to measure.', 1)
_OUT = flags.define_path('out', '', 'PNG file; WORKDIR/figures/kernels.png by default.')


def main(arguments: Sequence[str]) -> None:
  """Draws the kernels of a run."""
  del arguments
  steps = checkpoint.steps_in(Path(_RUN.workdir) / checkpoint.CHECKPOINTS)
  if not steps:
    raise FileNotFoundError(f'{_RUN.workdir} has no checkpoints; train it first.')
  opened = [restore.load(_RUN.workdir, step) for step in steps]
  trained, prepared = opened[0]
  images = np.asarray(prepared.images['test'][: max(_MEASURED.value, _IMAGES.value)])
  moments = [kernel_development.at(one, images) for one, _ in opened]
  print(kernel_development.table(moments))
  shown = images[: _IMAGES.value]
  few = [
    moment._replace(kernels=moment.kernels[: len(shown)], means=moment.means[: len(shown)])
    for moment in moments
  ]
  path = Path(_OUT.value or Path(_RUN.workdir) / 'figures' / 'kernels.png')
  original = pixels.to_unit(shown, trained.spec.levels)[..., : trained.spec.channels]
  print(f'\nfigure  {kernel_development.draw(path, few, np.asarray(original))}')


if __name__ == '__main__':
  flags.run(main)
