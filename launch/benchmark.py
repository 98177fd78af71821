"""Measures the kernels beside what a user would pick instead, in one process.

  python -m launch.benchmark --out=benchmark.json
  python -m launch.benchmark --suite=sparse --sizes=64,128 --filters=5,7 --batches=1,16

Rounds alternate between the candidates, and ratios are those of medians. Peers that are not installed
are skipped and named (extra `bench`). The suite `robustness` calls the batched gradient of every
operation --calls times in a row and ends the process with a traceback if one takes more than --timeout.
The suite `accuracy` compares the low-rank log density in float32 with float64, over scales and
differences of columns.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags as absl_flags

from launch import flags
from structured_obs import compiled

_SUITE = absl_flags.DEFINE_list(
  'suite',
  ['sparse', 'banded', 'low_rank', 'circulant', 'compile'],
  'sparse, banded, low_rank, circulant, compile, robustness, accuracy.',
)
_SIZES = absl_flags.DEFINE_list('sizes', ['64'], 'Heights of square images.')
_FILTERS = absl_flags.DEFINE_list('filters', ['5'], 'Filter sizes of the sparse factor.')
_BATCHES = absl_flags.DEFINE_list('batches', ['16'], 'Images at once.')
_RANKS = absl_flags.DEFINE_list('ranks', ['25'], 'Columns of the low-rank factor.')
_REPEATS = absl_flags.DEFINE_integer('repeats', 15, 'Rounds.')
_CALLS = absl_flags.DEFINE_integer('calls', 1000, 'Gradients of each operation (robustness).')
_TIMEOUT = absl_flags.DEFINE_integer('timeout', 300, 'Seconds for each operation (robustness).')
_SEEDS = absl_flags.DEFINE_integer('seeds', 3, 'Problems of each case (accuracy).')
_OUT = flags.define_path('out', '', 'JSON file to write.')
_XLA_FLAG = absl_flags.DEFINE_bool('xla_flag', False, 'Lets XLA compile larger loops natively.')


def main(arguments: Sequence[str]) -> None:
  """Measures what the flags name."""
  del arguments
  if _XLA_FLAG.value:  # read when the first computation starts
    compiled.native_loops()
  from structured_obs.benchmark import suites

  settings = suites.Settings(
    suites=tuple(_SUITE.value),
    sizes=flags.whole_numbers(_SIZES) or (0,),
    filters=flags.whole_numbers(_FILTERS) or (0,),
    batches=flags.whole_numbers(_BATCHES) or (0,),
    ranks=flags.whole_numbers(_RANKS) or (0,),
    repeats=_REPEATS.value,
    calls=_CALLS.value,
    timeout=_TIMEOUT.value,
    seeds=_SEEDS.value,
  )
  suites.check(settings)
  if _OUT.value and not Path(_OUT.value).resolve().parent.is_dir():
    raise ValueError(f'The directory of --out={_OUT.value} does not exist.')
  record = {'machine': suites.machine(), 'settings': settings._asdict(), 'tasks': []}
  for task in suites.run(settings):
    print(suites.table(task), flush=True)
    record['tasks'].append(task)
  if _OUT.value:
    Path(_OUT.value).write_text(json.dumps(record, indent=2), encoding='utf-8')


if __name__ == '__main__':
  flags.run(main, plain=True)
