"""Decodes, crops and resizes every image of a source, once, into one array on disk.

Memory is bounded: an image is written as soon as it has its final size, and only a few are in flight.
Threads decode in parallel, because Pillow releases the interpreter lock; the order of the rows does not
depend on them.

If the number of channels is not set, gray images among colour ones become RGB; a colour image after gray
ones restarts the array, once. If an image is unreadable, all others are still tried, so that one error
names them all.
"""

import contextlib
import functools
import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from structured_obs.data import crops, decode, labels, masks, notes
from structured_obs.data.sources import base

Progress = Callable[[str], None]
_EVERY = 5.0  # seconds between two progress messages
_IN_FLIGHT = 4  # images decoded ahead, per thread
_NAMED = 10  # corrupt images that a message names
_DIGEST = 16  # bytes of the digest of one image
_PIECE = 1 << 22  # bytes read at once for a checksum
_EXAMPLE = 64  # pixels: the largest size that a message suggests

T = TypeVar('T')


class Written(NamedTuple):
  """The result of `write`."""

  shape: tuple[int, int, int]  # H, W, C of every image
  rows: np.ndarray  # [M] the job's row for each row of the array
  labels: list[int | None]  # [M]
  digests: list[bytes]  # [M] of the image's own pixels
  sha256: str  # of the pixels in order, without the file's header
  skipped: int  # number of corrupt images left out
  skipped_names: list[str]  # the first of them
  seen: notes.Seen  # facts about single images that a user should know


