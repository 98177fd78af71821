"""The values of a configuration's fields, each by its annotated type and its range.

One check for all fields: a field that is added to `config.py` is checked by its annotation, and by its
range with one line here.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np

from structured_obs import names
from structured_obs.config import Config
from structured_obs.data import decode, sources
from structured_obs.data.sources import nifti

POSITIVE = (
  'model.latents',
  'train.steps',
  'train.batch_size',
  'train.accumulate',
  'train.steps_in_flight',
  'train.log_every',
  'train.validate_every',
  'train.checkpoint_every',
  'train.keep',
  'train.max_nonfinite',
  'eval.batch_size',
  'eval.importance_samples',
  'eval.chunk',
  'optim.learning_rate',
  'objective.multiplier_rate',
  'objective.reconstruction_weight',
)
NOT_NEGATIVE = (
  'data.shift',
  'data.split_seed',
  'model.blocks',
  'objective.beta',
  'objective.kl_bound',
  'objective.entropy_bound',
  'objective.damping',
  'optim.warmup_steps',
  'optim.weight_decay',
  'optim.clip_norm',
  'train.patience',
  'train.seed',
  'model.covariance_layers',
  'model.kernel_features',
  'objective.epsilon',
  'objective.white_steps',
  'optim.kernel_learning_rate',
  'optim.min_learning_rate',
  'model.input_noise',
  'eval.inflation_threshold',
)
BELOW_ONE = ('data.validation_fraction', 'data.test_fraction', 'optim.ema_decay')  # in [0, 1)
UP_TO_ONE = ('data.min_foreground', 'optim.decay')  # in [0, 1]
CHANNELS = ('model.features', 'model.covariance_features', 'model.context')
PATHS = ('data.cache_dir', 'data.manual_dir', 'train.start_from')

LARGEST_INT = 2**31 - 1  # steps, seeds and sizes are 32-bit integers on the devices
LARGEST, SMALLEST = (float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny))
SPELLED = {int: 'a whole number', float: 'a number', bool: 'True or False', str: 'a text'}
PLAIN = (bool, int, float, str, type(None))  # what options may be, and tuples of these


def check(config: Config) -> None:
  """Raises a ValueError that names the first field whose value is not of its type, or out of range."""
  values = dict(_typed(config))
  for name in POSITIVE:
    if not values[name] > 0 or 0 < values[name] < SMALLEST:
      raise ValueError(f'--config.{name} must be positive, but is {values[name]}.')
  for name in NOT_NEGATIVE:
    if not values[name] >= 0:
      raise ValueError(f'--config.{name} must not be negative, but is {values[name]}.')
  for name in BELOW_ONE:
    if not 0 <= values[name] < 1:
      raise ValueError(f'--config.{name} must be at least 0 and below 1, but is {values[name]}.')
  for name in UP_TO_ONE:
    if not 0 <= values[name] <= 1:
      raise ValueError(f'--config.{name} must lie between 0 and 1, but is {values[name]}.')
  for name in CHANNELS:
    _check_channels(name, values[name])
  for name in PATHS:
    names.local_path(f'--config.{name}', values[name])
  names.check_source('--config.data.source', config.data.source, sources.SOURCES)
  names.check('data.plane', config.data.plane, nifti.PLANES)
  decode.target(config.data)
  _check_turn(config)


def check_option(name: str, value: Any, default: Any) -> None:
  """Raises a ValueError if an option, 'section.options.name', is not of the type of its default."""
  if type(default) in SPELLED:
    _check_type(name, value, type(default), default)


def _check_channels(name: str, value: tuple[int, ...]) -> None:
  """Raises a ValueError unless a tuple holds numbers of channels; only the features must not be ()."""
  if min(value, default=0 if name == 'model.features' else 1) < 1:
    empty = '' if name == 'model.features' else 'be empty or '
    raise ValueError(
      f'--config.{name} must {empty}hold one positive number of channels for each resolution, but is '
      f'{value}.'
    )


def _check_turn(config: Config) -> None:
  """Raises a ValueError if images are to be turned whose sides are known to differ."""
  data = config.data
  if data.turn and data.height and data.width and data.height != data.width:
    raise ValueError(
      f'--config.data.turn is of square images, but --config.data.height is {data.height} and '
      f'--config.data.width is {data.width}.'
    )


def _typed(config: Config) -> Iterator[tuple[str, Any]]:
  """Yields 'section.name' and the value of each field, each of its annotated type."""
  if not isinstance(config, Config):
    raise ValueError(
      'A configuration must be a structured_obs.config.Config, which get_config of a config file '
      f'returns, but this is {_shown(config)}.'
    )
  default = Config()
  for section in dataclasses.fields(Config):
    part, known = getattr(config, section.name), getattr(default, section.name)
    if type(part) is not type(known):
      raise ValueError(
        f'--config.{section.name} must be a {type(known).__name__}, but is {_shown(part)}.'
      )
    _check_known(section.name, vars(part), list(vars(known)))
    for field in dataclasses.fields(part):
      name, value = f'{section.name}.{field.name}', getattr(part, field.name)
      _check_type(name, value, field.type, getattr(known, field.name))
      yield name, value


def _check_known(section: str, given: dict[str, Any], known: list[str]) -> None:
  """Raises a ValueError if a config file has set a field that a section does not have."""
  for name in given:
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f' Did you mean --config.{section}.{near[0]}?' if near else ''
      raise ValueError(f'--config.{section}.{name} is not a field of the config.{hint}')


def _check_type(name: str, value: Any, annotation: Any, default: Any) -> None:
  """Raises a ValueError if a value is not of its field's type, or no number that float32 can hold."""
  kind, item = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
  if kind is dict:
    return _check_options(name, value)
  if kind is tuple:
    good = type(value) is tuple and all(_is(one, item[0]) for one in value)
    wanted = f'a tuple, each entry {SPELLED[item[0]]}'
  else:
    good, wanted = _is(value, kind), SPELLED[kind]
  if not good:
    example = f', such as {default!r}' if default not in ('', ()) and kind is not bool else ''
    raise ValueError(f'--config.{name} must be {wanted}{example}, but is {_shown(value)}.')
  for one in value if kind is tuple else (value,):
    _check_size(name, one)


