# One file of more than 300 lines: records, and the few rules by which one may choose others.
"""Options that depend on a choice: a family, a kind of model or a source brings its own record.

A record is a NamedTuple, a dataclass or a constructor with fields annotated as in `option_values`; or a
tuple of several; or None, for no options.

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

An option may itself be a choice with options, a `OneOf`, such as an architecture or a prior.
"""

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from structured_obs import names
from structured_obs.option_values import KINDS, Option, When, Where, checked_value, option_of, shown

NONE = 'none'  # leaves a group out, or all of several, when it is typed as their value
Record = Any  # a class or function with annotated fields, a tuple of such, or None


class OneOf(NamedTuple):
  """A choice by name, with options of its own.

  They are in the option called `options`, or if that is '' beside the name itself. Options of one
  choice are invalid with another.
  """

  records: Mapping[str, Record]
  options: str = ''
  ends: str = ''  # the name ends before this sign, as 'folder' in 'folder:PATH'

  @property
  def known(self) -> tuple[str, ...]:
    """The allowed values; () if a name may be followed by more."""
    return () if self.ends else tuple(self.records)


class Group(NamedTuple):
  """A dict of options; if one is given the others have their defaults. {} for none, typed as NONE."""

  record: Record


class Groups(NamedTuple):
  """A dict of groups by these names."""

  records: Mapping[str, Record]


class SeveralOf(NamedTuple):
  """A tuple of choices by name, each at most once, with a dict of their options beside it, by name."""

  records: Mapping[str, Record]
  options: str  # the option that holds those of every choice


def options_of(record: Record) -> dict[str, Option]:
  """Returns every option of a record by its name, for all choices."""
  if record is None:
    return {}
  if isinstance(record, tuple):
    return {name: option for part in record for name, option in options_of(part).items()}
  hints = typing.get_type_hints(record, include_extras=True)
  if dataclasses.is_dataclass(record):
    made: Any = record
    defaults = {field.name: getattr(made(), field.name) for field in dataclasses.fields(record)}
  else:
    parameters = inspect.signature(record).parameters
    given = {name: one for name, one in parameters.items() if one.default is not one.empty}
    defaults = {name: parameter.default for name, parameter in given.items()}
  return {name: option_of(hints[name], default) for name, default in defaults.items()}


def possible(record: Record) -> set[str]:
  """Returns the names of all options that a record has for any of its choices."""
  found = options_of(record)
  rules = [option.rule(OneOf) for option in found.values()]
  beside = [inner for rule in rules if rule and not rule.options for inner in rule.records.values()]
  return set(found).union(*(options_of(inner) for inner in beside))


def paths(record: Record, before: str = '', rules: Any = None) -> Iterator[str]:
  """Yields every option there can be in a record and in what it chooses, as 'prior_options.scales'.

  Args:
    record: of the options.
    before: what stands before their names.
    rules: as of `fill`.
  """
  for name, option in options_of(record).items():
    option = _ruled(name, option, rules)
    one, group, groups = option.rule(OneOf), option.rule(Group), option.rule(Groups)
    several = option.rule(SeveralOf)
    yield f'{before}{name}'
    for key, inner in several.records.items() if several else ():
      yield from paths(inner, f'{before}{several.options}.{key}.' if several else before)
    for inner in one.records.values() if one else ():
      yield from paths(inner, f'{before}{one.options}.' if one and one.options else before)
    if group:
      yield from paths(group.record, f'{before}{name}.')
    for key, inner in groups.records.items() if groups else ():
      yield from paths(inner, f'{before}{name}.{key}.')


