"""Makes large images of small ones with a trained srVAE, and says how well it did.

  python -m launch.super_resolve --workdir=runs/sr_vae
  python -m launch.super_resolve --workdir=runs/sr_vae --files=one.png,two.jpg
  python -m launch.super_resolve --workdir=runs/sr_vae --files=thumbnail.png --small

Images of the test split, or --files cut and resized to the model's size, are made small as in training
and large again; with --small the files are the small images themselves, of any one size, and there is no
truth. Beside the model's samples stand the mean of many and interpolation by no model. With
--sample_mode=mode a sample is the mode of p(x|y, z), as in the paper's figures.

Prints PSNR with paired differences from bilinear interpolation, and how far an image made small again is
from the one given. Writes super_resolution.png, images.npz, report.md and scores.json into
WORKDIR/super_resolution, or --output.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags as absl_flags

from launch import flags
from structured_obs.applications import subject, super_resolve
from structured_obs.data import pixels
from structured_obs.distributions.base import ImageShape
from structured_obs.models import intermediate_images
from structured_obs.runs import restore

_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_CHECKPOINT = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
_NUM_IMAGES = flags.define_integer('num_images', 64, 'Use only the first N images; 0 for all.', 0)
_SAMPLES = flags.define_integer('samples', 8, 'Draws of the latents of each image.', 1)
_MODE = absl_flags.DEFINE_enum(
  'sample_mode', 'sample', intermediate_images.SAMPLE_MODES, 'How to draw an image.'
)
_FILES = flags.define_paths('files', 'Image files, instead of the test split.')
_SMALL = absl_flags.DEFINE_bool('small', False, 'The files are small images themselves.')
_BATCH_SIZE = flags.define_integer('batch_size', 64, 'Images at a time.', 1)
_SEED = flags.define_integer('seed', 0, 'Of all that is drawn.', 0)
_OUTPUT = flags.define_path('output', '', 'Directory to write to.')


def main(arguments: Sequence[str]) -> None:
  """Resolves what the flags name."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run to resolve with.')
  if _SMALL.value and not _FILES.value:
    raise ValueError('--small is about image files; name them with --files.')
  settings = super_resolve.Settings(_SAMPLES.value, _MODE.value, _BATCH_SIZE.value, _SEED.value)
  trained, prepared = restore.load(_WORKDIR.value, _CHECKPOINT.value)
  super_resolve.check(trained.model)
  if _SMALL.value:
    y = super_resolve.read_small(trained, _FILES.value)
    trained, truth = super_resolve.of_any_size(trained, ImageShape(*y.shape[1:])), None
  else:
    stored = prepared.images['test'][: _NUM_IMAGES.value or None]
    x = np.asarray(pixels.to_unit(stored, trained.spec.levels))
    if _FILES.value:
      x = super_resolve.on_grid(trained, subject.read_files(trained, _FILES.value))
    y, truth = super_resolve.compress(trained, x), x
  found = super_resolve.resolve(trained, y, settings)
  output = Path(_OUTPUT.value or Path(_WORKDIR.value) / 'super_resolution')
  title = f'{trained.name}, step {trained.step}'
  print(super_resolve.write(output, title, found, truth))


if __name__ == '__main__':
  flags.run(main)