def _check_options(name: str, value: Any) -> None:
  """Raises a ValueError unless the options of a family, a prior or a model are plain values by name."""
  if type(value) is not dict or not all(type(key) is str for key in value):
    raise ValueError(f"--config.{name} must be a dictionary {{'name': value}}, but is {_shown(value)}.")
  for key, option in value.items():
    for one in option if type(option) in (tuple, list) else (option,):
      if type(one) not in PLAIN:
        raise ValueError(
          f'--config.{name}.{key} must be a number, a text, True, False, None or a tuple of these, but '
          f'is {_shown(option)}.'
        )
      _check_size(f'{name}.{key}', one)


def _is(value: Any, kind: type) -> bool:
  """Whether a value is of a kind; a whole number is also a number, True and False are none."""
  return type(value) is kind or (kind is float and type(value) is int)


def _check_size(name: str, value: Any) -> None:
  """Raises a ValueError if a number is NaN, infinite or too large for the devices."""
  if type(value) is int and abs(value) > LARGEST_INT:
    raise ValueError(f'--config.{name} must be at most {LARGEST_INT:,} in size, but is {_shown(value)}.')
  if type(value) is float and not (math.isfinite(value) and abs(value) <= LARGEST):
    raise ValueError(
      f'--config.{name} must be finite, and at most {LARGEST:.3g} in size, but is {value}.'
    )


def _shown(value: Any) -> str:
  """Returns a value as Python writes it, at most 60 characters, with its type."""
  if type(value) is int and abs(value) > LARGEST_INT:
    return f'of {value.bit_length()} bits'
  text = repr(value)
  return f'{text if len(text) <= 60 else text[:57] + "..."}, of type {type(value).__name__}'
