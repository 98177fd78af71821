"""Measures kernels beside what a user would otherwise pick, in one process.

  python -m launch.benchmark --out=benchmark.json
  python -m launch.benchmark --suite=sparse --sizes=64,128 --filters=5,7 --batches=1,16

Rounds alternate between the candidates, and ratios are ratios of medians. Peers that are not installed
(extra `bench`) are skipped, with a message. Suites besides the kernels:

  families      every family, from network outputs to value and gradient
  growth        the same over H, W, f, R and M; a size is marked as a cliff if a unit of work there costs
                1.5 times more than at the size before
  convolutions  our gradient with respect to a 3x3 kernel beside XLA's
  training      a step of each of --recipes and its start-up, beside a plain PyTorch loop
  robustness    the batched gradient of every operation, --calls times in a row, each operation in a
                process of its own, which ends with a traceback after --timeout
  accuracy      the low-rank log density in float32 beside float64, over scales and near-equal columns

`--readme` measures everything in the table of docs/benchmarks.md and prints that table in Markdown.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags as absl_flags

from launch import flags
from structured_obs import compiled

_SUITE = absl_flags.DEFINE_list(
  'suite',
  ['sparse', 'banded', 'low_rank', 'circulant', 'compile'],
  'sparse, banded, low_rank, circulant, compile, robustness, accuracy, families, growth, convolutions, '
  'training.',
)
_RECIPES = absl_flags.DEFINE_list(
  'recipes',
  [
    'digits',
    'folder',
    'compare_folder:sparse_precision',
    'blur_vae_folder',
    'sos_vae_folder',
    'vae_cifar10',
  ],
  'Files in configs/, each with a variant after a colon (training).',
)
_FAMILIES = absl_flags.DEFINE_list('families', [], 'Measure only these (families, growth).')
_OPERATIONS = absl_flags.DEFINE_list(
  'operations', [], 'Measure only names that contain one of these (robustness).'
)
_README = absl_flags.DEFINE_bool('readme', False, 'Measure and print the table of docs/benchmarks.md.')
_SIZES = absl_flags.DEFINE_list('sizes', ['64'], 'Heights of square images.')
_FILTERS = absl_flags.DEFINE_list('filters', ['5'], 'Filter sizes of the sparse factor.')
_BATCHES = absl_flags.DEFINE_list('batches', ['16'], 'Images per batch.')
_RANKS = absl_flags.DEFINE_list('ranks', ['25'], 'Columns of the low-rank factor.')
_REPEATS = absl_flags.DEFINE_integer('repeats', 15, 'Rounds.')
_CALLS = absl_flags.DEFINE_integer('calls', 1000, 'Gradients of each operation (robustness).')
_TIMEOUT = absl_flags.DEFINE_integer('timeout', 300, 'Seconds for each operation (robustness).')
_SEEDS = absl_flags.DEFINE_integer('seeds', 3, 'Problems per case (accuracy).')
_OUT = flags.define_path('out', '', 'JSON file to write.')
_XLA_FLAG = absl_flags.DEFINE_bool('xla_flag', False, 'Let XLA compile larger loops natively.')


def main(arguments: Sequence[str]) -> None:
  """Measures what the flags select."""
  del arguments
  if _XLA_FLAG.value:  # read when the first computation starts
    compiled.native_loops()
  from structured_obs.benchmark import report, suites

  chosen = [
    suites.Settings(
      suites=tuple(_SUITE.value),
      sizes=flags.whole_numbers(_SIZES) or (0,),
      filters=flags.whole_numbers(_FILTERS) or (0,),
      batches=flags.whole_numbers(_BATCHES) or (0,),
      ranks=flags.whole_numbers(_RANKS) or (0,),
      repeats=_REPEATS.value,
      calls=_CALLS.value,
      timeout=_TIMEOUT.value,
      seeds=_SEEDS.value,
      families=tuple(_FAMILIES.value),
      operations=tuple(_OPERATIONS.value),
    )
  ]
  if _README.value:
    chosen = [settings._replace(repeats=_REPEATS.value) for settings in suites.PUBLISHED]
  for settings in chosen:
    suites.check(settings)
  if _OUT.value and not Path(_OUT.value).resolve().parent.is_dir():
    raise ValueError(f'--out={_OUT.value} is in a directory that does not exist; create it first.')
  recipes = _recipes() if any('training' in settings.suites for settings in chosen) else {}
  record = {'machine': suites.machine(), 'settings': [each._asdict() for each in chosen], 'tasks': []}
  for settings in chosen:
    for task in suites.run(settings, recipes):
      print(report.table(task), flush=True)
      record['tasks'].append(task)
  if _README.value:
    print(report.markdown(record['tasks']))
  if _OUT.value:
    Path(_OUT.value).write_text(json.dumps(record, indent=2), encoding='utf-8')


def _recipes() -> dict[str, Any]:
  """Returns the configurations of --recipes.

  Raises:
    ValueError: there is no such file in configs/, or it has no such variant.
  """
  found = {}
  for name in _RECIPES.value:
    module, _, variant = name.partition(':')
    try:
      recipe = importlib.import_module(f'configs.{module}')
    except ModuleNotFoundError as error:
      raise ValueError(f'--recipes={name}: there is no configs/{module}.py.') from error
    found[name] = recipe.get_config(*([variant] if variant else []))
  return found


if __name__ == '__main__':
  flags.run(main, plain=True)
