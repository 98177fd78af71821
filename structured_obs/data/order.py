"""Random orders that depend neither on the platform nor on NumPy's version.

NumPy guarantees the raw stream of a bit generator and of a SeedSequence, but not the result of
`Generator.permutation`. The method is therefore to sort raw 64-bit draws; two equal draws (probability
3e-8 among a million) keep their order.
"""

import numpy as np


def draws(count: int, *seed: int) -> np.ndarray:
  """Returns [count] uint64 raw draws of PCG64, seeded by non-negative integers."""
  if any(part < 0 for part in seed):
    raise ValueError(f'A seed must not be negative; got {seed}.')
  return np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)


def permutation(length: int, *seed: int) -> np.ndarray:
  """Returns a random permutation of 0 .. length - 1, [length] int64, seeded by `seed`."""
  return np.argsort(draws(length, *seed), kind='stable')
