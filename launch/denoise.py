"""Removes white noise from images with a trained model, and reports the errors.

  python -m launch.denoise --workdir=runs/vae --sigma=0.1
  python -m launch.denoise --workdir=runs/vae --sigma=0.1 --compare=runs/vae_diagonal,runs/denoiser
  python -m launch.denoise --workdir=runs/vae --sigma=0.1 --files=one.png,two.jpg --noisy

Adds noise of --sigma, in units of pixels in [-1, 1], to images of the test split or to --files. With
--noisy the files are used as they are and are not scored. Methods: the posterior mean under p(x|z),
with z from the noisy image; the same with z from the first estimate (--refinements=1); the paper's
projection on --components eigenvectors, and on the number that is best for --best_components validation
images (both take seconds per image of 64x64); and the linear filter by the covariance of the training
images, for images of at most 8,192 values. Each run of --compare denoises by its posterior mean, or by
its network if it was trained to denoise (--config.model.kind=denoiser, or an autoencoder's option
input_noise); a denoiser as --workdir has no methods that need a model of images.

Prints a table of PSNR, MSE and parameters with paired differences from the posterior mean, and the
noise that networks were trained on, and writes report.md,
scores.json, images.npz and a figure into WORKDIR/denoising, or --output.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from launch import common_flags, flags
from structured_obs.applications import denoise, denoising, linear_filter, subject
from structured_obs.data import pixels
from structured_obs.models import vae

_RUN = common_flags.Run(seed='Seed of the noise.', output=True)
_SIGMA = flags.define_float('sigma', 0.1, 'Standard deviation of the noise; pixels in [-1, 1].')
_COMPARE = flags.define_paths('compare', 'Directories of other runs, separated by commas.')
_NUM_IMAGES = flags.define_integer('num_images', 32, 'Use only the first N images; 0 for all.', 0)
_REFINEMENTS = flags.define_integer('refinements', 0, 'How often an estimate is encoded again.', 0)
_PROJECTION = absl_flags.DEFINE_bool(
  'projection', True, 'Whether to include the projection of the paper.'
)
_FILTER = absl_flags.DEFINE_bool(
  'linear_filter', True, 'Whether to include the linear filter of the training images.'
)
_COMPONENTS = flags.define_integer(
  'components', 0, 'Eigenvectors of the projection; 0 for 1000 at 64x64, in proportion.', 0
)
_BEST = flags.define_integer(
  'best_components', 0, 'Validation images that choose the best --components.', 0
)
_FILES = flags.define_paths('files', 'Image files, instead of the test split.')
_NOISY = absl_flags.DEFINE_bool('noisy', False, 'The files already have noise.')


def main(arguments: Sequence[str]) -> None:
  """Denoises the images that the flags select."""
  del arguments
  if _NOISY.value and not _FILES.value:
    raise ValueError('--noisy applies to image files; name them with --files.')
  settings = denoising.Settings(
    _SIGMA.value, _REFINEMENTS.value, _PROJECTION.value, _COMPONENTS.value, _RUN.seed
  )
  trained, prepared = _RUN.open()
  denoising.check(trained, settings)
  if _FILES.value:
    clean = pixels.to_unit(subject.read_files(trained, _FILES.value), 256)
  else:
    images = prepared.images['test'][: _NUM_IMAGES.value or None]
    clean = pixels.to_unit(images, trained.spec.levels)
  noisy = clean if _NOISY.value else denoise.add_noise(_RUN.key, clean, settings.sigma)
  validation = prepared.images['validation'][: _BEST.value]
  found = denoising.methods(trained, noisy, settings, validation)
  own = vae.num_parameters(trained.variables)
  parameters = {name: own for name in found if name != denoising.DEVIATION}
  found, notes = {'noisy': np.asarray(noisy), **found}, [denoising.noise_note(trained, settings)]
  for workdir in _COMPARE.value:
    other = _RUN.open_other(workdir)
    found[other.name] = denoising.other(other, trained, noisy, settings)
    parameters[other.name] = vae.num_parameters(other.variables)
    notes.append(denoising.noise_note(other, settings))
  if _FILTER.value and trained.model.image.size > linear_filter.LARGEST:
    notes.append(f'The linear filter is left out: images have more than {linear_filter.LARGEST} values.')
  elif _FILTER.value:
    train, name = prepared.images['train'], denoising.FILTER
    found[name], parameters[name] = denoising.filtered(trained, train, noisy, settings)
  output, scored = _RUN.directory('denoising'), None if _NOISY.value else np.asarray(clean)
  about = denoising.About(parameters, ' '.join(filter(None, notes)))
  print(denoising.write(output, trained, found, scored, settings, about))


if __name__ == '__main__':
  flags.run(main)
