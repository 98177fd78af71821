"""Draws from a trained model: new images, and reconstructions of test images.

  python -m launch.sample --workdir=runs/low_rank --num=8 --pixel=4,4 --temperature=0.8

Both as means, samples, standard deviations, correlations with one pixel and principal components: a
picture each, and all arrays in samples.npz, in WORKDIR/samples or --output. --grid=10 also draws 10 x 10
samples, of the runs of --compare too, side by side. A model of two levels shows the small image it draws
first, and generative reconstructions. With --sample_mode=mode images are likeliest components' means.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags as absl_flags

from launch import flags
from structured_obs.data import pixels
from structured_obs.evaluation.figures import supn, views
from structured_obs.evaluation.metrics import variance_inflation
from structured_obs.models import intermediate_images
from structured_obs.runs import restore

_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_CHECKPOINT = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
_NUM = flags.define_integer('num', 8, 'Images in a row.', 1)
_SAMPLES = flags.define_integer('samples', 3, 'Samples of each distribution.', 0)
_PIXEL = absl_flags.DEFINE_list('pixel', [], 'Row, column and channel; by default the middle one.')
_TEMPERATURE = flags.define_float('temperature', 1.0, 'Factor of the standard deviations.')
_LABELS = absl_flags.DEFINE_list('labels', [], 'Classes of new images, in turn, if it was given them.')
_COMPONENTS = flags.define_integer('components', 5, 'Principal components.', 0)
_GRID = flags.define_integer('grid', 0, 'Rows and columns of a grid of samples; 0: none.', 0)
_COMPARE = flags.define_paths('compare', 'Directories of other runs for the grid.')
_MODE = absl_flags.DEFINE_enum(
  'sample_mode', 'sample', intermediate_images.SAMPLE_MODES, 'How to draw an image.'
)
_SEED = flags.define_integer('seed', 0, 'Of all that is drawn.', 0)
_OUTPUT = flags.define_path('output', '', 'Directory to write to.')


def main(arguments: Sequence[str]) -> None:
  """Draws what the flags describe."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run to sample from.')
  trained, prepared = restore.load(_WORKDIR.value, _CHECKPOINT.value)
  models = [trained, *(restore.load(path, _CHECKPOINT.value)[0] for path in _COMPARE.value)]
  models = [one._replace(model=intermediate_images.by_mode(one.model, _MODE.value)) for one in models]
  model, bound = models[0].model, models[0].bound
  request = views.Request(
    views.parse_pixel(_PIXEL.value, model),
    _SAMPLES.value,
    _TEMPERATURE.value,
    _COMPONENTS.value,
    flags.whole_numbers(_LABELS),
  )
  prior_key, key = jax.random.split(jax.random.key(_SEED.value))
  images = np.asarray(prepared.images['test'][: _NUM.value])
  x = pixels.to_unit(images, trained.spec.levels)
  original = views.observed(model, x)
  found: dict[str, views.Views | None] = {}
  found['reconstruction'] = views.of_reconstructions(bound, x, key, request)
  found['regeneration'] = views.of_regenerations(bound, x, key, request)
  if model.traits.has_prior:
    found['prior'] = views.of_prior(bound, _NUM.value, prior_key, request)

  output = Path(_OUTPUT.value or Path(_WORKDIR.value) / 'samples')
  title = f'{trained.name}, step {trained.step}, temperature {_TEMPERATURE.value:g}'
  arrays = views.write(output, found, request, original, title)
  np.savez_compressed(output / 'samples.npz', **arrays)  # type: ignore[arg-type]
  if _GRID.value:
    supn.sample_grid(output / 'grid.png', models, _GRID.value, _SEED.value)
  print(f'written to {output}: {", ".join(sorted(path.name for path in output.iterdir()))}')
  inflation = variance_inflation.variance_inflation(bound, images, trained.spec.levels)
  warning = variance_inflation.warning(inflation, trained.config.eval.inflation_threshold)
  if warning:
    print(warning)


if __name__ == '__main__':
  flags.run(main)
