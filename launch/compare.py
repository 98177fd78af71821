"""Trains several variants of one config file and evaluates them together: an ablation in one command.

  A="--config=configs/blur_vae_folder.py --config.data.source=folder:PATH"
  python -m launch.compare $A --variants=l2,l1,blur_vae --workdir=runs/blur
  python -m launch.compare --config=configs/compare_digits.py --workdir=runs/digits --seeds=0,1,2

`launch.train` trains each variant in WORKDIR/VARIANT, with the same changes of the config; finished runs
are not trained again. The evaluation is written to WORKDIR/comparison. With --seeds, each seed S has its
own WORKDIR/seed_S. The last table, WORKDIR/comparison.md, has a row per variant and the spread over
seeds.
"""

import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags as absl_flags

from launch import flags, image_flags, interrupts
from structured_obs.evaluation import compare, comparison_table
from structured_obs.runs import configuration

_CONFIG = flags.define_config()
_WORKDIR = flags.define_path('workdir', '', 'Directory of all runs.')
_VARIANTS = absl_flags.DEFINE_list('variants', [], "Variants of the config file; '' for all it lists.")
_SEEDS = absl_flags.DEFINE_list('seeds', [], "Seeds of the trainings; '' for the config's.")
_NUM_IMAGES = flags.define_integer('num_images', 0, 'Use only the first N test images; 0 for all.', 0)
_SAMPLES = flags.define_integer('samples', 0, "Importance samples; 0 for the config's.", 0)
_IMAGES = image_flags.Images()


def main(arguments: Sequence[str]) -> None:
  """Trains and evaluates the variants."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory that the runs are written to.')
  file, variants = _named()
  if not all(seed.isdecimal() for seed in _SEEDS.value) or len({*_SEEDS.value}) < len(_SEEDS.value):
    raise ValueError('--seeds must be whole numbers without repetition, such as --seeds=0,1,2.')
  _IMAGES.check()
  changes = [argument for argument in sys.argv[1:] if argument.startswith('--config.')]
  for name in variants:  # refuse invalid ones before the first one trains
    configuration.resolve(flags.read_config(f'{file}:{name}'))
  root, reports = Path(_WORKDIR.value), []
  request = compare.Request(num_images=_NUM_IMAGES.value, samples=_SAMPLES.value, **_IMAGES.fields)
  for seed in _SEEDS.value or ['']:
    directory = root / f'seed_{seed}' if seed else root
    workdirs = {name: directory / name for name in variants}
    _train(file, workdirs, [*changes, *([f'--config.train.seed={seed}'] if seed else [])])
    found = compare.evaluate(workdirs, directory / 'comparison', request, print)
    print(f'\n{found.text}\n\nreport   {found.report}\n')
    reports.append(json.loads((found.report.parent / 'evaluation.json').read_text()))
  table = comparison_table.text(reports)
  (root / 'comparison.md').write_text(table + '\n')
  print(f'{table}\n\nwritten to {root / "comparison.md"}')


def _train(file: str, workdirs: Mapping[str, Path], changes: Sequence[str]) -> None:
  for name, workdir in workdirs.items():
    command = ['launch.train', f'--config={file}:{name}', *changes, f'--workdir={workdir}']
    command += flags.inherited()
    with subprocess.Popen([sys.executable, '-m', *command]) as child:
      try:
        status = child.wait()
      except interrupts.Interrupted as error:
        if error.number == signal.SIGTERM:  # Ctrl-C has reached the child as well
          child.terminate()
        raise  # after the child has saved and ended
    if status:
      raise ValueError(f'python -m {" ".join(command)} ended with status {status}; see above.')


def _named() -> tuple[str, list[str]]:
  """Returns the config file, and the variants to compare."""
  given = next(argument for argument in sys.argv if argument.lstrip('-').startswith('config='))
  file, colon, variant = given.partition('=')[2].partition(':')
  if colon:
    raise ValueError(
      f'--config={file}:{variant} has a variant; list all variants in --variants instead.'
    )
  variants = _VARIANTS.value or [*runpy.run_path(file).get('VARIANTS', ())]
  if not variants or len({*variants}) < len(variants):
    raise ValueError('--variants must list variants of the config file, without repetition.')
  return file, variants


if __name__ == '__main__':
  flags.run(main)
