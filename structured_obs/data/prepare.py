"""Prepares images for training: one array, written once, and a record of how it was made.

`prepare` writes into the cache folder, under a fingerprint of everything that determines the result:
`images.npy` (uint8 [N, H, W, C], the training images, then validation, then test), `labels.npy` if the
source has labels, and `spec.json`. It writes beside the final place and renames at the end, so that an
interrupted run leaves no incomplete data. Of several runs at once, one ingests and the others wait.

A source of real numbers has a float32 array. If a source knows more about an image, such as its mean,
this condition is stored in channels behind the image's own, and stays with it everywhere. So does a mask
of the pixels that count, the last channel.
"""

import contextlib
import dataclasses
import json
import os
from typing import Any, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode, ingest, labels, masks, notes, once, sources, splits
from structured_obs.data.sources import base

_CODE = 2  # raise it when the same source and configuration would give other pixels or splits
_RELEVANT = (
  'height',
  'width',
  'channels',
  'crop',
  'resample',
  'limit',
  'validation_fraction',
  'test_fraction',
  'split_seed',
  'skip_corrupt',
)


class DataSpec(NamedTuple):
  """A description of prepared images; `spec.json` has these fields."""

  height: int
  width: int
  channels: int
  levels: int  # pixels are 0 .. levels - 1; 0 for real numbers
  counts: dict[str, int]  # images by split
  source: str  # as configured, paths made absolute
  version: str  # of the source
  fingerprint: str  # names the cache folder; a digest of the configuration and the source's files
  sha256: str  # of the pixels: equal if two machines have the same images
  split_rule: str  # in words
  crop: str
  resample: str
  has_labels: bool
  skipped: int  # corrupt images left out
  skipped_names: list[str]  # the first of them
  libraries: dict[str, str]  # versions that decoded the images
  crops: int = 1  # random windows of each image of the source
  condition: int = 0  # channels stored behind the image's own, which the model is given
  # With data.labels, that channel is the class: the number of training images of class 0, 1, ...
  class_counts: tuple[int, ...] | list[int] = ()
  class_names: tuple[str, ...] | list[str] = ()  # of class 0, 1, ..., if classes have names
  masked: bool = False  # whether one more channel, the last one, tells which pixels count
  notes: tuple[str, ...] | list[str] = ()  # sentences about the images that a user should know
  checksum: str = ''  # SHA-256 of the labels and of all other fields; '' in older folders

  @property
  def stored(self) -> tuple[int, int, int]:
    """Height, width and channels of a stored image."""
    return self.height, self.width, self.channels + self.condition + self.masked

  @property
  def dtype(self) -> np.dtype[Any]:
    """The type of stored pixels."""
    return np.dtype(np.uint8 if self.levels else np.float32)


class Prepared(NamedTuple):
  """Prepared images: memory-mapped, so that opening them costs nothing."""

  spec: DataSpec
  images: dict[str, np.ndarray]  # by split: [N, *spec.stored] of spec.dtype
  labels: dict[str, np.ndarray | None]  # by split: int32 [N], None if the source has none
  path: str  # the cache folder


def prepare(
  config: DataConfig, progress: ingest.Progress | None = None, verify: bool = False
) -> Prepared:
  """Opens the images of a configuration; ingests them the first time.

  Args:
    config: the source, the size and the split.
    progress: callback for progress messages while images are ingested.
    verify: whether to compare the SHA-256 of a cached array, which reads all of it.

  Raises:
    FileNotFoundError: the source is missing; the message says what to put where.
    ImportError: the source needs a package of the `data` or the `medical` extra.
    UnreadableImage: naming a corrupt image, unless the source's `skip_corrupt`.
    ValueError: the configuration is wrong, images have mixed sizes, or the cache is damaged.
  """
  config = sources.resolve(config)
  source = sources.find(config)
  fingerprint = _fingerprint(config, source)
  root = os.path.abspath(
    os.path.expanduser(config.cache_dir or os.path.join('~', '.cache', 'structured_obs'))
  )
  path = os.path.join(root, f'{source.name.partition(":")[0]}-{fingerprint[:16]}')
  once.make(path, lambda folder: _ingest(folder, config, source, progress), progress)
  return load(path, verify)


def crops_of(config: DataConfig) -> int:
  """Returns the number of windows per image."""
  return config.crop_options.get('crops', 1)


def _fingerprint(config: DataConfig, source: base.Source) -> str:
  """Returns a digest of everything that determines the prepared images."""
  fields = dataclasses.asdict(config)
  fields['skip_corrupt'] = config.options.get('skip_corrupt', False)
  relevant = _RELEVANT + (('labels',) if config.labels else ())
  if config.mask != masks.NONE:
    relevant = (*relevant, 'mask', 'mask_options')
  if config.crop == 'random':
    fields['crops'], relevant = crops_of(config), (*relevant, 'crops')
  return base.digest(
    [_CODE, source.name.partition(':')[0], source.identity, {name: fields[name] for name in relevant}]
  )


