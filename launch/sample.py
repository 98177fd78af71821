"""Draws from a trained model: new images, and reconstructions of test images.

  python -m launch.sample --workdir=runs/low_rank --num=8 --pixel=4,4 --temperature=0.8

Shows means, samples, standard deviations, correlations with one pixel and principal components, in one
figure each, and writes all arrays to samples.npz, in WORKDIR/samples or --output. --grid=10 also draws a
grid of 10 x 10 samples, beside those of the runs of --compare. For a model with two levels, the figures
include the small image drawn first, and generative reconstructions. --sample_mode=mode shows the mean of
the likeliest component instead of a sample. --nopixel_noise leaves the floor of independent pixel noise
out of samples, in families that have one.
"""

from collections.abc import Sequence

import jax
import numpy as np
from absl import flags as absl_flags

from launch import common_flags, flags
from structured_obs.data import pixels
from structured_obs.evaluation.figures import supn, views
from structured_obs.evaluation.metrics import variance_inflation
from structured_obs.models import intermediate_images

_RUN = common_flags.Run(seed='Seed of everything that is drawn.', output=True, pixel_noise=True)
_NUM = flags.define_integer('num', 8, 'Images in a row.', 1)
_SAMPLES = flags.define_integer('samples', 3, 'Samples of each distribution.', 0)
_PIXEL = absl_flags.DEFINE_list('pixel', [], 'Row, column and channel; by default the middle one.')
_TEMPERATURE = flags.define_float('temperature', 1.0, 'Factor of the standard deviations.')
_LABELS = absl_flags.DEFINE_list('labels', [], 'Classes of new images, in turn.')
_COMPONENTS = flags.define_integer('components', 5, 'Principal components.', 0)
_GRID = flags.define_integer('grid', 0, 'Rows and columns of a grid of samples; 0 for none.', 0)
_COMPARE = flags.define_paths('compare', 'Directories of other runs for the grid.')
_MODE = absl_flags.DEFINE_enum(
  'sample_mode', 'sample', intermediate_images.SAMPLE_MODES, 'How to draw an image.'
)


def main(arguments: Sequence[str]) -> None:
  """Draws the images of the flags."""
  del arguments
  trained, prepared = _RUN.open()
  models = [trained, *(_RUN.open_other(path) for path in _COMPARE.value)]
  models = [one._replace(model=intermediate_images.by_mode(one.model, _MODE.value)) for one in models]
  models = [
    one._replace(model=intermediate_images.by_pixel_noise(one.model, _RUN.pixel_noise)) for one in models
  ]
  model, bound = models[0].model, models[0].bound
  request = views.Request(
    views.parse_pixel(_PIXEL.value, model),
    _SAMPLES.value,
    _TEMPERATURE.value,
    _COMPONENTS.value,
    flags.whole_numbers(_LABELS),
  )
  prior_key, key = jax.random.split(_RUN.key)
  images = np.asarray(prepared.images['test'][: _NUM.value])
  x = pixels.to_unit(images, trained.spec.levels)
  original = views.observed(model, x)
  found: dict[str, views.Views | None] = {}
  found['reconstruction'] = views.of_reconstructions(bound, x, key, request)
  found['regeneration'] = views.of_regenerations(bound, x, key, request)
  if model.traits.has_prior:
    found['prior'] = views.of_prior(bound, _NUM.value, prior_key, request)

  output = _RUN.directory('samples')
  title = f'{trained.about}, temperature {_TEMPERATURE.value:g}'
  arrays = views.write(output, found, request, original, title)
  np.savez_compressed(output / 'samples.npz', **arrays)  # type: ignore[arg-type]
  if _GRID.value:
    supn.sample_grid(output / 'grid.png', models, _GRID.value, _RUN.seed)
  print(f'written to {output}: {", ".join(sorted(path.name for path in output.iterdir()))}')
  inflation = variance_inflation.variance_inflation(bound, images, trained.spec.levels)
  warning = variance_inflation.warning(inflation, trained.config.eval.inflation_threshold)
  if warning:
    print(warning)


if __name__ == '__main__':
  flags.run(main)
