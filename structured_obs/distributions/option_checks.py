"""Checks of the options of a family: the type and the range of each stand in its annotation.

An option is a parameter with a type of int, float, bool or str. Where not every value of the type will
do, `Annotated` adds a `Range` or a `Choice`:

>>> @checked('low_rank')
... def family(rank: Annotated[int, Range(0, 4096)] = 25):
...   return rank
>>> family(rank=1.5)
Traceback (most recent call last):
TypeError: The option rank of low_rank must be a whole number from 0 to 4096; got 1.5.

Rules between two options, such as the order of scales, stay with the family.
"""

import difflib
import functools
import inspect
import math
import numbers
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

P = ParamSpec('P')
R = TypeVar('R')


class Range(NamedTuple):
  """Numbers from `least` to `most`, both included; of whole numbers only the odd ones, on request."""

  least: float = -math.inf
  most: float = math.inf
  odd: bool = False


class Choice(NamedTuple):
  """Strings that an option may be."""

  known: tuple[str, ...]


# Standard deviations and variances that float32 holds together with their squares and reciprocals.
Scale = Annotated[float, Range(1e-15, 1e15)]
Variance = Annotated[float, Range(1e-30, 1e30)]

KINDS: dict[type, tuple[type | tuple[type, ...], str]] = {
  bool: ((bool, np.bool_), 'True or False'),
  int: (numbers.Integral, 'a whole number'),
  float: (numbers.Real, 'a number'),
  str: (str, 'a string'),
}


def checked(family: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
  """Decorates a constructor, whose options are then checked by their annotations on every call.

  Raises:
    TypeError, ValueError: by the constructor; the message names the option and the family.
  """

  def decorate(constructor: Callable[P, R]) -> Callable[P, R]:
    hints = typing.get_type_hints(constructor, include_extras=True)
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> R:
      check(family, hints, signature.bind(*args, **kwargs).arguments)
      return constructor(*args, **kwargs)

    return construct

  return decorate


def check(family: str, hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
  """Checks values by the annotations of their names; passes over what has none of an option.

  Raises:
    TypeError: a value is of another type. A bool is no number; a whole number is one for a float.
    ValueError: a value is not finite, out of its range or not among its choices.
  """
  for name, value in values.items():
    if name in hints:
      _check_one(f'The option {name} of {family}', hints[name], value)


def _check_one(title: str, hint: Any, value: Any) -> None:
  kind, *rules = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
  if kind not in KINDS:
    return
  rule = rules[0] if rules else Choice(()) if kind is str else Range()
  known, wanted = KINDS[kind]
  message = f'{title} must be {_described(wanted, rule)}; got {value!r}.'
  if not isinstance(value, known) or (kind is not bool and isinstance(value, bool)):
    raise TypeError(message)
  if isinstance(rule, Choice):
    if rule.known and value not in rule.known:
      near = difflib.get_close_matches(value, rule.known, n=1)
      raise ValueError(message + (f' Did you mean {near[0]!r}?' if near else ''))
  elif kind is not bool and not _inside(rule, value):
    raise ValueError(message)


def _inside(rule: Range, value: Any) -> bool:
  finite = -math.inf < value < math.inf
  return finite and rule.least <= value <= rule.most and not (rule.odd and value % 2 == 0)


def _described(wanted: str, rule: Range | Choice) -> str:
  if isinstance(rule, Choice):
    return 'one of ' + ', '.join(map(repr, rule.known)) if rule.known else wanted
  wanted = wanted.replace('a whole', 'an odd whole') if rule.odd else wanted
  if rule.most < math.inf:
    return f'{wanted} from {rule.least:g} to {rule.most:g}'
  return f'{wanted} of at least {rule.least:g}' if rule.least > -math.inf else wanted