def _ingest(
  folder: str,
  config: DataConfig,
  source: base.Source,
  progress: ingest.Progress | None,
) -> None:
  """Reads the source and writes images.npy, labels.npy and spec.json into a folder."""
  say = progress or (lambda line: None)
  say(f'reading {source.name}')
  records = source.open()
  if config.mask != masks.NONE:
    masks.check(config, records, source.name)
  split = splits.assign(records.size, records.splits, config, records.groups)
  indices = np.concatenate([np.flatnonzero(split == k) for k in range(len(splits.SPLITS))])
  with once.storing(folder):
    written = ingest.write(
      os.path.join(folder, 'images.npy'),
      ingest.Job(
        records,
        indices.tolist(),
        decode.target(config),
        config.options.get('skip_corrupt', False),
        config.labels,
        progress,
        crops_of(config),
        config.split_seed,
        config.mask != masks.NONE,
      ),
    )
    images = indices[written.rows // crops_of(config)]
    _check_kept(np.bincount(split[indices], minlength=3), np.bincount(split[images], minlength=3))
    spec = _spec(config, source, records, written, (images, split[images]))
    if spec.has_labels:
      np.save(os.path.join(folder, 'labels.npy'), np.array(written.labels, np.int32))
    with open(os.path.join(folder, 'spec.json'), 'w', encoding='utf-8') as file:
      json.dump(spec._asdict(), file, indent=2)
  for note in spec.notes:
    say(note)


def _check_kept(wanted: np.ndarray, kept: np.ndarray) -> None:
  """Raises a ValueError if a split had images, [3], but has no readable ones, [3]."""
  for name, before, after in zip(splits.SPLITS, wanted, kept, strict=True):
    if before and not after:
      raise ValueError(
        f'None of the {before:,} images of the {name} split is readable. Replace them or '
        'split differently, such as by --config.data.split_seed=1.'
      )


def _spec(
  config: DataConfig,
  source: base.Source,
  records: base.Records,
  written: ingest.Written,
  kept: tuple[np.ndarray, np.ndarray],
) -> DataSpec:
  """Describes the written images; `kept` has each image's number in the source and its split, [M]."""
  images, split = kept
  known = None if None in written.labels else np.array(written.labels, np.int32)
  condition, masked = records.condition + config.labels, config.mask != masks.NONE
  height, width, channels = written.shape
  repeated = splits.repeated(split, written.digests)
  seen = written.seen | {'repeated': set(images[repeated].tolist())}
  class_counts = (
    []
    if known is None or not config.labels
    else labels.counts(known, split == splits.SPLITS.index('train'), len(records.class_names))
  )
  spec = DataSpec(
    height,
    width,
    channels - condition - masked,
    levels=records.levels,
    source=source.name,
    version=records.version,
    counts={name: int(np.sum(split == k)) for k, name in enumerate(splits.SPLITS)},
    fingerprint=_fingerprint(config, source),
    sha256=written.sha256,
    split_rule=splits.rule(records.splits, config, records.groups is not None),
    crop=config.crop,
    crops=crops_of(config),
    resample=config.resample,
    has_labels=known is not None,
    skipped=written.skipped,
    skipped_names=written.skipped_names,
    libraries=_libraries(),
    condition=condition,
    class_counts=class_counts,
    class_names=list(records.class_names),
    masked=masked,
    notes=[*records.notes(), *notes.of_images(seen, records.describe)],
  )
  return spec._replace(checksum=_checksum(spec, known))


def _checksum(spec: DataSpec, known: np.ndarray | None) -> str:
  """Returns a digest of the labels, int32 [N] or None, and of all fields but the checksum."""
  fields = spec._replace(checksum='')._asdict()
  if not spec.masked:  # as in folders from before there were masks
    del fields['masked']
  return base.digest([fields, None if known is None else known.tolist()])


def _libraries() -> dict[str, str]:
  """Returns the versions of the packages that images pass through."""
  found = {'numpy': np.__version__}
  with contextlib.suppress(ImportError):  # digits need no Pillow
    found['pillow'] = base.version('pillow').split()[1]
  return found


def load(path: str, verify: bool = False) -> Prepared:
  """Opens a folder that `prepare` has written.

  Raises:
    ValueError: it was altered or truncated since.
  """
  try:
    with open(os.path.join(path, 'spec.json'), encoding='utf-8') as file:
      spec = DataSpec(**json.load(file))
    images = np.load(os.path.join(path, 'images.npy'), mmap_mode='r')
    known = np.load(os.path.join(path, 'labels.npy')) if spec.has_labels else None
    expected = (sum(spec.counts[name] for name in splits.SPLITS), *spec.stored)
    intact = spec.checksum in ('', _checksum(spec, known))
  except Exception as error:  # NumPy and damaged JSON raise almost any error
    raise ValueError(_damaged(path, str(error) or type(error).__name__)) from error
  if not intact:
    raise ValueError(_damaged(path, 'the checksum of spec.json and labels.npy is wrong'))
  if images.shape != expected or images.dtype != spec.dtype or not images.flags.c_contiguous:
    raise ValueError(
      _damaged(
        path,
        f'images.npy is {images.dtype} of shape {images.shape}, but '
        f'spec.json says {spec.dtype} of shape {expected}',
      )
    )
  if verify and ingest.pixels_sha256(os.path.join(path, 'images.npy')) != spec.sha256:
    raise ValueError(_damaged(path, "the pixels' SHA-256 differs from that in spec.json"))
  return Prepared(spec, _by_split(images, spec), _by_split(known, spec), path)


def _damaged(path: str, reason: str) -> str:
  """Returns a message that a cache folder is damaged, with the fix."""
  return (
    f'The prepared images in {path} were altered after they were written: {reason}. Delete '
    'that folder; the next run prepares it again.'
  )


def _by_split(array: np.ndarray | None, spec: DataSpec) -> dict[str, Any]:
  """Cuts [N, ...] into the splits, in order."""
  ends = np.cumsum([spec.counts[name] for name in splits.SPLITS])
  return {
    name: None if array is None else array[end - spec.counts[name] : end]
    for name, end in zip(splits.SPLITS, ends, strict=True)
  }
