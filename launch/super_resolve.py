"""Enlarges small images with a trained srVAE, and reports the errors.

  python -m launch.super_resolve --workdir=runs/sr_vae
  python -m launch.super_resolve --workdir=runs/sr_vae --files=one.png,two.jpg
  python -m launch.super_resolve --workdir=runs/sr_vae --files=thumbnail.png --small

Images of the test split, or --files cut and resized to the model's size, are shrunk as in training and
enlarged again. With --small the files are small images themselves, all of one size, and are not scored.
The model's samples are shown beside the mean of many, interpolations without a model, and regressions on
training images: a linear one from 5 x 5 small pixels, and for small images of at most 256 values kernel
ridge regression. With --sample_mode=mode a sample is the mode of p(x|y, z), as in the paper's figures.
--nopixel_noise leaves the floor of independent pixel noise out of samples, in families that have one.

Prints PSNR with paired differences from bilinear interpolation, and the error between the small image
and the result shrunk again. Writes super_resolution.png, images.npz, report.md and scores.json into
WORKDIR/super_resolution, or --output.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from launch import common_flags, flags
from structured_obs.applications import regression, subject, super_resolve
from structured_obs.data import pixels
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.figures import labels
from structured_obs.models import intermediate_images

_RUN = common_flags.Run(seed='Seed of everything that is drawn.', output=True, pixel_noise=True)
_NUM_IMAGES = flags.define_integer('num_images', 64, 'Use only the first N images; 0 for all.', 0)
_SAMPLES = flags.define_integer('samples', 8, 'Draws of the latents per image.', 1)
_MODE = absl_flags.DEFINE_enum(
  'sample_mode', 'sample', intermediate_images.SAMPLE_MODES, 'How to draw an image.'
)
_FILES = flags.define_paths('files', 'Image files, instead of the test split.')
_SMALL = absl_flags.DEFINE_bool('small', False, 'The files are small images themselves.')
_BATCH_SIZE = flags.define_integer('batch_size', 64, 'Images at a time.', 1)


def main(arguments: Sequence[str]) -> None:
  """Enlarges the images that the flags select."""
  del arguments
  if _SMALL.value and not _FILES.value:
    raise ValueError('--small applies to image files; name them with --files.')
  settings = super_resolve.Settings(
    _SAMPLES.value, _MODE.value, _BATCH_SIZE.value, _RUN.seed, _RUN.pixel_noise
  )
  trained, prepared = _RUN.open()
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
  learnt = {}
  if truth is not None:
    stored = prepared.images['train'][: regression.IMAGES]
    learnt = super_resolve.regressions(trained, np.asarray(pixels.to_unit(stored, trained.spec.levels)))
  found = super_resolve.resolve(trained, y, settings, learnt)
  output = _RUN.directory('super_resolution')
  title = labels.title('Super-resolution', [trained], 'files' if _FILES.value else '')
  print(super_resolve.write(output, title, found, truth))


if __name__ == '__main__':
  flags.run(main)
