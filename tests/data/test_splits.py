"""Limits that keep every split, and images that two splits share."""

import dataclasses
import itertools

import numpy as np
import pytest

from structured_obs.config import DataConfig
from structured_obs.data import splits


@pytest.mark.parametrize('grouped', [False, True])
@pytest.mark.parametrize(
  ('sizes', 'limit'),
  [
    ((20, 20, 10_000), 100),
    ((20, 20, 10_000), 3),
    ((5, 4, 4), 12),
    ((1, 1, 50), 5),
    ((9000, 500, 500), 7),
    ((30, 0, 400), 11),
  ],
)
def test_a_limit_leaves_no_split_empty_and_training_images_where_they_were_more(sizes, limit, grouped):
  official, groups = np.repeat([0, 1, 2], sizes), None
  config = DataConfig(validation_fraction=0.0)
  if grouped:  # subjects with as many images, one drawn for each split
    official, groups = None, np.unique(official, return_inverse=True)[1]
    config = DataConfig(validation_fraction=0.5 if min(sizes) else 0.0, test_fraction=0.3)
  whole = splits.assign(sum(sizes), official, config, groups)
  part = splits.assign(sum(sizes), official, dataclasses.replace(config, limit=limit), groups)
  before, after = (np.bincount(split + 1, minlength=4)[1:] for split in (whole, part))
  assert sum(after) == limit
  assert np.array_equal(after > 0, before > 0)
  for one, other in itertools.permutations(range(3), 2):
    assert after[one] >= after[other] or before[one] <= before[other]
  assert np.all(np.abs(after - limit * before / sum(sizes)) < 2)
  assert np.all((part == whole) | (part == splits.LEFT_OUT))


def test_every_limit_is_divided_in_proportion():
  rng = np.random.default_rng(0)
  for _ in range(2000):
    sizes = rng.integers(0, rng.choice([2, 5, 50, 10_000], 3)).tolist()
    least = sum(size > 0 for size in sizes)
    if sum(sizes) <= max(least, 1):
      continue
    limit = int(rng.integers(max(least, 1), sum(sizes)))
    keep, quota = splits.apportion(sizes, limit), [limit * size / sum(sizes) for size in sizes]
    assert sum(keep) == limit
    assert [number > 0 for number in keep] == [size > 0 for size in sizes]
    if all(q >= 1 or not size for q, size in zip(quota, sizes, strict=True)):
      assert all(abs(number - q) < 1 for number, q in zip(keep, quota, strict=True))
    for (a, kept_a), (b, kept_b) in itertools.permutations(zip(sizes, keep, strict=True), 2):
      assert a <= b or kept_a >= kept_b


def test_a_limit_below_the_number_of_splits_says_the_least():
  with pytest.raises(ValueError, match=r'--config\.data\.limit=1 is less .* --config\.data\.limit=2'):
    splits.assign(40, np.repeat([0, 2], 20), DataConfig(limit=1, validation_fraction=0.0))


def test_repeated_images_are_those_with_a_twin_in_an_earlier_split():
  split = np.array([0, 0, 0, 1, 1, 1, 2, 2])
  digests = [b'a', b'a', b'b', b'a', b'c', b'c', b'c', b'd']
  assert splits.repeated(split, digests) == [3, 6]
