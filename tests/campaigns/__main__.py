"""Runs campaigns and prints their counts; exits with status 1 if they found a fault.

  python -m tests.campaigns
  python -m tests.campaigns --campaign=inputs,damage --count=300 --seed=1

`--count` is per campaign: 0, the default, stands for the number that each was made for, and -1 for all
that it can generate. Everything is generated from `--seed`.
"""

import argparse
import os
import sys
import tempfile
import time

import jax

from tests.campaigns import outcomes, registry


def main() -> int:
  """Runs what the command line names."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--campaign', default=','.join(registry.CAMPAIGNS))
  parser.add_argument('--count', type=int, default=0)
  parser.add_argument('--seed', type=int, default=0)
  given = parser.parse_args()
  names = given.campaign.split(',')
  unknown = [name for name in names if name not in registry.CAMPAIGNS]
  if unknown:
    parser.error(f'unknown campaign {unknown[0]!r}; there are {", ".join(registry.CAMPAIGNS)}.')
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or tempfile.mkdtemp(prefix='compiled-')
  jax.config.update('jax_compilation_cache_dir', cache)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  found = [_report(name, given.count, given.seed) for name in names]  # all of them, also after a fault
  return int(any(found))


def _report(name: str, count: int, seed: int) -> bool:
  """Runs one campaign, prints its counts and its faults, and returns whether there are any."""
  begun = time.monotonic()
  campaign = registry.CAMPAIGNS[name]
  results = campaign.run(campaign.COUNT if count == 0 else max(count, 0), seed)
  seconds = time.monotonic() - begun
  print(f'\n## {name}: {len(results)} attempts, seed {seed}, {seconds:.0f} s\n')
  print(outcomes.table(results))
  found = outcomes.faults(results)
  for result in found:
    note = ' '.join(result.note.split())[:300]
    print(f'  {result.outcome}: {result.kind}, {result.name}: {note}')
  print(f'{len(found)} faults', flush=True)
  return bool(found)


if __name__ == '__main__':
  sys.exit(main())
