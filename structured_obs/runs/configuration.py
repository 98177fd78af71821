"""Checks and completes a configuration, compares it with the one a run began with, and stores it."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from structured_obs import distributions, models, option_records
from structured_obs.config import Config
from structured_obs.data import sources
from structured_obs.devices import mapping
from structured_obs.objectives import constraints, reconstruction
from structured_obs.option_records import Groups, OneOf, SeveralOf, fill, refuse
from structured_obs.option_values import Choice, Where, shown
from structured_obs.runs import checks, old_layout, optimizers, schedule, stages

VERSION = 2  # of the stored layout; version 1 had the options of all choices side by side

# Options of a choice within a section, stored in the options beside its name. `data` has its own rules
# in `data.sources`.
RULES: dict[str, dict[str, Any]] = {
  'model': {'kind': OneOf({name: kind.options for name, kind in models.KINDS.items()}, 'options')},
  'likelihood': {
    'family': OneOf(distributions.FAMILIES, 'options'),
    'wrappers': SeveralOf(distributions.WRAPPERS, 'wrapper_options'),
  },
  'objective': {
    'constraints': Groups({name: held.options for name, held in constraints.CONSTRAINTS.items()}),
    'reconstruction': OneOf(reconstruction.RECORDS, 'reconstruction_options'),
    'mean_loss': OneOf(reconstruction.MEAN_RECORDS, 'mean_loss_options'),
  },
  'optim': {'optimizer': Choice(tuple(optimizers.OPTIMIZERS)), 'schedule': schedule.RULE},
  'train': {'mapping': Choice(tuple(mapping.MAPPINGS))},
  'eval': {},
}

# Fields that may change when a run resumes: they move parameters by no more than round-off.
FREE = (
  'data.cache_dir',
  'data.options.manual_dir',
  'data.options.download',
  'data.residency',
  'train.mapping',
  'train.accumulate',
  'train.steps_in_flight',
  'train.log_every',
  'train.validate_every',
  'train.checkpoint_every',
  'train.keep',
  'train.patience',
  'train.max_nonfinite',
  'eval',
)


def resolve(config: Config) -> Config:
  """Returns the configuration, checked, with every option of its choices filled in.

  Raises:
    ValueError: naming the invalid field as typed.
  """
  resolved = filled(config)
  checks.check(resolved, flatten(resolved), _defaults())
  return resolved


def filled(config: Config) -> Config:
  """Returns the configuration with every option filled in, each section checked by itself.

  Raises:
    ValueError: naming the invalid field.
  """
  parts = {name: _filled(name, part) for name, part in _sections(config)}
  made = Config(**parts)
  likelihood = made.likelihood
  try:
    inner = distributions.family(likelihood.family, **likelihood.options)
  except ValueError as error:
    where = f"--config.likelihood.options of the family '{likelihood.family}'"
    raise ValueError(f'{where}: {error}') from error
  try:
    distributions.wrapped(inner, likelihood.wrappers, likelihood.wrapper_options)
  except ValueError as error:
    raise ValueError(f'--config.likelihood.wrappers={likelihood.wrappers}: {error}') from error
  stages.parse(made.optim.stages)
  return made


def _filled(name: str, part: Any) -> Any:
  if name == 'data':
    return sources.resolve(part)
  where = Where(f'--config.{name}', f'--config.{name}')
  return type(part)(**fill(type(part), vars(part), where, RULES[name]))


def expanded(config: Config, typed: dict[str, str]) -> tuple[Config, list[str]]:
  """Returns the configuration that typed values are read into; see `option_records.expand`.

  Args:
    config: of a config file.
    typed: texts by the names of fields, such as 'model.options.latents'.

  Returns:
    The configuration, and the names of options that the file has for a choice other than the typed one.
  """
  parts, gone = {}, []
  for name, part in _sections(config):
    below = {k.removeprefix(f'{name}.'): v for k, v in typed.items() if k.startswith(f'{name}.')}
    rules = sources.rules() if name == 'data' else RULES[name]
    found, left = option_records.expand(type(part), vars(part), below, rules)
    parts[name] = type(part)()
    vars(parts[name]).update(found)
    gone += left
  return Config(**parts), gone


def places(field: str) -> list[str]:
  """Returns where a field that is not there may be meant to stand, whatever is chosen beside it.

  Args:
    field: as typed, such as 'model.latents'; of an older layout, or in another section.

  Returns:
    Fields such as 'model.options.latents': those in its own section, or else those in others.
  """
  if field in old_layout.RENAMED:
    return [old_layout.RENAMED[field]]
  section, leaf, found = field.partition('.')[0], field.rpartition('.')[2], {}
  for part in dataclasses.fields(Config):
    made: Any = part.default_factory
    rules = sources.rules() if part.name == 'data' else RULES[part.name]
    every = option_records.paths(made, f'{part.name}.', rules)
    found[part.name] = [path for path in dict.fromkeys(every) if path.rpartition('.')[2] == leaf]
  return found.get(section) or [path for paths in found.values() for path in paths]


def _sections(config: Config) -> Iterator[tuple[str, Any]]:
  """Yields name and value of each section, after checking their types."""
  if not isinstance(config, Config):
    raise ValueError(
      'A configuration must be a structured_obs.config.Config, as get_config of a config file '
      f'returns; got {shown(config)}, of type {type(config).__name__}.'
    )
  known = {section.name: section.default_factory for section in dataclasses.fields(Config)}
  for name, part in vars(config).items():
    if name not in known:
      refuse(Where('--config', '--config'), name, part, known)
    if type(part) is not known[name]:
      wanted: Any = known[name]
      raise ValueError(f'--config.{name} must be a {wanted.__name__}, but is {shown(part)}.')
    yield name, part


@functools.cache
def _defaults() -> dict[str, Any]:
  """Returns the fields of a configuration with nothing changed."""
  return flatten(filled(Config()))


def to_dict(config: Config) -> dict[str, Any]:
  """Returns the configuration as nested dictionaries, as read back from JSON, with a version."""
  plain = dataclasses.asdict(config, dict_factory=lambda items: {k: _plain(v) for k, v in items})
  return {'version': VERSION, **plain}


def from_dict(tree: dict[str, Any]) -> Config:
  """Inverse of `to_dict`, also for older layouts; missing fields have their defaults.

  Raises:
    ValueError: there is a field that Config lacks, or a newer version wrote the configuration.
  """
  version = tree.get('version', 1)
  if version not in (1, VERSION):
    raise ValueError(
      f'The stored configuration has version {version}, but this program reads up to {VERSION}; use '
      'the newer structured_obs that wrote it.'
    )
  if version == 1:
    tree = old_layout.translate(tree)
  config = Config()
  for section, values in tree.items():
    if section == 'version':
      continue
    if section not in {field.name for field in dataclasses.fields(config)}:
      raise ValueError(f"The stored configuration has a section '{section}' that Config lacks.")
    if not isinstance(values, dict):
      raise ValueError(f"The stored configuration has no fields in its section '{section}'.")
    part = getattr(config, section)
    known = {field.name for field in dataclasses.fields(part)}
    for name, value in values.items():
      if name not in known:
        raise ValueError(f"The stored configuration has '{section}.{name}', which Config lacks.")
      setattr(part, name, value)
  return filled(config)


def flatten(config: Config) -> dict[str, Any]:
  """Returns the fields as 'section.name', and options as 'section.options.name', however deep."""
  tree = to_dict(config)
  del tree['version']
  return dict(_flat('', tree))


def _flat(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(f'{prefix}{name}.', value)
    else:
      yield f'{prefix}{name}', value


def binding(config: Config) -> dict[str, Any]:
  """Returns the fields that a run must keep from its first step to its last.

  The number of steps is one of them only if the learning rate depends on it.
  """
  config = filled(config)
  free = FREE + (() if schedule.SCHEDULES[config.optim.schedule].bound else ('train.steps',))
  return {
    name: value
    for name, value in flatten(config).items()
    if name not in free and name.split('.')[0] not in free
  }


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _plain(one) for name, one in value.items()}
  return list(value) if isinstance(value, tuple) else value