def available(
  record: Record, given: Mapping[str, Any], where: Where, strict: bool = True
) -> dict[str, Option]:
  """Returns the options of a record for the choices in `given`.

  Args:
    record: of the options.
    given: values by name.
    where: how messages refer to them.
    strict: whether to refuse options of another choice.

  Raises:
    ValueError: a choice is unknown.
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
    for one in given if strict else ():
      if one in owned and one not in found:
        owner = f'{where.flag}.{name}={chosen!r}' if where.flag else f'the {name} {chosen!r}'
        refuse(where._replace(owner=owner), one, given[one], found)
  return found


def fill(record: Record, given: Mapping[str, Any], where: Where, rules: Any = None) -> dict[str, Any]:
  """Returns every option of a record with its value: the given one, or the default.

  Args:
    record: of the options.
    given: values by name.
    where: how messages refer to them.
    rules: further rules by the names of options, which the record itself cannot know.

  Raises:
    TypeError: a value has another type, in the library.
    ValueError: an option is unknown (the message has the nearest name), or a value is invalid.
  """
  known = available(record, given, where)
  known = {name: _ruled(name, option, rules) for name, option in known.items()}
  for name, value in given.items():
    if name not in known:
      refuse(where, name, value, known)
  found = {
    name: checked_value(where, name, option, given.get(name, _default(option)))
    for name, option in known.items()
  }
  for name, option in known.items():
    if where.flag:
      _check_meaning(found, name, option, where)
    _fill_nested(found, name, option, where)
  return found


def _check_meaning(found: Mapping[str, Any], name: str, option: Option, where: Where) -> None:
  """Raises a ValueError if an option is set that has no effect beside another one."""
  rule, before = option.rule(When), f'{where.flag}.' if where.flag else ''
  if rule and found[rule.other] not in rule.values and found[name] != option.default:
    raise ValueError(
      f'{before}{name}={shown(found[name])} has no effect with {before}{rule.other}='
      f'{found[rule.other]!r}; leave it {option.default!r}.'
    )


def _default(option: Option) -> Any:
  return dict(option.default) if isinstance(option.default, Mapping) else option.default


def _fill_nested(found: dict[str, Any], name: str, option: Option, where: Where) -> None:
  """Fills the options of an option in place."""
  flag = f'{where.flag}.{name}' if where.flag else name
  one, group, groups = option.rule(OneOf), option.rule(Group), option.rule(Groups)
  if one and one.options:
    place = f'{where.flag}.{one.options}' if where.flag else ''
    below = Where(place, f'{flag}={found[name]!r}' if where.flag else f'the {name} {found[name]!r}')
    known = possible(one.records[chosen_name(one, found[name])])
    for key, value in found[one.options].items():
      owners = [other for other, record in one.records.items() if key in possible(record)]
      if where.flag and key not in known and owners:
        typed = ' or '.join(f'{flag}={owner}{one.ends}' for owner in owners)
        raise ValueError(
          f'{place}.{key}={value!r}: there is no such option of {below.owner}; it is one of {typed}.'
        )
    found[one.options] = fill(one.records[chosen_name(one, found[name])], found[one.options], below)
  several = option.rule(SeveralOf)
  if several:
    fill_several(found, name, several, where)
  if group and found[name]:
    found[name] = fill(group.record, found[name], Where(flag, flag))
  if groups:
    for key, value in found[name].items():
      if key not in groups.records:
        refuse(Where(flag, flag), key, value, groups.records)
      if type(value) is not dict:
        raise ValueError(f'{flag}.{key}={shown(value)} is invalid; it must be {KINDS[dict][1]}.')
      place = Where(f'{flag}.{key}', f'{flag}.{key}')
      found[name] = {**found[name], key: fill(groups.records[key], value, place)}


def fill_several(found: dict[str, Any], name: str, rule: SeveralOf, where: Where) -> None:
  """Fills the options of every choice in place."""
  before = f'{where.flag}.' if where.flag else ''
  chosen, given = chosen_names(found[name]), found[rule.options]
  for one in chosen:
    if one not in rule.records:
      near = names.nearest(one, [*rule.records])
      hint = f'did you mean {near!r}?' if near else f'there are {", ".join(rule.records)}.'
      raise ValueError(f'{before}{name}={shown(found[name])}: there is no {one!r}; {hint}')
    if chosen.count(one) > 1:
      raise ValueError(f'{before}{name}={shown(found[name])} has {one!r} twice; each may be used once.')
  for one, value in given.items():
    flag = f'{before}{rule.options}.{one}'
    if one not in rule.records:
      refuse(Where(f'{before}{rule.options}', f'{before}{name}'), one, value, rule.records)
    if one not in chosen:
      raise ValueError(f'{flag}={shown(value)} has no effect unless {before}{name} has {one!r}.')
    if type(value) is not dict:
      raise ValueError(f'{flag}={shown(value)} is invalid; it must be {KINDS[dict][1]}.')
  places = {one: f'{before}{rule.options}.{one}' for one in chosen}
  found[name] = chosen
  found[rule.options] = {
    one: fill(rule.records[one], given.get(one, {}), Where(places[one], f'{before}{name}={one}'))
    for one in chosen
  }


def chosen_names(value: Any) -> tuple[str, ...]:
  """Returns the names in a tuple, or in a text such as 'a,b' or "('a', 'b')"."""
  entries = (value,) if isinstance(value, str) else value
  parts = [part.strip('()[]\'" ') for entry in entries for part in entry.split(',')]
  return tuple(part for part in parts if part)


def expand(
  record: Record, given: Mapping[str, Any], typed: Mapping[str, str], rules: Any = None
) -> tuple[dict[str, Any], list[str]]:
  """Returns every option with the value it has before the command line's values are read.

  Typed choices are made here, so that their own options exist and can be typed too, as are groups of
  which one option is typed; and groups of which NONE is typed are left out. Nothing else is checked; see
  `fill`.

  Args:
    record: of the options.
    given: values by name.
    typed: texts by names as typed, 'prior' or 'prior_options.scales'.
    rules: as in `fill`.

  Returns:
    The options, and the names of given options that belong to a choice other than the typed one.
  """
  given, gone = dict(given), []
  every = {name: _ruled(name, option, rules) for name, option in options_of(record).items()}
  for name, option in every.items():
    one = option.rule(OneOf)
    if one and name in typed and chosen_name(one, typed[name]) in one.records:
      given[name] = typed[name]
      chosen = possible(one.records.get(chosen_name(one, given[name])))
      others = {other for inner in one.records.values() for other in possible(inner)} - chosen
      place = given
      if one.options:
        place = given[one.options] = dict(given.get(one.options, {}))
      gone += [other for other in sorted(others) if place.pop(other, None) is not None]
  known = available(record, given, Where('--config', '--config'), strict=False)
  known = {name: _ruled(name, option, rules) for name, option in known.items()}
  given |= {name: {} for name in known if typed.get(name) == NONE and _is_group(known[name])}
  found = {name: _as_typed(option, given.get(name, _default(option))) for name, option in known.items()}
  found |= {name: value for name, value in given.items() if name not in known}  # refused by `fill`
  for name in known:
    gone += _expand_nested(found, name, known[name], typed)
  return found, gone


def _expand_nested(
  found: dict[str, Any], name: str, option: Option, typed: Mapping[str, str]
) -> list[str]:
  """Expands the options of an option in place; returns the names that are dropped."""
  one, group, groups, gone = option.rule(OneOf), option.rule(Group), option.rule(Groups), []
  below = lambda key: {  # noqa: E731
    text.removeprefix(f'{key}.'): value for text, value in typed.items() if text.startswith(f'{key}.')
  }
  if one and one.options and isinstance(found[one.options], dict):
    chosen = one.records.get(chosen_name(one, found[name]))
    found[one.options], gone = expand(chosen, found[one.options], below(one.options))
  several = option.rule(SeveralOf)
  if several:
    given, chosen = found[several.options], chosen_names(typed.get(name, found[name]))
    found[name] = chosen if name in typed else found[name]
    gone += [f'{several.options}.{key}' for key in given if key not in chosen and name in typed]
    kept = {key: value for key, value in given.items() if key in chosen or name not in typed}
    known = {key: several.records[key] for key in chosen if key in several.records}
    found[several.options] = kept | {
      key: expand(record, kept.get(key, {}), below(f'{several.options}.{key}'))[0]
      for key, record in known.items()
    }
  if group and (found[name] or below(name)):
    found[name], gone = expand(group.record, found[name], below(name))
  for key, inner in groups.records.items() if groups else ():
    if key in found[name] or below(f'{name}.{key}'):
      made, more = expand(inner, found[name].get(key, {}), below(f'{name}.{key}'))
      found[name], gone = {**found[name], key: made}, gone + more
  return gone


def _is_group(option: Option) -> bool:
  return option.rule(Group) is not None or option.rule(Groups) is not None


def _as_typed(option: Option, value: Any) -> Any:
  """Returns a value in the type of its flag."""
  return float(value) if option.kind is float and type(value) is int else value


def _ruled(name: str, option: Option, rules: Any) -> Option:
  return option._replace(rules=(*option.rules, rules[name])) if name in (rules or {}) else option


def chosen_name(rule: OneOf, value: str) -> str:
  """Returns which of its records a value chooses."""
  return value.partition(rule.ends)[0] if rule.ends else value


def refuse(where: Where, name: str, value: Any, known: Iterable[str]) -> NoReturn:
  """Raises the ValueError of an unknown option, with the nearest name, or all of them."""
  listed, before = sorted(known), f'{where.flag}.' if where.flag else ''
  near = names.nearest(name, listed)
  every = f'there are {", ".join(listed)}.' if listed else 'it has none.'
  hint = f'did you mean {before}{near}?' if near else every
  raise ValueError(f'{before}{name}={value!r}: there is no such option of {where.owner}; {hint}')
