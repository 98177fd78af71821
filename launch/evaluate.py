"""Evaluates a trained model on a split: ELBO, IWAE, bits per dimension and calibration.

  python -m launch.evaluate --workdir=runs/low_rank
  python -m launch.evaluate --workdir=runs/diagonal --compare=runs/low_rank,runs/other

Prints a table and writes evaluation.json, per_image.npz, report.md and figures into
WORKDIR/evaluation (WORKDIR/evaluation_validation for --split=validation). With --compare, all models
get the same dequantised images, and the table has paired differences from the run of --workdir. The
same command again goes on with an evaluation that was interrupted.

With --data_source=npz:PATH, or any other `data.source`, the images are of that data set, on which
nothing is trained: they must have the shape and the levels of the run's. All are taken where the source
has no splits. That report goes to WORKDIR/evaluation_NAME.

Sets of images are compared in the features of a network, told beside every number: that of
--features=random_conv, which needs nothing; classifier:WORKDIR, a run of configs/classifier.py on these
images; inception, the network of the Frechet inception distance, from a file; or inception:PATH, from
another file.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from launch import flags
from structured_obs import names as checks
from structured_obs.data import sources
from structured_obs.evaluation import compare, features

_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_CHECKPOINT = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
_SPLIT = absl_flags.DEFINE_enum('split', 'test', ['test', 'validation', 'train'], 'Which images.')
_DATA = absl_flags.DEFINE_string(
  'data_source', '', "Another data set to evaluate on, as data.source; '' is the run's own."
)
_COMPARE = flags.define_paths('compare', 'Directories of other runs, between commas.')
_FEATURES = absl_flags.DEFINE_string(
  'features',
  features.FORMS[0],
  f'Network that images are compared in: {", ".join(features.FORMS)}.',
)
_NUM_IMAGES = flags.define_integer('num_images', 0, 'Use only the first N images; 0 for all.', 0)
_SAMPLES = flags.define_integer('samples', 0, "Importance samples; 0 for the config's.", 0)
_SEED = flags.define_integer('seed', 0, 'Of the dequantisation and the latents.', 0)


def main(arguments: Sequence[str]) -> None:
  """Evaluates what the flags name."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run to evaluate.')
  workdirs = [_WORKDIR.value, *_COMPARE.value]
  short = [Path(workdir).resolve().name for workdir in workdirs]
  names = short if len({*short}) == len(short) else workdirs
  if len({*names}) < len(names):
    raise ValueError('--workdir and --compare name a run twice; a run is compared with other ones.')
  checks.check_source('--data_source', _DATA.value, sources.SOURCES)
  folder = 'evaluation' if _SPLIT.value == 'test' else f'evaluation_{_SPLIT.value}'
  if _DATA.value:
    folder += '_' + re.sub(r'[^\w-]+', '_', _DATA.value.rstrip('/').replace(':', '/').split('/')[-1])
  found = compare.evaluate(
    dict(zip(names, workdirs, strict=True)),
    Path(_WORKDIR.value) / folder,
    compare.Request(
      split=_SPLIT.value,
      checkpoint=_CHECKPOINT.value,
      num_images=_NUM_IMAGES.value,
      samples=_SAMPLES.value,
      seed=_SEED.value,
      data=_DATA.value,
      features=_FEATURES.value,
    ),
    print,
  )
  print(found.text)
  where = found.report.parent
  print(f'\nwritten to {where}: report.md, evaluation.json, per_image.npz, figures')


if __name__ == '__main__':
  flags.run(main)
