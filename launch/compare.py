"""Trains several variants of one config file and evaluates them together: an ablation in one command.

  A="--config=configs/blur_vae_folder.py --config.data.source=folder:PATH"
  python -m launch.compare $A --variants=l2,l1,blur_vae --workdir=runs/blur
  python -m launch.compare --config=configs/compare_digits.py --workdir=runs/digits --seeds=0,1,2

`launch.train` trains each variant in WORKDIR/VARIANT, with the same changes of the config; finished runs
are not trained again. The evaluation is written to WORKDIR/comparison. With --seeds, each seed S has its
own WORKDIR/seed_S. The last table, WORKDIR/comparison.md, has a row per variant and the spread over
seeds.

With --kl_bounds=50,100,200, every variant is trained with each of these bounds on its KL, in nats, held
by a multiplier in the place of a weight (--config.objective.constraints.kl.bound=B and
--config.objective.beta=0), in WORKDIR/kl_B: at the same rate, losses of different scales compare.
WORKDIR/rate_distortion.md and rate_distortion.png show all bounds together.
"""

import json
import math
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from launch import flags, interrupts
from structured_obs.evaluation import compare, comparison_table, features, rate_distortion
from structured_obs.runs import configuration

_CONFIG = flags.define_config()
_WORKDIR = flags.define_path('workdir', '', 'Directory of all runs.')
_VARIANTS = absl_flags.DEFINE_list('variants', [], "Variants of the config file; '' for all it lists.")
_SEEDS = absl_flags.DEFINE_list('seeds', [], "Seeds of the trainings; '' for the config's.")
_KL_BOUNDS = absl_flags.DEFINE_list('kl_bounds', [], "Bounds on the KL, nats; '' for the config's.")
_NUM_IMAGES = flags.define_integer('num_images', 0, 'Use only the first N test images; 0 for all.', 0)
_SAMPLES = flags.define_integer('samples', 0, "Importance samples; 0 for the config's.", 0)
_FEATURES = absl_flags.DEFINE_string('features', features.FORMS[0], 'See launch.evaluate.')


def main(arguments: Sequence[str]) -> None:
  """Trains and evaluates the variants."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory that the runs are written to.')
  file, variants = _named()
  if not all(seed.isdecimal() for seed in _SEEDS.value) or len({*_SEEDS.value}) < len(_SEEDS.value):
    raise ValueError('--seeds must be whole numbers without repetition, such as --seeds=0,1,2.')
  bounds = _bounds()
  features.check_form(_FEATURES.value)
  for name in variants:  # refuse invalid ones before the first one trains
    for bound in bounds or [None]:
      configuration.resolve(_bounded(flags.read_config(f'{file}:{name}'), bound))
  root = Path(_WORKDIR.value)
  if not bounds:
    _over_seeds(file, variants, root, ())
    return
  trees = {
    bound: _over_seeds(file, variants, root / f'kl_{bound}', _flags_of(bound)) for bound in bounds
  }
  table, figure = rate_distortion.text(trees), root / 'rate_distortion.png'
  _write(root / 'rate_distortion.md', table)
  print(f'figure  {rate_distortion.draw(figure, trees)}')


def _over_seeds(
  file: str, variants: Sequence[str], root: Path, before: Sequence[str]
) -> list[dict[str, Any]]:
  """Trains and compares the variants for every seed; returns evaluation.json of each.

  Args:
    file: of the config.
    variants: of the file.
    root: directory of these runs.
    before: changes of the config, which those on the command line may change again.
  """
  changes = [argument for argument in sys.argv[1:] if argument.startswith('--config.')]
  request = compare.Request(
    num_images=_NUM_IMAGES.value, samples=_SAMPLES.value, features=_FEATURES.value
  )
  reports = []
  for seed in _SEEDS.value or ['']:
    directory = root / f'seed_{seed}' if seed else root
    workdirs = {name: directory / name for name in variants}
    of_seed = [f'--config.train.seed={seed}'] if seed else []
    _train(file, workdirs, [*before, *changes, *of_seed])
    found = compare.evaluate(workdirs, directory / 'comparison', request, print)
    print(f'\n{found.text}\n\nreport   {found.report}\n')
    reports.append(json.loads((found.report.parent / 'evaluation.json').read_text()))
  _write(root / 'comparison.md', comparison_table.text(reports))
  return reports


def _write(path: Path, table: str) -> None:
  path.write_text(table + '\n')
  print(f'{table}\n\nwritten to {path}')


def _bounds() -> list[str]:
  """Returns the bounds on the KL, as typed."""
  given = _KL_BOUNDS.value
  try:
    numbers = [float(bound) for bound in given]
  except ValueError:
    numbers = [math.nan]
  if not all(0 < one < math.inf for one in numbers) or len({*numbers}) < len(numbers):
    raise ValueError(
      f'--kl_bounds={",".join(given)} is invalid; it takes positive numbers of nats without repetition, '
      'such as --kl_bounds=50,100,200.'
    )
  return given


def _flags_of(bound: str) -> list[str]:
  return ['--config.objective.beta=0', f'--config.objective.constraints.kl.bound={bound}']


def _bounded(config: Any, bound: str | None) -> Any:
  """Returns a config with a bound on the KL, as `_flags_of` changes it."""
  if bound is not None:
    held = config.objective.constraints
    held['kl'] = {**held.get('kl', {}), 'bound': float(bound)}
    config.objective.beta = 0.0
  return config


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
