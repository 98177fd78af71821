"""Trains several variants of one config file, and evaluates them together: an ablation in one command.

  A="--config=configs/blur_vae_folder.py --config.data.source=folder:PATH"
  python -m launch.compare $A --variants=l2,l1,blur_vae --workdir=runs/blur

Each variant is trained by `launch.train`, with the same changes of the config, in WORKDIR/VARIANT; one
that has trained is not trained again, and one that was interrupted goes on. Then prints one table, with
differences from the first variant, and writes the report into WORKDIR/comparison.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from launch import flags
from structured_obs.train import compared, experiment

_CONFIG = flags.define_config()
_WORKDIR = absl_flags.DEFINE_string('workdir', '', 'Directory of all runs.')
_VARIANTS = absl_flags.DEFINE_list('variants', [], 'Variants of the config file, between commas.')
_NUM_IMAGES = absl_flags.DEFINE_integer('num_images', 0, 'The first so many test images; 0 for all.', 0)
_SAMPLES = absl_flags.DEFINE_integer('samples', 0, "Importance samples; 0 for the config's.", 0)


def main(arguments: Sequence[str]) -> None:
  """Trains and evaluates what the flags name."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory that the runs are written to.')
  file, variants = _named()
  changes = [argument for argument in sys.argv[1:] if argument.startswith('--config.')]
  for name in variants:  # what can be refused is, before the first one trains
    experiment.resolve(flags.read_config(f'{file}:{name}'))
  workdirs = {name: Path(_WORKDIR.value) / name for name in variants}
  for name, workdir in workdirs.items():
    command = ['launch.train', f'--config={file}:{name}', *changes, f'--workdir={workdir}']
    status = subprocess.run([sys.executable, '-m', *command], check=False).returncode
    if status:
      raise ValueError(f'python -m {" ".join(command)} ended with status {status}; see above.')
  request = compared.Request(num_images=_NUM_IMAGES.value, samples=_SAMPLES.value)
  found = compared.evaluate(workdirs, Path(_WORKDIR.value) / 'comparison', request, print)
  print(f'\n{found.text}\n\nreport   {found.report}')


def _named() -> tuple[str, list[str]]:
  """The config file, and which of its variants to compare."""
  given = next(argument for argument in sys.argv if argument.lstrip('-').startswith('config='))
  file, colon, variant = given.partition('=')[2].partition(':')
  if colon:
    raise ValueError(f'--config={file}:{variant} has a variant; name all of them in --variants.')
  if not _VARIANTS.value or len({*_VARIANTS.value}) < len(_VARIANTS.value):
    raise ValueError('--variants must name variants of the config file, each of them once.')
  return file, _VARIANTS.value


if __name__ == '__main__':
  flags.run(main)
