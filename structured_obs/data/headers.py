"""What the header of a file tells of, compared with what it holds before any memory is asked for."""

import gzip
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

_PIECE = 1 << 20  # bytes read at once


def size(shape: Iterable[int], dtype: np.dtype[Any] | type) -> int:
  """Returns how many bytes an array of this shape and type has.

  Raises:
    ValueError: where an axis has a negative size, or the array is larger than this machine's memory.
  """
  lengths = [int(length) for length in shape]
  total = math.prod(lengths) * np.dtype(dtype).itemsize
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if min(lengths, default=0) < 0 or total > memory:
    raise ValueError(f'its header tells of a shape of {" x ".join(map(str, lengths))}, which is none, '
                     f'or more than the {memory >> 20:,} MiB of memory of this machine')
  return total


def compare(declared: int, held: int, padding: int = 0) -> None:
  """Raises a ValueError unless a file holds what its header tells of.

  Args:
    declared: bytes by the header.
    held: bytes that are there.
    padding: bytes that may follow.
  """
  if not declared <= held <= declared + padding:
    raise ValueError(f'its header tells of {declared:,} bytes, but it holds {held:,}')


def unpacked(path: str) -> int:
  """Returns the bytes in a gzipped file; reads it to its end, where its checksum is."""
  with gzip.open(path) as file:
    return sum(map(len, iter(lambda: file.read(_PIECE), b'')))
