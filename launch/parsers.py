"""What the values of flags may be, beyond what absl checks: paths on this machine, finite numbers."""

import math
from typing import Any

from absl import flags

from structured_obs import names


class Mistake(ValueError):
  """An invalid command line; the message is one sentence."""


class PathParser(flags.ArgumentParser[str]):
  """Writes `~` out, and refuses addresses on other machines."""

  def __init__(self, name: str):
    super().__init__()
    self._name = name

  def parse(self, argument: str) -> str:
    """Returns the path."""
    try:
      return names.local_path(f'--{self._name}', argument)
    except ValueError as error:
      raise Mistake(str(error)) from error

  def flag_type(self) -> str:
    """Returns what `--help` calls the value."""
    return 'path'


class FiniteParser(flags.FloatParser):
  """Refuses NaN and infinite numbers."""

  def __init__(self, name: str, lower: float | None):
    super().__init__(lower_bound=lower)
    self._name = name

  def convert(self, argument: Any) -> float:
    """Returns the number."""
    value = super().convert(argument)
    if not math.isfinite(value):
      raise Mistake(f'--{self._name} must be a finite number, but is {argument}.')
    return value


class PathsParser(flags.ListParser):
  """A list of paths between commas."""

  def __init__(self, name: str):
    super().__init__()
    self._path = PathParser(name)

  def parse(self, argument: Any) -> list[str]:
    """Returns the paths."""
    return [self._path.parse(path) for path in super().parse(argument)]
