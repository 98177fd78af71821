"""Reads and truncates metrics.jsonl of a run, and replaces files atomically.

Each line is a JSON object {"step": .., "kind": "train" or "validation", name: number, ..}. The JSON is
strict: a number that is not finite is null.
"""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from structured_obs import strict_json

FILE = 'metrics.jsonl'


@functools.cache
def warn(text: str) -> None:
  """Prints a warning on stderr."""
  print(f'Warning: {text}', file=sys.stderr, flush=True)


def replace(path: Path, text: str) -> None:
  """Replaces a file atomically.

  Raises:
    OSError: the file could not be written, with its path; the old file is unchanged.
  """
  temporary = path.with_name(f'{path.name}.tmp')
  with naming(path):
    try:
      temporary.write_text(text)
      os.replace(temporary, path)
    except OSError:
      temporary.unlink(missing_ok=True)
      raise


def read(workdir: Path) -> list[dict[str, Any]]:
  """Returns the records of a run, in order; ignores an incomplete last line.

  Other invalid lines are skipped with a warning.
  """
  path = Path(workdir) / FILE
  lines = path.read_bytes().split(b'\n')[:-1] if path.exists() else []
  records, bad = [], []
  for number, line in enumerate(lines, 1):
    try:
      records.append(_parse(line))
    except (ValueError, RecursionError) as error:
      bad.append(f'line {number} of {path} is not a record ({error}) and is skipped')
  if bad:
    more = f' (lines skipped: {len(bad)})' if bad[1:] else ''
    warn(f'{bad[0]}{more}.')
  return records


def truncate(workdir: Path, step: int) -> None:
  """Removes the records after `step`; a resumed run writes them again."""
  kept = [record for record in read(workdir) if record['step'] <= step]
  text = ''.join(strict_json.text(record, indent=None) for record in kept)
  path = Path(workdir) / FILE
  if not path.exists() or path.read_bytes() != text.encode():  # a full disk has no room for a copy
    replace(path, text)


def _parse(line: bytes) -> dict[str, Any]:
  """Returns a record; raises a ValueError that says why a line is not one."""
  record = strict_json.strict(json.loads(line.decode()))
  if not isinstance(record, dict):
    raise ValueError('not a JSON object')
  if type(record.get('step')) is not int or not isinstance(record.get('kind'), str):
    raise ValueError("without a 'step' or 'kind'")
  wrong = [
    name
    for name, value in record.items()
    if name != 'kind' and not isinstance(value, int | float | None)
  ]
  if wrong:
    raise ValueError(f"'{wrong[0]}' is not a number")
  return record


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
  """Adds the path to an error of the file system."""
  try:
    yield
  except OSError as error:
    raise OSError(error.errno, error.strerror, str(path)) from error
