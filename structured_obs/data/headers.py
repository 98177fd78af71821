"""Checks what a file's header declares before any memory is allocated for it."""

import gzip
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

_PIECE = 1 << 20  # bytes read at once


def size(shape: Iterable[int], dtype: np.dtype[Any] | type) -> int:
  """Returns the number of bytes of an array of this shape and type.

  Raises:
    ValueError: an axis has a negative size, or the array is larger than this machine's memory.
  """
  lengths = [int(length) for length in shape]
  total = math.prod(lengths) * np.dtype(dtype).itemsize
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  if min(lengths, default=0) < 0 or total > memory:
    raise ValueError(
      f'its header declares the shape {" x ".join(map(str, lengths))}, which is invalid '
      f'or exceeds the {memory >> 20:,} MiB of memory of this machine'
    )
  return total


def compare(declared: int, held: int, padding: int = 0) -> None:
  """Compares what a header declares with what the file contains.

  Args:
    declared: bytes according to the header.
    held: bytes in the file.
    padding: number of further bytes that the file may have.

  Raises:
    ValueError: they differ.
  """
  if not declared <= held <= declared + padding:
    raise ValueError(f'its header declares {declared:,} bytes, but it has {held:,}')


def unpacked(path: str) -> int:
  """Returns the bytes in a gzipped file; reads it to its end, where its checksum is."""
  with gzip.open(path) as file:
    return sum(map(len, iter(lambda: file.read(_PIECE), b'')))
