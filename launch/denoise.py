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
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from launch import flags
from structured_obs import plotting
from structured_obs.applications import denoise
from structured_obs.data import decode
from structured_obs.evaluation import image_quality, views
from structured_obs.evaluation.results import Trained
from structured_obs.train import finished

_WORKDIR = absl_flags.DEFINE_string('workdir', '', 'Directory of the run.')
_CHECKPOINT = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
_SIGMA = absl_flags.DEFINE_float('sigma', 0.1, 'Standard deviation of the noise; pixels in [-1, 1].')
_COMPARE = absl_flags.DEFINE_list('compare', [], 'Directories of other runs, between commas.')
_NUM_IMAGES = absl_flags.DEFINE_integer('num_images', 32, 'The first so many; 0 for all.', 0)
_REFINEMENTS = absl_flags.DEFINE_integer('refinements', 0, 'How often a guess is encoded again.', 0)
_PROJECTION = absl_flags.DEFINE_bool('projection', True, 'Whether to project, as the paper does.')
_COMPONENTS = absl_flags.DEFINE_integer('components', 0, '0: 1000 for 64x64, in proportion.', 0)
_BEST = absl_flags.DEFINE_integer('best_components', 0, 'Validation images to choose k on.', 0)
_FILES = absl_flags.DEFINE_list('files', [], 'Image files, in the place of the test split.')
_NOISY = absl_flags.DEFINE_bool('noisy', False, 'The files are noisy already.')
_SEED = absl_flags.DEFINE_integer('seed', 0, 'Of the noise.', 0)
_OUTPUT = absl_flags.DEFINE_string('output', '', 'Directory to write to.')

POSTERIOR = 'posterior mean'
DEVIATION = 'its standard deviation'
SHOWN = 8  # images in the picture


def main(arguments: Sequence[str]) -> None:
  """Denoises what the flags name."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run to denoise with.')
  if _NOISY.value and not _FILES.value:
    raise ValueError('--noisy is about image files; name them with --files.')
  trained, prepared = finished.load(_WORKDIR.value, _CHECKPOINT.value)
  denoise.check(trained.model.family, _SIGMA.value)
  if _FILES.value:
    clean = views.to_float(_read_files(trained), 256)
  else:
    images = prepared.images['test'][: _NUM_IMAGES.value or None]
    clean = views.to_float(np.asarray(images), trained.spec.levels)
  key = jax.random.key(_SEED.value)
  noisy = clean if _NOISY.value else denoise.add_noise(key, clean, _SIGMA.value)
  methods = {'noisy': np.asarray(noisy), **_methods(trained, prepared, noisy)}
  for workdir in _COMPARE.value:
    other, _ = finished.load(workdir, _CHECKPOINT.value)
    methods[other.name] = _other(other, trained, noisy)
  output = Path(_OUTPUT.value or Path(_WORKDIR.value) / 'denoising')
  _write(output, trained, methods, None if _NOISY.value else np.asarray(clean))


def _methods(trained: Trained, prepared: Any, noisy: jax.Array) -> dict[str, np.ndarray]:
  """What the run itself makes of the noisy images, by the method's name."""
  model, variables, sigma = trained.model, trained.variables, _SIGMA.value
  first = denoise.posterior_mean(model, variables, noisy, sigma)
  found = {'reconstruction': first.reconstruction, POSTERIOR: first.mean}
  if _REFINEMENTS.value:
    again = denoise.posterior_mean(model, variables, noisy, sigma, _REFINEMENTS.value)
    found[f'{POSTERIOR}, refined {_REFINEMENTS.value}x'] = again.mean
    first = again
  if first.variance is not None:
    found[DEVIATION] = np.sqrt(np.maximum(first.variance, 0))
  if not _PROJECTION.value:
    return found
  counts = [_COMPONENTS.value or denoise.paper_components(model.image.size)]
  if _BEST.value:
    counts.append(_best_components(trained, prepared.images['validation'][: _BEST.value]))
  for k in counts:
    projected = denoise.projection(model, variables, noisy, k)
    found[f'projection on {k}'] = projected.mean
  return found


def _best_components(trained: Trained, images: np.ndarray) -> int:
  """How many eigenvectors give the least error on validation images with noise of their own."""
  clean = views.to_float(np.asarray(images), trained.spec.levels)
  noisy = denoise.add_noise(jax.random.key(_SEED.value + 1), clean, _SIGMA.value)
  size = trained.model.image.size
  errors = denoise.projection(trained.model, trained.variables, noisy, size, clean).errors
  assert errors is not None
  return int(np.argmin(errors.mean(axis=0))) + 1


def _other(other: Trained, first: Trained, noisy: jax.Array) -> np.ndarray:
  """What another run makes of the noisy images."""
  if other.model.image != first.model.image:
    raise ValueError(
      f'{other.workdir} is of images of {tuple(other.model.image)}, but {first.workdir} of '
      f'{tuple(first.model.image)}.'
    )
  if other.config.model.input_noise:
    return denoise.reconstruct(other.model, other.variables, noisy)
  return denoise.posterior_mean(other.model, other.variables, noisy, _SIGMA.value).mean


def _read_files(trained: Trained) -> np.ndarray:
  """Image files, cut to the model's size as its data were. [N, H, W, C] uint8."""
  config, spec = trained.config.data, trained.spec
  to = decode.Target(spec.height, spec.width, spec.channels, config.crop, config.resample)
  return np.stack([decode.fit(decode.decode(path, path), to) for path in _FILES.value])


def _write(
  output: Path, trained: Trained, methods: dict[str, np.ndarray], clean: np.ndarray | None
) -> None:
  deviation = methods.pop(DEVIATION, None)
  rows = [] if clean is None else [plotting.Row('original', clean[:SHOWN])]
  rows += [plotting.Row(name.replace(', ', ',\n'), x[:SHOWN]) for name, x in methods.items()]
  if deviation is not None:
    rows.append(plotting.Row('its standard\ndeviation', deviation[:SHOWN], 'size'))
  title = f'Denoising: {trained.name}, step {trained.step}, noise {_SIGMA.value:g}'
  plotting.image_rows(output / 'denoising.png', rows, title=title)
  arrays = {**methods, 'standard deviation': deviation, 'original': clean}
  arrays = {name: array for name, array in arrays.items() if array is not None}
  np.savez_compressed(output / 'images.npz', **arrays)  # type: ignore[arg-type]
  if clean is None:
    print(f'written to {output}: denoising.png, images.npz')
    return
  table, tree = image_quality.comparison(methods, clean, POSTERIOR)
  about = (
    f'`{trained.workdir}` (step {trained.step}), noise of standard deviation {_SIGMA.value:g} added to '
    'pixels in [-1, 1]; ± is the standard error over images, of a difference that of the differences '
    'image by image.'
  )
  tree = {'sigma': _SIGMA.value, 'images': len(clean), 'seed': _SEED.value, 'methods': tree}
  image_quality.write(output, table, tree, about)
  print(f'{table}\n\nwritten to {output}: report.md, scores.json, images.npz, denoising.png')


if __name__ == '__main__':
  flags.run(main)
