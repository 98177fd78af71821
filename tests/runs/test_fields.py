"""Every field of a configuration: its type, its range and its paths, by the name that is typed."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.runs import configuration, old_layout

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
      configuration.filled(changed(name, value))
    assert len(str(error.value)) < 250


def test_whole_numbers_are_numbers():
  config = changed('optim.learning_rate', 1)
  configuration.filled(config)
  config.likelihood.options = {'min_scale': 1, 'initial_scale': 2}
  configuration.resolve(config)


@pytest.mark.parametrize(
  ('name', 'value', 'message'),
  [
    ('train.steps', '100', "must be a whole number of at least 1, but is '100', of type str"),
    ('model.options', {'features': (32, 64.0)}, r'not empty, each entry a whole number of at least 1'),
    ('optim.stages', 'mean:3', 'must be a tuple, each entry a text'),
    ('data.flip', 1, 'must be True or False, but is 1, of type int'),
    ('train.seed', 2**31, 'whole number of at least 0, but is of 32 bits'),
    ('optim.learning_rate', math.inf, 'must be a number above 0, but is inf'),
    ('optim.learning_rate', 1e-50, 'must be a number above 0'),  # 0 in float32
    ('objective.beta', math.nan, 'must be a number of at least 0, but is nan'),
    ('optim.clip_norm', -1.0, 'of at least 0, but is -1.0'),
    ('data.shift', -1, 'of at least 0, but is -1'),
    ('data.split_seed', -1, 'of at least 0, but is -1'),
    ('data.height', -1, 'of at least 0, but is -1'),
    ('data.limit', -3, 'of at least 0, but is -3'),
    ('data.channels', 2, 'must be one of 0, 1, 3, but is 2'),
    ('data.crop', 'centre', "Did you mean 'center'"),
    ('data.resample', 'area2', "Did you mean 'area'"),
    ('data.validation_fraction', 1.0, 'must be a number of at least 0 and below 1, but is 1.0'),
    ('data.test_fraction', -0.1, 'must be a number of at least 0 and below 1'),
    (
      'data.crop_options',
      {'crops': 3},
      "crops=3: there is no such option of --config.data.crop='center'",
    ),
    ('data.source', 'folder:gs://bucket/faces', 'only local paths'),
    ('data.source', 's3://bucket/x.npz', 'only local paths'),
    ('data.cache_dir', 'gs://bucket', 'only local paths'),
    ('data.cache_dir', 'a\0b', 'NUL'),
    ('data.cache_dir', 'file:///data', "write '///data'"),
    ('train.start_from', '~nobody_of_this_name/run', "no user 'nobody_of_this_name'"),
    (
      'likelihood.options',
      {'rank': 3.5},
      r"options\.rank=3\.5: .* of --config\.likelihood\.family='diagonal'",
    ),
    ('likelihood.options', {'min_scale': '1'}, r"options\.min_scale must be a number from 1e-15 to 1e"),
    ('likelihood.options', {'learn_scale': 2}, r'options\.learn_scale must be True or False'),
    (
      'likelihood.options',
      {'min_scale': math.inf},
      r'options\.min_scale must .*, but is inf',
    ),
    ('likelihood.options', {'min_scale': 20.0}, 'options of the family .*min_scale'),
  ],
)
def test_messages_name_the_field_and_what_is_allowed(name: str, value: Any, message: str):
  with pytest.raises(ValueError, match=rf'--config\.{name}.*{message}|{message}') as error:
    configuration.resolve(changed(name, value))
  assert f'--config.{name}' in str(error.value)


def test_a_square_is_turned():
  config = changed('data.turn', True)
  config.data.height, config.data.width = 4, 6
  with pytest.raises(ValueError, match=r'data\.height=4 and --config\.data\.width=6'):
    configuration.filled(config)


def test_sections_and_unknown_fields_are_named():
  with pytest.raises(ValueError, match=r'train\.stpes=3: .* did you mean --config\.train\.steps'):
    configuration.filled(changed('train.stpes', 3))
  config: Any = Config()
  config.optim = {'learning_rate': 1e-3}
  with pytest.raises(ValueError, match=r'--config\.optim must be a OptimConfig'):
    configuration.filled(config)
  absent: Any = None
  with pytest.raises(ValueError, match=r'must be a structured_obs\.config\.Config'):
    configuration.filled(absent)


@pytest.mark.parametrize(('typed', 'meant'), [
  ('model.latents', ['model.options.latents']), ('steps', ['train.steps']),
  ('model.window', ['model.options.window']), ('data.plane', ['data.options.plane']),
  ('data.crops', ['data.crop_options.crops']), ('model.scales', ['model.options.prior_options.scales']),
  ('optim.decay', ['optim.schedule_options.decay']), ('model.nonsense', []),
  (
    'objective.damping',
    [f'objective.constraints.{name}.damping' for name in ('kl', 'entropy', 'trace')],
  ),
])  # fmt: skip
def test_a_field_in_the_wrong_place_is_found(typed: str, meant: list[str]):
  assert configuration.places(typed) == meant


def test_what_has_another_name_today_is_somewhere():
  for old, new in old_layout.RENAMED.items():
    assert configuration.places(old) == [new]
    assert new in configuration.places(new)


def test_an_option_of_another_choice_is_said_to_be_its():
  config = changed('model.options', {'window': 3})
  with pytest.raises(ValueError, match=r"--config.model.kind='vae'; it is one of .*=covariance"):
    configuration.filled(config)


def test_paths_that_look_like_addresses_are_none():
  configuration.filled(changed('data.source', 'folder://home/faces'))
  configuration.filled(changed('data.source', 'tfds:cifar10:3.0.2'))
