"""Decoding, cropping and resizing every image of a source, once, into one array on disk.

Memory stays bounded: an image is written as soon as it has its final size, and only a few are in
flight. Threads decode at once, for Pillow lets go of the interpreter while it works; the order of
the rows does not depend on them.

Where no number of channels is asked for, gray images among colour ones become RGB; a colour image that
comes after gray ones makes the array start again, once. Where an image cannot be read, all others are
still tried, so that one error names them all.
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

from structured_obs.data import crops, decode, labels, notes
from structured_obs.data.sources import base

Progress = Callable[[str], None]
_EVERY = 5.0  # seconds between two lines of progress
_IN_FLIGHT = 4  # images decoded ahead, per thread
_NAMED = 10  # at most so many corrupt images are named
_DIGEST = 16  # bytes of the digest of one image
_PIECE = 1 << 22  # bytes read at once for a checksum
_EXAMPLE = 64  # pixels: the largest size that an error suggests

T = TypeVar('T')


class Written(NamedTuple):
  """What `write` wrote."""

  shape: tuple[int, int, int]  # H, W, C of every image
  rows: np.ndarray  # [M] which row of the job each row of the array is
  labels: list[int | None]  # [M]
  digests: list[bytes]  # [M] of the image's own pixels
  sha256: str  # of the pixels in order, without the file's header
  skipped: int  # number of corrupt images left out
  skipped_names: list[str]  # the first of them
  seen: notes.Seen  # what a user may want to know of single images


class Job(NamedTuple):
  """What to ingest, and how."""

  records: base.Records
  indices: Sequence[int]  # which images, in which order
  target: decode.Target
  skip_corrupt: bool = False  # leave corrupt images out, instead of an error
  labels: bool = False  # put each image's class behind it
  progress: Progress | None = None  # is given a line of text now and then
  crops: int = 1  # random windows of each image, one after the other, where the target has such
  seed: int = 0  # of the random windows

  @property
  def rows(self) -> int:
    """How many images there will be, if none is corrupt."""
    return len(self.indices) * self.crops

  def image(self, row: int) -> int:
    """Which image of the source a row is."""
    return self.indices[row // self.crops]

  def name(self, row: int) -> str:
    """What an error calls the image of a row."""
    return self.records.describe(self.image(row))


class _Fitted(NamedTuple):
  """One image of its final size."""

  image: np.ndarray  # [H, W, C]
  label: int | None
  facts: tuple[str, ...]  # keys of `notes.FACTS`


class _Unreadable(NamedTuple):
  """One image that cannot be read."""

  reason: str  # a sentence without a full stop, which names the image
  error: Exception


class _ColourAfterGrayError(Exception):
  """The array has one channel so far, but an image needs three."""


def write(path: str, job: Job) -> Written:
  """Writes the images of a job as one .npy file, [M, H, W, C] of the type that its source has.

  Raises:
    OSError: where the file cannot be written.
    UnreadableImage: naming the corrupt images, unless they are skipped.
    ValueError: where two images differ in size, and no size to bring them to is given.
  """
  try:
    written = _write(path, job)
  except _ColourAfterGrayError:
    if job.progress:
      job.progress('a colour image follows gray ones: starting again in RGB')
    return _write(path, job._replace(target=job.target._replace(channels=3)))
  if job.target.channels or written.shape[-1] - job.labels != 3:
    written.seen['gray'].clear()  # none has become RGB, or all were to
  return written


def _write(path: str, job: Job) -> Written:
  """Writes the images of a job with the channels it asks for, or those of the first image."""
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
        _header(file, (job.rows, shape[0], shape[1], shape[2] + job.labels), dtype)
      elif image.shape != shape:
        image = _alike(job, image, shape, (rows[0], row))
      content = image.tobytes()
      digests.append(hashlib.blake2b(content, digest_size=_DIGEST).digest())
      if job.labels:
        content = labels.behind((image, item.label), job.name(row))[0].tobytes()
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
        f'None of {len(job.indices):,} images can be read; the first is '
        f'{job.name(corrupt[0][0])}. {corrupt[0][1]}.'
      ) from first
    file.seek(0)
    whole = (shape[0], shape[1], shape[2] + job.labels)
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
  """Reads one image and brings it to its size."""
  index, to = job.image(row), job.target
  try:
    with decode.reading(f'Image {job.name(row)}'):
      image, label = job.records.load(index)
  except decode.UnreadableImage as error:
    return _Unreadable(str(error), error)
  facts = {
    'small': image.shape[0] < to.height or image.shape[1] < to.width,
    'gray': image.shape[-1] == 1,
  }
  if to.crop == 'random':
    seed = job.seed, index, row % job.crops
    image = crops.window(image, (to.height, to.width), seed, job.records.levels, job.name(row))
  return _Fitted(decode.fit(image, to), label, tuple(fact for fact, true in facts.items() if true))


def _alike(job: Job, image: np.ndarray, shape: tuple[int, ...], pair: tuple[int, int]) -> np.ndarray:
  """Gives an image the shape of the first one, where only their channels differ.

  Args:
    job: the job of both.
    image: [H, W, C].
    shape: of the first image.
    pair: rows of the first image and this one.

  Raises:
    ValueError: where height or width differ.
  """
  if image.shape[:2] != shape[:2]:
    raise ValueError(_mixed(job, shape, image.shape, pair))
  if (image.shape[-1], shape[-1]) == (3, 1):
    raise _ColourAfterGrayError
  return decode.fit(image, job.target._replace(channels=shape[-1]))


def _mixed(job: Job, one: tuple[int, ...], other: tuple[int, ...], pair: tuple[int, int]) -> str:
  """Says that two images differ in size, and which of height and width to set."""
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
    f'Images differ in size (height x width x channels): {images}. Bring all of them to one size, '
    f'such as by {flags}.'
  )


def unreadable(reasons: list[str], total: str) -> decode.UnreadableImage:
  """Returns the error that names the first images that cannot be read, and counts all.

  Args:
    reasons: one sentence without a full stop for each, which names it.
    total: how many there are of what, such as '20 images'.
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
  """Passes items on, with a line of progress now and then."""
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
