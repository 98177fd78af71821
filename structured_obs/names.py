"""Checks names and paths that a user typed; messages list what is allowed."""

import difflib
import os
import re
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the known name most similar to `name`; '' if none is similar."""
  return next(iter(difflib.get_close_matches(name, list(known), n=1)), '')


def check(field: str, value: str, valid: Iterable[str]) -> None:
  """Raises a ValueError that lists the valid names if `value` is not one of them."""
  known = sorted(valid)
  if value in known:
    return
  near = nearest(value, known)
  hint = f" Did you mean '{near}'?" if near else ''
  listed = ', '.join(f"'{name}'" for name in known)
  raise ValueError(f"--config.{field}='{value}' is unknown; it must be one of {listed}.{hint}")


def check_source(flag: str, source: str, kinds: Iterable[str]) -> None:
  """Raises a ValueError if 'KIND:PATH', of one of these kinds, is not a path on this machine."""
  kind, _, path = source.partition(':')
  local_path(flag, path if kind in kinds else source)


def local_path(flag: str, text: str) -> str:
  """Returns a path with `~` and `~user` expanded; '' stays ''.

  Args:
    flag: the flag of the path, as the user types it, such as '--workdir'.
    text: the path.

  Raises:
    ValueError: the path is on another machine, of an unknown user, or invalid.
  """
  scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*):/', text)
  if scheme:
    fix = (
      f'write {text[text.index(":") + 1 :]!r}'
      if scheme[1].lower() == 'file'
      else (
        'copy the files to a disk of this machine, or mount the storage and give the path it has there'
      )
    )
    raise ValueError(f'{flag}={text} is invalid: only local paths can be used; {fix}.')
  if '\0' in text:
    raise ValueError(f'{flag}={text!r} is invalid: a path has no NUL character.')
  path = os.path.expanduser(text)
  if path.startswith('~') and '/' in path:
    raise ValueError(f"{flag}={text} is invalid: there is no user {path.partition('/')[0][1:]!r}.")
  return path