class Job(NamedTuple):
  """What to ingest, and how."""

  records: base.Records
  indices: Sequence[int]  # the images, in order
  target: decode.Target
  skip_corrupt: bool = False  # leave corrupt images out instead of raising an error
  labels: bool = False  # store each image's class behind it
  progress: Progress | None = None  # callback for progress messages
  crops: int = 1  # random windows per image, one after the other, if the target has random crops
  seed: int = 0  # of the random windows
  mask: bool = False  # store which pixels count behind everything else

  @property
  def rows(self) -> int:
    """Number of images, if none is corrupt."""
    return len(self.indices) * self.crops

  @property
  def behind(self) -> int:
    """Number of channels stored behind an image's own by this module."""
    return self.labels + self.mask

  def image(self, row: int) -> int:
    """Returns the index of a row's image in the source."""
    return self.indices[row // self.crops]

  def name(self, row: int) -> str:
    """Returns the name of a row's image in messages."""
    return self.records.describe(self.image(row))


class _Fitted(NamedTuple):
  """One image at its final size."""

  image: np.ndarray  # [H, W, C]
  label: int | None
  mask: np.ndarray | None  # [H, W, 1]
  facts: tuple[str, ...]  # keys of `notes.FACTS`


class _Unreadable(NamedTuple):
  """One unreadable image."""

  reason: str  # a sentence without a full stop that names the image
  error: Exception


class _ColourAfterGrayError(Exception):
  """The array has one channel so far, but an image needs three."""


def write(path: str, job: Job) -> Written:
  """Writes the images of a job as one .npy file, [M, H, W, C] of the source's type.

  Raises:
    OSError: the file cannot be written.
    UnreadableImage: naming the corrupt images, unless they are skipped.
    ValueError: two images differ in size, and no common size is set.
  """
  try:
    written = _write(path, job)
  except _ColourAfterGrayError:
    if job.progress:
      job.progress('a colour image follows gray ones: restarting in RGB')
    return _write(path, job._replace(target=job.target._replace(channels=3)))
  if job.target.channels or written.shape[-1] - job.behind != 3:
    written.seen['gray'].clear()  # none has become RGB, or all were to
  return written


def _write(path: str, job: Job) -> Written:
  """Writes the images of a job with its channels, or those of the first image."""
  shape, dtype, first, rows, found, digests, corrupt = None, None, None, [], [], [], []
  sha256, seen = hashlib.sha256(), notes.seen()
  with contextlib.closing(_in_order(job)) as loaded, open(path, 'wb') as file:
    for row, item in enumerate(_told(loaded, job)):
      if isinstance(item, _Unreadable):
        corrupt += [] if row % job.crops else [(row, item.reason)]
        first = first or item.error
        seen['unreadable'].add(job.image(row))
      if isinstance(item, _Unreadable) or (corrupt and not job.skip_corrupt):
        continue
      image = item.image
      if shape is None:
        shape, dtype = image.shape, image.dtype
        _header(file, (job.rows, shape[0], shape[1], shape[2] + job.behind), dtype)
      elif image.shape != shape:
        image = _alike(job, image, shape, (rows[0], row))
      content = image.tobytes()
      digests.append(hashlib.blake2b(content, digest_size=_DIGEST).digest())
      if job.labels:
        image = labels.behind((image, item.label), job.name(row))[0]
      if item.mask is not None:
        image = np.concatenate([image, item.mask], axis=-1)
      content = image.tobytes() if job.behind else content
      file.write(content)
      sha256.update(content)
      rows.append(row)
      found.append(item.label)
      for fact in item.facts:
        seen[fact].add(job.image(row))
    if corrupt and not job.skip_corrupt:
      raise unreadable([reason for _, reason in corrupt], f'{len(job.indices):,} images') from first
    if shape is None or dtype is None:
      raise ValueError(
        f'None of {len(job.indices):,} images is readable; the first is '
        f'{job.name(corrupt[0][0])}. {corrupt[0][1]}.'
      ) from first
    file.seek(0)
    whole = (shape[0], shape[1], shape[2] + job.behind)
    _header(file, (len(rows), *whole), dtype)
  return Written(
    whole,
    np.array(rows),
    found,
    digests,
    sha256.hexdigest(),
    len(corrupt),
    [job.name(row) for row, _ in corrupt[:_NAMED]],
    seen,
  )


def _load(job: Job, row: int) -> _Fitted | _Unreadable:
  """Reads one image and fits it to its size."""
  index, to = job.image(row), job.target
  try:
    with decode.reading(f'Image {job.name(row)}'):
      image, label = job.records.load(index)
      mask = masks.plane(job.records, index, image) if job.mask else None
  except decode.UnreadableImage as error:
    return _Unreadable(str(error), error)
  facts = {
    'small': image.shape[0] < to.height or image.shape[1] < to.width,
    'gray': image.shape[-1] == 1,
  }
  if to.crop == 'random':
    seed = job.seed, index, row % job.crops
    size, levels = (to.height, to.width), job.records.levels
    image, mask = crops.with_mask(image, mask, size, seed, levels, job.name(row))
  try:
    mask = None if mask is None else masks.fitted(mask, to, job.name(row))
  except decode.UnreadableImage as error:
    return _Unreadable(str(error), error)
  return _Fitted(decode.fit(image, to), label, mask, tuple(fact for fact, true in facts.items() if true))


def _alike(job: Job, image: np.ndarray, shape: tuple[int, ...], pair: tuple[int, int]) -> np.ndarray:
  """Returns an image in the shape of the first one, if only their channels differ.

  Args:
    job: of both.
    image: [H, W, C].
    shape: of the first image.
    pair: rows of the first image and this one.

  Raises:
    ValueError: height or width differ.
  """
  if image.shape[:2] != shape[:2]:
    raise ValueError(_mixed(job, shape, image.shape, pair))
  if (image.shape[-1], shape[-1]) == (3, 1):
    raise _ColourAfterGrayError
  return decode.fit(image, job.target._replace(channels=shape[-1]))


def _mixed(job: Job, one: tuple[int, ...], other: tuple[int, ...], pair: tuple[int, int]) -> str:
  """Returns a message that two images differ in size, and whether to set height, width or both."""
  images = ', but '.join(
    f'{job.name(row)} is {" x ".join(map(str, shape))}'
    for row, shape in zip(pair, (one, other), strict=True)
  )
  open_axes = [
    (name, min(one[k], other[k], _EXAMPLE))
    for k, name in enumerate(('height', 'width'))
    if not getattr(job.target, name)
  ]
  flags = ' '.join(f'--config.data.{name}={value}' for name, value in open_axes)
  return (
    f'Images differ in size (height x width x channels): {images}. Resize all of them to one size, '
    f'such as by {flags}.'
  )


def unreadable(reasons: list[str], total: str) -> decode.UnreadableImage:
  """Returns the error that names the first unreadable images, and counts all.

  Args:
    reasons: one sentence per image, without a full stop, that names it.
    total: number and kind of all images, such as '20 images'.
  """
  advice = 'or set --config.data.options.skip_corrupt=True to leave such images out.'
  if len(reasons) == 1:
    return decode.UnreadableImage(f'{reasons[0]}. Replace or remove it, {advice}')
  more = [f'and {len(reasons) - _NAMED:,} more'] if len(reasons) > _NAMED else []
  lines = [f'{len(reasons):,} of {total} cannot be read:', *reasons[:_NAMED], *more]
  return decode.UnreadableImage('\n  '.join(lines) + f'\nReplace or remove them, {advice}')


def _header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
  """Writes a .npy header; NumPy pads it so that any number of rows takes the same space."""
  header = {'descr': dtype.str, 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)


def _in_order(job: Job) -> Generator[_Fitted | _Unreadable, None, None]:
  """Yields every image of a job in order, decoded by threads a few images ahead."""
  load = functools.partial(_load, job)
  if job.records.threads <= 1:
    yield from map(load, range(job.rows))
    return
  with ThreadPoolExecutor(job.records.threads) as pool:
    pending = deque()
    try:
      for row in range(job.rows):
        pending.append(pool.submit(load, row))
        if len(pending) >= _IN_FLIGHT * job.records.threads:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)


def _told(items: Iterable[T], job: Job) -> Iterator[T]:
  """Yields the items, with a progress message now and then."""
  last = time.monotonic()
  for done, item in enumerate(items):
    if job.progress and time.monotonic() - last > _EVERY:
      last = time.monotonic()
      job.progress(f'{done:,} of {job.rows:,} images')
    yield item


def pixels_sha256(path: str) -> str:
  """Returns the SHA-256 of the pixels in a .npy file, read piece by piece."""
  array = np.load(path, mmap_mode='r')
  digest = hashlib.sha256()
  rows = max(1, _PIECE // array[0].nbytes)
  for start in range(0, len(array), rows):
    digest.update(array[start : start + rows].tobytes())
  return digest.hexdigest()
