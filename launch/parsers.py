"""Parsers of flags that absl lacks: paths on this machine, finite numbers, and configs."""

import ast
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from absl import flags

from structured_obs import names
from structured_obs.config import Config
from structured_obs.runs import configuration


class Mistake(ValueError):
  """An invalid command line; the message is one sentence."""


class PathParser(flags.ArgumentParser[str]):
  """Expands `~`, and refuses paths on other machines."""

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
      raise Mistake(f'--{self._name}={argument} is invalid; it must be a finite number.')
    return value


class PathsParser(flags.ListParser):
  """A comma-separated list of paths."""

  def __init__(self, name: str):
    super().__init__()
    self._path = PathParser(name)

  def parse(self, argument: Any) -> list[str]:
    """Returns the paths."""
    return [self._path.parse(path) for path in super().parse(argument)]


class ConfigParser:
  """Parses 'FILE:VARIANT' to the config that the flags of its fields change."""

  def __init__(self, inner: Any, name: str, arguments: Sequence[str]):
    self._inner, self._name, self._arguments = inner, name, arguments
    self.gone: list[str] = []  # options of the file that belong to a choice other than the typed one

  def __getattr__(self, name: str) -> Any:
    return getattr(self._inner, name)

  def parse(self, path: str) -> Any:
    """Returns the config from get_config, with the options of every choice, made or typed, filled in."""
    config = self._inner.parse(path)
    if isinstance(config, Config):
      config, self.gone = configuration.expanded(config, typed(self._arguments, self._name))
    return config


def unknown(name: str, config: str) -> Mistake:
  """Returns the mistake of a flag that a script does not have, with what it may be meant to be.

  Args:
    name: of the flag, without signs.
    config: the name of the flag of a configuration, which a script may have or not.
  """
  said, known = f'--{name} is not a flag of this script', [*flags.FLAGS]
  field = name.removeprefix(f'{config}.').replace('.', '_')
  if config not in known and name.startswith(f'{config}.') and field not in known:
    return Mistake(f'{said}, which takes the configuration of a run as it is; see --help.')
  own = [one for one in known if not one.startswith(f'{config}.')]
  near = [one for one in [names.nearest(field, own)] if one]
  if not near and config in known:
    near = [f'{config}.{place}' for place in configuration.places(name)]
  hint = f'; did you mean {" or ".join(f"--{one}" for one in near)}?' if near else '; see --help.'
  return Mistake(f'{said}{hint}')


def mistyped(name: str, text: str, current: Any) -> Mistake:
  """Returns the error of a value of the wrong type; that of a tuple shows how to write it.

  Args:
    name: of the flag, without dashes.
    text: the value as typed.
    current: the field's value.
  """
  wanted = f'of type {type(current).__name__}'
  if isinstance(current, tuple):
    parts = tuple(part.strip() for part in text.split(','))
    wanted = f'a tuple, quoted for the shell, such as --{name}="{parts}"'
  return Mistake(f'--{name}={text} is invalid; it must be {wanted}.')


def typed(arguments: Sequence[str], name: str) -> dict[str, str]:
  """Returns the texts of all flags --NAME.FIELD, by field."""
  found = {}
  for index, argument in enumerate(arguments):
    flag, equals, value = argument.lstrip('-').partition('=')
    if argument.startswith('-') and flag.removeprefix('no').startswith(f'{name}.'):
      following = ''.join(arguments[index + 1 : index + 2])
      found[flag.removeprefix('no').removeprefix(f'{name}.')] = value if equals else following
  return found


def literal(text: str) -> Any:
  """Returns the Python value that a text stands for, or the text itself."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def value(arguments: Sequence[str], index: int) -> str:
  """Returns the value of a flag, given as --flag=value or --flag value."""
  _, equals, value = arguments[index].partition('=')
  return value if equals or index + 1 == len(arguments) else arguments[index + 1]


def fields(node: Any) -> list[str]:
  """Returns the names below a node of the config."""
  if dataclasses.is_dataclass(node):
    return [field.name for field in dataclasses.fields(node)]
  return list(node) if isinstance(node, dict) else []
