"""Decoding, cropping and resizing every image of a source, once, into one array on disk.

Memory stays bounded: an image is written as soon as it has its final size, and only a few are in
flight. Threads decode at once, for Pillow lets go of the interpreter while it works; the order of
the rows does not depend on them.
"""

import functools
import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from structured_obs.data import crops, decode, labels, sources

Progress = Callable[[str], None]
_EVERY = 5.  # seconds between two lines of progress
_IN_FLIGHT = 4  # images decoded ahead, per thread
_NAMED = 10  # at most so many corrupt images are named
_PIECE = 1 << 22  # bytes read at once for a checksum

T = TypeVar('T')


class Written(NamedTuple):
  """What `write` wrote."""
  shape: tuple[int, int, int]  # H, W, C of every image
  rows: np.ndarray  # [M] which row of the job each row of the array is
  labels: list[int | None]  # [M]
  sha256: str  # of the pixels in order, without the file's header
  skipped: int  # number of corrupt images left out
  skipped_names: list[str]  # the first of them


class Job(NamedTuple):
  """What to ingest, and how."""
  records: sources.Records
  indices: Sequence[int]  # which images, in which order
  target: decode.Target
  skip_corrupt: bool = False  # leave corrupt images out, instead of an error at the first
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


def write(path: str, job: Job) -> Written:
  """Writes the images of a job as one .npy file, [M, H, W, C] of the type that its source has.

  Raises:
    UnreadableImage: naming the first corrupt image, unless they are skipped.
    ValueError: where two images differ in size, and no size to bring them to is given.
  """
  shape, dtype, rows, found, corrupt = None, None, [], [], []
  digest = hashlib.sha256()
  with open(path, 'wb') as file:
    for row, loaded in enumerate(_told(_in_order(job), job)):
      if isinstance(loaded, decode.UnreadableImage):
        name = _corrupt(loaded, job, row)
        corrupt += [] if row % job.crops else [name]
        continue
      image, label = loaded
      if shape is None:
        shape, dtype = image.shape, image.dtype
        _header(file, (job.rows, *shape), dtype)
      elif image.shape != shape:
        raise ValueError(_mixed(job, (rows[0], shape), (row, image.shape)))
      content = image.tobytes()
      file.write(content)
      digest.update(content)
      rows.append(row)
      found.append(label)
    if shape is None or dtype is None:
      raise ValueError(f'None of {job.rows} images can be read; the first is {corrupt[0]}.')
    file.seek(0)
    _header(file, (len(rows), *shape), dtype)
  return Written(shape, np.array(rows), found, digest.hexdigest(), len(corrupt), corrupt[:_NAMED])


def _load(job: Job, row: int) -> sources.Example | decode.UnreadableImage:
  """Reads one image and brings it to its size; a corrupt one gives its error."""
  index, to = job.image(row), job.target
  try:
    image, label = job.records.load(index)
  except decode.UnreadableImage as error:
    return error
  if to.crop == 'random':
    seed = job.seed, index, row % job.crops
    image = crops.window(image, (to.height, to.width), seed, job.records.levels)
  example = decode.fit(image, job.target), label
  return labels.behind(example, job.records.describe(index)) if job.labels else example


def _corrupt(error: decode.UnreadableImage, job: Job, row: int) -> str:
  """Returns the name of a corrupt image to be skipped, or raises the error."""
  if job.skip_corrupt:
    return job.records.describe(job.image(row))
  raise decode.UnreadableImage(f'{error}. Replace or remove it, or set --config.data.skip_corrupt=True '
                               'to leave such images out.') from error


def _mixed(job: Job, *images: tuple[int, tuple[int, ...]]) -> str:
  """Says that two images, (row, shape) each, differ in size, and what to set."""
  one, other = (f'{job.records.describe(job.image(row))} is {" x ".join(map(str, shape))}'
                for row, shape in images)
  return (f'Images differ in size (height x width x channels): {one}, but {other}. Set '
          '--config.data.height, --config.data.width and --config.data.channels to bring all of them '
          'to one size.')


def _header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
  """Writes a .npy header; NumPy pads it so that any number of rows takes the same space."""
  header = {'descr': dtype.str, 'fortran_order': False, 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)


def _in_order(job: Job) -> Iterator[sources.Example | decode.UnreadableImage]:
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
    digest.update(array[start:start + rows].tobytes())
  return digest.hexdigest()
