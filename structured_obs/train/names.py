"""Checks of names that a user typed, with the nearest valid one in the message."""

import difflib
from collections.abc import Iterable


def check(field: str, value: str, valid: Iterable[str]) -> None:
  """Raises a ValueError that lists the valid names if `value` is not among them."""
  known = sorted(valid)
  if value in known:
    return
  near = difflib.get_close_matches(value, known, n=1)
  hint = f" Did you mean '{near[0]}'?" if near else ''
  listed = ', '.join(f"'{name}'" for name in known)
  raise ValueError(f"--config.{field} is '{value}', but must be one of {listed}.{hint}")
