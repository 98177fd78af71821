"""Where images come from: `data.source` by name, with nothing read before it is asked for.

`find(config)` looks a source up (a folder is listed, no image is opened) and identifies it;
`Source.open` then gives random access to its images. A source is one module here, with a `KIND`, and one
line in SOURCES.
"""

import dataclasses
import importlib
from typing import Any

from structured_obs import names
from structured_obs.config import DataConfig
from structured_obs.data import decode, pipeline
from structured_obs.data.sources.base import Kind, Source
from structured_obs.option_records import OneOf, fill, possible
from structured_obs.option_values import Choice, Where

SOURCES = {  # by the module that has it, which is imported where it is asked for
  'digits': 'digits',
  'photos': 'photos',
  'folder': 'folder',
  'npz': 'npz',
  'nifti': 'nifti',
  'tfds': 'tfds',
  'splines': 'synthetic',
  'ellipses': 'synthetic',
}


def kind_of(name: str) -> Kind:
  """Returns the kind of a source, by its name in SOURCES."""
  return importlib.import_module(f'{__name__}.{SOURCES[name]}').KIND


def parse(source: str) -> tuple[str, str]:
  """Returns the name of a source and what stands behind its colon.

  Raises:
    ValueError: for an unknown name (the nearest one is suggested), or a missing or needless
      argument.
  """
  name, colon, argument = source.partition(':')
  spelled = {name: f'{name}:{kind_of(name).argument}'.rstrip(':') for name in SOURCES}
  if name not in SOURCES:
    near = names.nearest(name, SOURCES)
    hint = f'; did you mean {spelled[near]!r}?' if near else '.'
    raise ValueError(
      f'--config.data.source is {source!r}, which is none of {", ".join(spelled.values())}{hint}'
    )
  if bool(argument) != bool(kind_of(name).argument) or (colon and not argument):
    raise ValueError(f'--config.data.source is {source!r}, but must have the form {spelled[name]!r}.')
  return name, argument


def rules() -> dict[str, Any]:
  """Returns what the fields of the section `data` may be, and whose options stand beside them."""
  return {
    'source': OneOf({name: kind_of(name).options for name in SOURCES}, 'options', ends=':'),
    'crop': OneOf(decode.CROPS, 'crop_options'),
    'resample': Choice(tuple(decode.FILTERS)),
    'residency': Choice(pipeline.RESIDENCIES),
  }


def resolve(config: DataConfig) -> DataConfig:
  """Returns the section `data`, checked, with every option of source and crop written out.

  Raises:
    ValueError: naming the field that cannot be, as it is typed.
  """
  if isinstance(config.source, str):
    if config.source.partition(':')[0] not in SOURCES and '://' not in config.source:
      parse(config.source)
    names.check_source('--config.data.source', config.source, SOURCES)
  filled = fill(DataConfig, vars(config), Where('--config.data', '--config.data'), rules())
  made = dataclasses.replace(config, **filled)
  decode.check(made)
  return made


def instead(config: DataConfig, source: str) -> DataConfig:
  """Returns the section with another source, which keeps those options that it has as well."""
  options = possible(kind_of(parse(source)[0]).options)
  kept = {name: value for name, value in config.options.items() if name in options}
  return dataclasses.replace(config, source=source, options=kept)


def find(config: DataConfig) -> Source:
  """Finds the source that `config.source` names.

  Raises:
    ValueError: as `resolve`.
    FileNotFoundError: where there is nothing at a path, saying what to put there.
  """
  name, argument = parse(config.source)
  return kind_of(name).find(resolve(config), argument)
