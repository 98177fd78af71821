"""Evaluates a trained model on a split: ELBO, IWAE, bits per dimension and calibration.

  python -m launch.evaluate --workdir=runs/low_rank
  python -m launch.evaluate --workdir=runs/diagonal --compare=runs/low_rank,runs/other

Prints a table and writes evaluation.json, per_image.npz, report.md and figures into WORKDIR/evaluation
(WORKDIR/evaluation_validation for --split=validation). With --compare, all models see the same
dequantised images, and the table has paired differences from the run of --workdir. The same command
resumes an evaluation that was interrupted.

--data_source=npz:PATH, or any other value of `data.source`, evaluates on another data set, of the same
shape and gray levels as the run's, without training on it. If the source has no splits, all of its
images are used. The report is written to WORKDIR/evaluation_NAME.

--features selects the network whose features compare sets of images: bands needs nothing; self is a
small network that learns from the run's own training images, once, in minutes; classifier:WORKDIR is a
run of configs/classifier.py on these images; inception is the network of the Frechet inception distance,
read from a file, and inception:PATH reads another file; vgg:PATH is that of LPIPS. The report names the
network beside every number, and shows what it sees: distances of originals with noise and with blur.

--generated=50000 --reference=train compares 50,000 new images with the training images, as papers do.
--sample_mode=mode takes modes for new samples, of mixtures.

--nopixel_noise draws the samples in figures without the floor of independent pixel noise, of families
that have one; scores are of the whole distribution.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from launch import common_flags, flags, image_flags
from structured_obs import names as checks
from structured_obs.data import sources
from structured_obs.evaluation import compare

_RUN = common_flags.Run(seed='Seed of the dequantisation and the latents.', pixel_noise=True)
_SPLIT = absl_flags.DEFINE_enum(
  'split', 'test', ['test', 'validation', 'train'], 'Images to evaluate on.'
)
_DATA = absl_flags.DEFINE_string(
  'data_source', '', "Another data set to evaluate on, as data.source; '' for the run's own."
)
_COMPARE = flags.define_paths('compare', 'Directories of other runs, separated by commas.')
_IMAGES = image_flags.Images()
_NUM_IMAGES = flags.define_integer('num_images', 0, 'Use only the first N images; 0 for all.', 0)
_SAMPLES = flags.define_integer('samples', 0, "Importance samples; 0 for the config's.", 0)


def main(arguments: Sequence[str]) -> None:
  """Evaluates the runs of the flags."""
  del arguments
  workdirs = [_RUN.workdir, *_COMPARE.value]
  short = [Path(workdir).resolve().name for workdir in workdirs]
  names = short if len({*short}) == len(short) else workdirs
  if len({*names}) < len(names):
    raise ValueError('--workdir and --compare name a run twice; name other runs in --compare.')
  _IMAGES.check()
  checks.check_source('--data_source', _DATA.value, sources.SOURCES)
  folder = 'evaluation' if _SPLIT.value == 'test' else f'evaluation_{_SPLIT.value}'
  if _DATA.value:
    folder += '_' + re.sub(r'[^\w-]+', '_', _DATA.value.rstrip('/').replace(':', '/').split('/')[-1])
  found = compare.evaluate(
    dict(zip(names, workdirs, strict=True)),
    Path(_RUN.workdir) / folder,
    compare.Request(
      split=_SPLIT.value,
      checkpoint=_RUN.checkpoint,
      num_images=_NUM_IMAGES.value,
      samples=_SAMPLES.value,
      seed=_RUN.seed,
      data=_DATA.value,
      **_IMAGES.fields,
      pixel_noise=_RUN.pixel_noise,
    ),
    print,
  )
  print(found.text)
  where = found.report.parent
  print(f'\nwritten to {where}: report.html, report.md, evaluation.json, per_image.npz, figures')


if __name__ == '__main__':
  flags.run(main)
