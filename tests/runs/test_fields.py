"""Every field of a configuration: its type, its range and its paths, by the name that is typed."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.runs import configuration, fields

FIELDS = {
  f'{section.name}.{field.name}': getattr(getattr(Config(), section.name), field.name)
  for section in dataclasses.fields(Config)
  for field in dataclasses.fields(getattr(Config(), section.name))
}
FOREIGN = (
  None, math.nan, math.inf, -math.inf, 1e39, 10**400, [32, 64], {1: 2}, {'a': math.nan},
  {'a': [None, b'']},
  (None,), (1.5,), (True,), np.float32(1), np.int64(3), np.ones(2), b'x', Config,
)  # fmt: skip


def changed(name: str, value: Any) -> Config:
  """The default configuration with one field set, as a config file sets it."""
  config = Config()
  section, _, field = name.partition('.')
  setattr(getattr(config, section), field, value)
  return config


@pytest.mark.parametrize('name', FIELDS)
def test_no_field_takes_what_it_cannot_hold(name: str):
  default = FIELDS[name]
  wrong = [*FOREIGN, *([] if type(default) is str else ['100'])]
  wrong += [] if type(default) is bool else [True]
  wrong += [] if type(default) is float else [1.5]
  wrong += [] if type(default) in (int, float) else [2]
  for value in wrong:
    with pytest.raises(ValueError, match=rf'^--config\.{name}') as error:
      fields.check(changed(name, value))
    assert len(str(error.value)) < 250


def test_whole_numbers_are_numbers():
  config = changed('optim.learning_rate', 1)
  fields.check(config)
  config.likelihood.options = {'min_scale': 1, 'initial_scale': 2, 'learn_scale': False}
  configuration.check(config)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('train.steps', '100', "must be a whole number, such as 1000, but is '100', of type str"),
    ('model.features', [32, 64], r'such as \(32, 64\), but is \[32, 64\], of type list'),
    ('optim.stages', 'mean:3', 'must be a tuple, each entry a text'),
    ('data.flip', 1, 'must be True or False, but is 1, of type int'),
    ('train.seed', 2**31, 'must be at most 2,147,483,647 in size, but is of 32 bits'),
    ('optim.learning_rate', math.inf, 'must be finite'),
    ('optim.learning_rate', 1e-50, 'must be positive'),  # 0 in float32
    ('objective.beta', math.nan, 'must be finite'),
    ('optim.clip_norm', -1.0, 'must not be negative'),
    ('data.shift', -1, 'must not be negative'),
    ('data.split_seed', -1, 'must not be negative'),
    ('data.height', -1, 'must not be negative'),
    ('data.limit', -3, 'must not be negative'),
    ('data.channels', 2, r'must be 1 \(gray\)'),
    ('data.crop', 'centre', "did you mean 'center'"),
    ('data.resample', 'area2', "did you mean 'area'"),
    ('data.validation_fraction', 1.0, 'must be at least 0 and below 1'),
    ('data.test_fraction', -0.1, 'must be at least 0 and below 1'),
    ('data.min_foreground', 1.1, 'must lie between 0 and 1'),
    ('data.plane', 'axil', "Did you mean 'axial'"),
    ('data.source', 'folder:gs://bucket/faces', 'only local paths'),
    ('data.source', 's3://bucket/x.npz', 'only local paths'),
    ('data.cache_dir', 'gs://bucket', 'only local paths'),
    ('data.cache_dir', 'a\0b', 'NUL'),
    ('data.cache_dir', 'file:///data', "write '///data'"),
    ('train.start_from', '~nobody_of_this_name/run', "no user 'nobody_of_this_name'"),
    ('likelihood.options', {'rank': 3.5}, r"options is 'rank'"),
    ('likelihood.options', {'min_scale': '1'}, r"options\.min_scale must be a number, such as 0\.001"),
    ('likelihood.options', {'learn_scale': 2}, r'options\.learn_scale must be True or False'),
    ('likelihood.options', {'min_scale': math.inf}, r'options\.min_scale must be finite'),
    ('likelihood.options', {'min_scale': 0.0}, 'options of the family .*min_scale'),
  ],
)
def test_messages_name_the_field_and_what_is_allowed(name: str, value: Any, message: str):
  with pytest.raises(ValueError, match=rf'--config\.{name}.*{message}|{message}') as error:
    configuration.check(changed(name, value))
  assert f'--config.{name}' in str(error.value)


def test_a_square_is_turned():
  config = changed('data.turn', True)
  config.data.height, config.data.width = 4, 6
  with pytest.raises(ValueError, match=r'data\.height is 4 and --config\.data\.width is 6'):
    fields.check(config)


def test_sections_and_unknown_fields_are_named():
  with pytest.raises(ValueError, match=r'train\.stpes is not .* Did you mean --config\.train\.steps'):
    fields.check(changed('train.stpes', 3))
  config: Any = Config()
  config.optim = {'learning_rate': 1e-3}
  with pytest.raises(ValueError, match=r'--config\.optim must be a OptimConfig'):
    fields.check(config)
  absent: Any = None
  with pytest.raises(ValueError, match=r'must be a structured_obs\.config\.Config'):
    fields.check(absent)


def test_paths_that_look_like_addresses_are_none():
  fields.check(changed('data.source', 'folder://home/faces'))
  fields.check(changed('data.source', 'tfds:cifar10:3.0.2'))
