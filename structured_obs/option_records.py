"""Options that belong to what they are of: a family, a kind of model, a source brings its own record.

A record is a NamedTuple, a dataclass or a constructor whose fields are annotated as in `option_values`;
or several of these side by side, as a tuple; or None, where there are no options.

>>> from typing import Annotated
>>> from structured_obs.option_values import Range
>>> class Options(NamedTuple):
...   rank: Annotated[int, Range(0, 4096)] = 25
>>> where = Where('--config.model.options', "--config.model.kind='vae'")
>>> fill(Options, {}, where)
{'rank': 25}
>>> fill(Options, {'rnak': 3}, where)  # doctest: +ELLIPSIS
Traceback (most recent call last):
ValueError: --config.model.options.rnak=3: there is no such option of --config.model.kind='vae'; did ...

An option may choose what has options of its own, a `OneOf`: those of an architecture or a prior, say.
"""

import copy
import dataclasses
import inspect
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from structured_obs import names
from structured_obs.option_values import KINDS, Option, Where, checked_value, option_of, shown

Record = Any  # a class or function with annotated fields, a tuple of such, or None


class OneOf(NamedTuple):
  """A name that chooses what has options of its own.

  These stand in the option called `options`, or where that is '' beside the name itself; what one of the
  records has is then an option only where that one is chosen.
  """

  records: Mapping[str, Record]
  options: str = ''
  ends: str = ''  # the name ends before this sign, as 'folder' in 'folder:PATH'

  @property
  def known(self) -> tuple[str, ...]:
    """What its value may be; () where more stands behind a name."""
    return () if self.ends else tuple(self.records)


class Group(NamedTuple):
  """A dict of options, all of which have their defaults where one of them is given; {} for none."""

  record: Record


class Groups(NamedTuple):
  """A dict of groups, each by one of these names."""

  records: Mapping[str, Record]


def options_of(record: Record) -> dict[str, Option]:
  """Returns every option of a record by its name, whatever is chosen."""
  if record is None:
    return {}
  if isinstance(record, tuple):
    return {name: option for part in record for name, option in options_of(part).items()}
  hints = typing.get_type_hints(record, include_extras=True)
  if dataclasses.is_dataclass(record):
    defaults = {field.name: getattr(record(), field.name) for field in dataclasses.fields(record)}
  else:
    parameters = inspect.signature(record).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
  return {name: option_of(hints[name], default) for name, default in defaults.items()}


def available(record: Record, given: Mapping[str, Any], where: Where) -> dict[str, Option]:
  """Returns the options of a record that there are for the names which these values choose.

  Raises:
    ValueError: there is no such choice.
  """
  found = options_of(record)
  for name, option in list(found.items()):
    rule = option.rule(OneOf)
    if rule is None or rule.options:
      continue
    owned = {one for records in rule.records.values() for one in options_of(records)}
    chosen = checked_value(where, name, option, given.get(name, option.default))
    found = {one: other for one, other in found.items() if one not in owned}
    found |= options_of(rule.records[chosen])
    for one in given:
      if one in owned and one not in found:
        owner = f'{where.flag}.{name}={chosen!r}' if where.flag else f'the {name} {chosen!r}'
        refuse(where._replace(owner=owner), one, given[one], found)
  return found


def fill(record: Record, given: Mapping[str, Any], where: Where, rules: Any = None) -> dict[str, Any]:
  """Returns every option of a record with its value: the default, or what is given.

  Args:
    record: of the options.
    given: by their names.
    where: how messages call them.
    rules: further rules by the names of options, which the record itself cannot know.

  Raises:
    TypeError: a value is of another type, in the library.
    ValueError: there is no option of a name, with the nearest one; or a value cannot be.
  """
  known = available(record, given, where)
  known = {
    name: option._replace(rules=(*option.rules, *((rules[name],) if name in (rules or {}) else ())))
    for name, option in known.items()
  }
  for name, value in given.items():
    if name not in known:
      refuse(where, name, value, known)
  found = {
    name: checked_value(where, name, option, given.get(name, copy.deepcopy(option.default)))
    for name, option in known.items()
  }
  for name, option in known.items():
    _fill_nested(found, name, option, where)
  return found


def _fill_nested(found: dict[str, Any], name: str, option: Option, where: Where) -> None:
  """Fills what an option has of options, in place."""
  flag = f'{where.flag}.{name}' if where.flag else name
  one, group, groups = option.rule(OneOf), option.rule(Group), option.rule(Groups)
  if one and one.options:
    place = f'{where.flag}.{one.options}' if where.flag else ''
    below = Where(place, f'{flag}={found[name]!r}' if where.flag else f'the {name} {found[name]!r}')
    found[one.options] = fill(one.records[chosen_name(one, found[name])], found[one.options], below)
  if group and found[name]:
    found[name] = fill(group.record, found[name], Where(flag, flag))
  if groups:
    for key, value in found[name].items():
      if key not in groups.records:
        refuse(Where(flag, flag), key, value, groups.records)
      if type(value) is not dict:
        raise ValueError(f'{flag}.{key} must be {KINDS[dict][1]}, but is {shown(value)}.')
      place = Where(f'{flag}.{key}', f'{flag}.{key}')
      found[name] = {**found[name], key: fill(groups.records[key], value, place)}


def chosen_name(rule: OneOf, value: str) -> str:
  """Returns which of its records a value chooses."""
  return value.partition(rule.ends)[0] if rule.ends else value


def refuse(where: Where, name: str, value: Any, known: Iterable[str]) -> NoReturn:
  """Raises the ValueError of an option that there is not, with the nearest name, or all of them."""
  listed, before = sorted(known), f'{where.flag}.' if where.flag else ''
  near = names.nearest(name, listed)
  there = ', '.join(before + one for one in listed)
  hint = (
    f'did you mean {before}{near}?' if near else f'there {"are" if there else "is"} {there or "none"}.'
  )
  raise ValueError(f'{before}{name}={value!r}: there is no such option of {where.owner}; {hint}')
