"""Values of options, checked by the type and the rule in their annotations.

An option is an int, a float, a bool, a str, a tuple of one of these, or a dict. If not every value of
the type is valid, `Annotated` adds a `Range`, a `Choice` or a `Path`:

>>> @checked('low_rank')
... def family(rank: Annotated[int, Range(0, 4096)] = 25):
...   return rank
>>> family(rank=1.5)
Traceback (most recent call last):
TypeError: The option rank of low_rank must be a whole number from 0 to 4096; got 1.5.

Rules between two options, such as the order of scales, belong to their owner.
"""

import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from structured_obs import names

P = ParamSpec('P')
R = TypeVar('R')
T = TypeVar('T')
LARGEST_INT = 2**31 - 1  # steps, seeds and sizes are 32-bit integers on the devices
LARGEST, SMALLEST = (float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny))
NOTHING: Mapping[str, Any] = types.MappingProxyType({})  # default of a group
SHOWN = 60  # characters of a value in messages


class Range(NamedTuple):
  """Numbers from `least` to `most`, both included by default."""

  least: float = -math.inf
  most: float = math.inf
  odd: bool = False  # odd whole numbers only
  above: bool = False  # excludes `least` itself
  below: bool = False  # excludes `most` itself


class Choice(NamedTuple):
  """The allowed values of an option."""

  known: tuple[Any, ...]


class Path(NamedTuple):
  """A path on this machine, or ''."""


class Filled(NamedTuple):
  """A tuple that is not empty; in addition to the rule of its entries."""


class When(NamedTuple):
  """An option that has no effect, and keeps its default, unless another has one of these values."""

  other: str
  values: tuple[Any, ...] = (True,)


class Option(NamedTuple):
  """One option of a record."""

  kind: Any  # its type
  rules: tuple[Any, ...]
  default: Any

  def rule(self, kind: type[R]) -> R | None:
    """Returns the rule of this kind, or None."""
    return next((rule for rule in self.rules if isinstance(rule, kind)), None)


class Where(NamedTuple):
  """How messages refer to an option."""

  flag: str = ''  # prefix of its name as typed, such as '--config.model.options'; '' in the library
  owner: str = ''  # its owner, such as "--config.model.kind='vae'" or 'low_rank'


# Standard deviations and variances that float32 can represent together with squares and reciprocals.
Scale = Annotated[float, Range(1e-15, 1e15)]
Variance = Annotated[float, Range(1e-30, 1e30)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int, Range(0)]  # 0 for none
Share = Annotated[float, Range(0, 1, below=True)]
Widths = Annotated[tuple[int, ...], Range(1), Filled()]  # channels or units of each layer

KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
  bool: ((bool, np.bool_), 'True or False'),
  int: (numbers.Integral, 'a whole number'),
  float: (numbers.Real, 'a number'),
  str: (str, 'a text'),
  dict: (dict, "a dictionary {'name': value}"),
}


@typing.dataclass_transform(field_specifiers=(dataclasses.field,))
def section(cls: type[T]) -> type[T]:
  """Decorates a section of a configuration: a dataclass whose annotations have its fields' rules."""
  made = dataclasses.dataclass(cls)
  for field in dataclasses.fields(made):  # type: ignore[arg-type]
    field.type = option_of(field.type).kind  # what the flag parser reads
  return made


