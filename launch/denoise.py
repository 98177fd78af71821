"""Removes white noise from images with a trained model, and says how well it did.

  python -m launch.denoise --workdir=runs/vae --sigma=0.1
  python -m launch.denoise --workdir=runs/vae --sigma=0.1 --compare=runs/vae_diagonal,runs/dae
  python -m launch.denoise --workdir=runs/vae --sigma=0.1 --files=one.png,two.jpg --noisy

Noise of --sigma, in units of pixels in [-1, 1], is added to images of the test split, or to --files;
with --noisy these are taken as they are, and nothing can be scored. The methods: the posterior mean
under p(x|z), z from the noisy image; the same with z from the first guess (--refinements=1); the paper's
projection on --components eigenvectors, and on as many as serve --best_components validation images best
(both take seconds an image of 64x64). Each run of --compare denoises by its posterior mean, or by its
plain reconstruction where it is an autoencoder trained for that (model.input_noise).

Prints a table of PSNR and MSE with paired differences from the posterior mean, and writes report.md,
scores.json, images.npz and a picture into WORKDIR/denoising, or --output.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags as absl_flags

from launch import flags
from structured_obs.applications import denoise, denoising, subject
from structured_obs.data import pixels
from structured_obs.runs import restore

_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_CHECKPOINT = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
_SIGMA = flags.define_float('sigma', 0.1, 'Standard deviation of the noise; pixels in [-1, 1].')
_COMPARE = flags.define_paths('compare', 'Directories of other runs, between commas.')
_NUM_IMAGES = flags.define_integer('num_images', 32, 'Use only the first N images; 0 for all.', 0)
_REFINEMENTS = flags.define_integer('refinements', 0, 'How often a guess is encoded again.', 0)
_PROJECTION = absl_flags.DEFINE_bool('projection', True, 'Whether to project, as the paper does.')
_COMPONENTS = flags.define_integer('components', 0, '0: 1000 for 64x64, in proportion.', 0)
_BEST = flags.define_integer('best_components', 0, 'Validation images to choose k on.', 0)
_FILES = flags.define_paths('files', 'Image files, instead of the test split.')
_NOISY = absl_flags.DEFINE_bool('noisy', False, 'The files are noisy already.')
_SEED = flags.define_integer('seed', 0, 'Of the noise.', 0)
_OUTPUT = flags.define_path('output', '', 'Directory to write to.')


def main(arguments: Sequence[str]) -> None:
  """Denoises what the flags name."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run to denoise with.')
  if _NOISY.value and not _FILES.value:
    raise ValueError('--noisy is about image files; name them with --files.')
  settings = denoising.Settings(
    _SIGMA.value, _REFINEMENTS.value, _PROJECTION.value, _COMPONENTS.value, _SEED.value
  )
  trained, prepared = restore.load(_WORKDIR.value, _CHECKPOINT.value)
  denoising.check(trained, settings)
  if _FILES.value:
    clean = pixels.to_unit(subject.read_files(trained, _FILES.value), 256)
  else:
    images = prepared.images['test'][: _NUM_IMAGES.value or None]
    clean = pixels.to_unit(images, trained.spec.levels)
  key = jax.random.key(settings.seed)
  noisy = clean if _NOISY.value else denoise.add_noise(key, clean, settings.sigma)
  validation = prepared.images['validation'][: _BEST.value]
  found = denoising.methods(trained, noisy, settings, validation)
  found = {'noisy': np.asarray(noisy), **found}
  for workdir in _COMPARE.value:
    other, _ = restore.load(workdir, _CHECKPOINT.value)
    found[other.name] = denoising.other(other, trained, noisy, settings)
  output = Path(_OUTPUT.value or Path(_WORKDIR.value) / 'denoising')
  print(denoising.write(output, trained, found, None if _NOISY.value else np.asarray(clean), settings))


if __name__ == '__main__':
  flags.run(main)
