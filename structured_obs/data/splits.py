"""Assigns images to the training, validation and test splits, and describes the rule in words."""

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import order

SPLITS = ('train', 'validation', 'test')
LEFT_OUT = -1

_TRAIN, _VALIDATION, _TEST = range(3)


def assign(
  count: int, official: np.ndarray | None, config: DataConfig, groups: np.ndarray | None = None
) -> np.ndarray:
  """Assigns every image of a source to a split.

  Splits of the source are kept. A missing test split is drawn from the training images, `test_fraction`
  of all; then a missing validation split, `validation_fraction` of the remaining training images; at
  least one image each. If images come in groups, such as the slices of one subject, whole groups are
  drawn, and the fractions are of their number. `limit` leaves images out at random, in proportion to
  the splits, each of which keeps at least one image.

  Args:
    count: number N of images.
    official: [N] index into SPLITS of each image, or None if the source has no splits.
    config: the fractions, the limit and the seed.
    groups: [N] number of each image's group, all of 0, 1, ...; None for ungrouped images. Not together
      with `official`.

  Returns:
    [N] int8 index into SPLITS, LEFT_OUT for images that `limit` leaves out.

  Raises:
    ValueError: the limit is below one image per split, or nothing is left to train on.
  """
  units = count if groups is None else int(np.max(groups)) + 1
  split = np.zeros(units, np.int8) if official is None else official.astype(np.int8)
  if units and not np.any(split == _TRAIN):
    raise ValueError(f'The source has {units:,} images, but none of them is in its training split.')
  if not np.any(split == _TEST):
    split = _draw(split, _TEST, config.test_fraction * units, config.split_seed)
  if not np.any(split == _VALIDATION):
    share = config.validation_fraction * np.sum(split == _TRAIN)
    split = _draw(split, _VALIDATION, share, config.split_seed)
  if not np.any(split == _TRAIN):
    what = 'images' if groups is None else 'subjects'
    raise ValueError(
      f'There are too few {what}, {units}, to train on any: add more, or set '
      '--config.data.validation_fraction=0 --config.data.test_fraction=0.'
    )
  return _limited(split if groups is None else split[groups], config.limit, config.split_seed)


def _draw(split: np.ndarray, target: int, share: float, seed: int) -> np.ndarray:
  """Moves about `share` of the training images to another split, at least one if any."""
  pool = np.flatnonzero(split == _TRAIN)
  number = max(1, round(share)) if share > 0 else 0
  split[pool[order.permutation(len(pool), seed, target)[:number]]] = target
  return split


def _limited(split: np.ndarray, limit: int, seed: int) -> np.ndarray:
  """Leaves out all but `limit` images, keeping the proportions and one image of every split."""
  sizes = [int(np.sum(split == k)) for k in range(len(SPLITS))]
  if limit == 0 or limit >= sum(sizes):
    return split
  limited = np.full_like(split, LEFT_OUT)
  for k, (size, number) in enumerate(zip(sizes, apportion(sizes, limit), strict=True)):
    chosen = order.permutation(size, seed, 3 + k)[:number]
    limited[np.flatnonzero(split == k)[chosen]] = k
  return limited


def apportion(sizes: list[int], limit: int) -> list[int]:
  """Divides a limit over splits in proportion to their sizes, by largest remainders.

  A split with images keeps at least one, and a larger split never keeps fewer than a smaller one.

  Args:
    sizes: number of images of every split.
    limit: how many to keep, fewer than there are.

  Raises:
    ValueError: the limit is less than one image per split that has any.
  """
  least = sum(size > 0 for size in sizes)
  if limit < least:
    raise ValueError(
      f'--config.data.limit={limit} is less than one image per split; set '
      f'at least --config.data.limit={least}, or 0 for all images.'
    )
  total = sum(sizes)
  keep = [max(size > 0, limit * size // total) for size in sizes]
  while sum(keep) != limit:  # off by two at most: integers compare exactly where fractions round
    off = [total * number - limit * size for size, number in zip(sizes, keep, strict=True)]
    if sum(keep) < limit:
      keep[off.index(min(off))] += 1
    else:
      keep[max((k for k in range(len(keep)) if keep[k] > 1), key=off.__getitem__)] -= 1
  return [int(number) for number in keep]


def repeated(split: np.ndarray, digests: list[bytes]) -> list[int]:
  """Returns the images whose pixels also occur in an earlier split: training, validation, test.

  Args:
    split: [N] index into SPLITS of each image, not decreasing.
    digests: [N] of each image's pixels.

  Returns:
    The numbers of such images.
  """
  first = {}
  return [
    row
    for row, (k, digest) in enumerate(zip(split.tolist(), digests, strict=True))
    if first.setdefault(digest, k) < k
  ]


def rule(official: np.ndarray | None, config: DataConfig, grouped: bool = False) -> str:
  """Describes in words how `assign` split the images."""
  kept = [] if official is None else [name for k, name in enumerate(SPLITS) if k in official]
  words = [f'{", ".join(kept)} as the source has them'] if kept else []
  seeded = f'by a permutation of seed {config.split_seed}'
  what = 'subjects, with all their images' if grouped else 'images'
  if 'test' not in kept:
    words.append(f'test: {config.test_fraction:g} of all {what}, {seeded}')
  if 'validation' not in kept:
    words.append(f'validation: {config.validation_fraction:g} of the training {what}, {seeded}')
  return '; '.join(words)