def checked(owner: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
  """Decorates a constructor so that its options are checked by their annotations on every call.

  Raises:
    TypeError, ValueError: by the constructor; the message names the option and its owner.
  """

  def decorate(constructor: Callable[P, R]) -> Callable[P, R]:
    hints = typing.get_type_hints(constructor, include_extras=True)
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> R:
      check(owner, hints, signature.bind(*args, **kwargs).arguments)
      return constructor(*args, **kwargs)

    return construct

  return decorate


def check(owner: str, hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
  """Checks values by the annotations of their names; ignores annotations that are not of options.

  Args:
    owner: of the options, in messages.
    hints: annotations by name.
    values: by name.

  Raises:
    TypeError: a value has another type. A bool is not a number; a whole number is valid for a float.
    ValueError: a value is not finite, out of its range or not among its choices.
  """
  for name, value in values.items():
    option = option_of(hints[name]) if name in hints else None
    if option and option.kind in KINDS:
      checked_value(Where('', owner), name, option, value)


def checked_value(where: Where, name: str, option: Option, value: Any) -> Any:
  """Returns a value as an option stores it: a tuple for a list, a float for a whole number.

  Args:
    where: how messages refer to the option.
    name: of the option.
    option: its type and rules.
    value: to check.

  Raises:
    TypeError, ValueError: the value is invalid; in a configuration both are a ValueError.
  """
  title = f'{where.flag}.{name}' if where.flag else f'The option {name} of {where.owner}'
  kind, item = base_of(option)
  message = f'{title} must be {wanted_of(option)}'
  plain = bool(where.flag)
  made: Any = tuple(value) if item and isinstance(value, list) and plain else value
  entries = made if item and isinstance(made, tuple) else (made,)
  good = type(made) is tuple if item else _is(made, kind, plain)
  good = good and (kind is not dict or all(isinstance(key, str) for key in made))
  if not good or not all(_is(one, item or kind, plain) for one in entries):
    if plain:
      raise ValueError(f'{message}, but is {shown(made)}, of type {type(made).__name__}.')
    raise TypeError(f'{message}; got {made!r}.')
  if not all(_fits(option, one, plain) for one in entries) or (
    option.rule(Filled) is not None and not made
  ):
    near = names.nearest(str(made), [str(one) for one in choices(option)])
    hint = f' Did you mean {near!r}?' if near else ''
    got = f', but is {shown(made)}.' if plain else f'; got {made!r}.'
    raise ValueError(f'{message}{got}{hint}')
  if option.rule(Path) is not None:
    names.local_path(title, str(made))
  return float(typing.cast(float, made)) if kind is float and plain else made


def option_of(hint: Any, default: Any = None) -> Option:
  """Returns the option that an annotation and a default describe."""
  kind, *rules = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
  return Option(kind, tuple(rules), default)


def base_of(option: Option) -> tuple[type, type | None]:
  """Returns the type of a value, and that of its entries if it is a tuple."""
  if typing.get_origin(option.kind) is tuple:
    return tuple, typing.get_args(option.kind)[0]
  kind = typing.get_origin(option.kind) or option.kind
  return dict if kind is Mapping or kind is typing.get_origin(Mapping[str, Any]) else kind, None


def choices(option: Option) -> tuple[Any, ...]:
  """Returns the allowed values of an option; () if it has no such list."""
  return next((rule.known for rule in option.rules if hasattr(rule, 'known')), ())


def shown(value: Any) -> str:
  """Returns a value as Python writes it, cut to 60 characters."""
  if type(value) is int and abs(value) > LARGEST_INT:
    return f'of {value.bit_length()} bits'
  text = repr(value)
  return text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'


def wanted_of(option: Option) -> str:
  """Returns a description of the allowed values."""
  kind, item = base_of(option)
  known = choices(option)
  words = 'one of ' + ', '.join(map(repr, known)) if known else KINDS[item or kind][1]
  rule = option.rule(Range)
  if rule:
    words = words.replace('a whole', 'an odd whole') if rule.odd else words
    least = f'{"above" if rule.above else "of at least"} {rule.least:g}'
    if rule.most < math.inf and not (rule.above or rule.below):
      words += f' from {rule.least:g} to {rule.most:g}'
    elif rule.most < math.inf:
      words += f' {least} and {"below" if rule.below else "at most"} {rule.most:g}'
    elif rule.least > -math.inf:
      words += f' {least}'
  if item is None:
    return words
  return f'a tuple, {"" if option.rule(Filled) is None else "not empty, "}each entry {words}'


def _is(value: Any, kind: type, plain: bool) -> bool:
  """Returns whether a value has a type; whole numbers count as numbers, True and False do not."""
  if plain:  # in a configuration, which must survive JSON
    return type(value) is kind or (kind is float and type(value) is int)
  return isinstance(value, KINDS[kind][0]) and (kind is bool or not isinstance(value, bool))


def _fits(option: Option, value: Any, plain: bool) -> bool:
  """Returns whether a value, or an entry of a tuple, is in the option's range or among its choices."""
  known = choices(option)
  if known:
    return value in known
  if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
    return True
  number: Any = value
  rule, largest = option.rule(Range) or Range(), math.inf
  if plain:  # of a configuration, whose numbers go to the devices
    largest = LARGEST if isinstance(number, float) else LARGEST_INT
  if not (-math.inf < number < math.inf and abs(number) <= largest) or (rule.odd and number % 2 == 0):
    return False
  low = number >= rule.least
  if rule.above:
    low = number > rule.least and number >= max(SMALLEST, rule.least)
  return low and (number < rule.most if rule.below else number <= rule.most)
