"""Choices typed as flags, such as --config.model.options.prior=realnvp, and their own options."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import pytest

from structured_obs import option_records
from structured_obs.models import KINDS
from structured_obs.option_records import Group, Groups, OneOf, Where
from structured_obs.option_values import NOTHING

pytestmark = pytest.mark.x64


class Wide(NamedTuple):
  width: int = 3


class Beside(NamedTuple):
  shape: Annotated[str, OneOf({'point': None, 'line': Wide})] = 'point'
  width: int = 3


class Below(NamedTuple):
  shape: Annotated[str, OneOf({'point': None, 'line': Wide}, 'shape_options')] = 'point'
  shape_options: Mapping[str, Any] = NOTHING


def test_options_beside_a_choice_come_and_go_with_it():
  assert option_records.expand(Beside, {}, {'shape': 'line'}) == ({'shape': 'line', 'width': 3}, [])
  given = {'shape': 'line', 'width': 5}
  assert option_records.expand(Beside, given, {}) == (given, [])
  assert option_records.expand(Beside, given, {'shape': 'point'}) == ({'shape': 'point'}, ['width'])


def test_options_below_a_choice_do_too():
  given = {'shape': 'line', 'shape_options': {'width': 5}}
  found = option_records.expand(Below, {}, {'shape': 'line'})
  assert found == ({'shape': 'line', 'shape_options': {'width': 3}}, [])
  found, gone = option_records.expand(Below, given, {'shape': 'point'})
  assert (found, gone) == ({'shape': 'point', 'shape_options': {}}, ['width'])


class Grouped(NamedTuple):
  inside: Annotated[Mapping[str, Any], Group(Wide)] = NOTHING
  several: Annotated[Mapping[str, Any], Groups({'one': Wide})] = NOTHING
  word: str = 'some'


def test_groups_are_left_out_by_name():
  given = {'inside': {'width': 5}, 'several': {'one': {'width': 5}}, 'word': 'some'}
  for name in ('inside', 'several'):
    found, gone = option_records.expand(Grouped, given, {name: 'none'})
    assert (found, gone) == (given | {name: {}}, [])
  again, _ = option_records.expand(Grouped, given, {'inside': 'none', 'inside.width': '7'})
  assert again == given | {'inside': {'width': 3}}  # into which 7 is read
  assert option_records.expand(Grouped, given, {'word': 'none'}) == (given, [])


@pytest.mark.parametrize('kind', list(KINDS))
def test_every_choice_of_every_kind_can_be_typed(kind: str):
  record = KINDS[kind].options
  for name, option in option_records.options_of(record).items():
    one = option.rule(OneOf)
    for value in one.known if one else ():
      found, _ = option_records.expand(record, {}, {name: value})
      assert option_records.fill(record, found, Where('--config.model.options', kind))[name] == value
