"""Sources of images by the name in `data.source`; nothing is read before it is needed.

`find(config)` looks a source up (it lists a folder, but opens no image) and identifies it; `Source.open`
then gives random access to its images. A source is one module here, with a `KIND`, and one line in
SOURCES.
"""

import dataclasses
import importlib
from typing import Any

from structured_obs import names
from structured_obs.config import DataConfig
from structured_obs.data import decode, masks, pipeline
from structured_obs.data.sources.base import Kind, Source
from structured_obs.option_records import OneOf, fill, possible
from structured_obs.option_values import Choice, Where

SOURCES = {  # by the module that has it, which is imported when needed
  'digits': 'digits',
  'mnist_sample': 'mnist_sample',
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
  """Returns the name of a source and the argument after its colon.

  Raises:
    ValueError: the name is unknown (the message suggests the nearest), or an argument is missing or
      superfluous.
  """
  name, colon, argument = source.partition(':')
  spelled = {name: f'{name}:{kind_of(name).argument}'.rstrip(':') for name in SOURCES}
  if name not in SOURCES:
    near = names.nearest(name, SOURCES)
    hint = f'; did you mean {spelled[near]!r}?' if near else '.'
    raise ValueError(
      f'--config.data.source={source} is unknown; it must be one of {", ".join(spelled.values())}{hint}'
    )
  if bool(argument) != bool(kind_of(name).argument) or (colon and not argument):
    raise ValueError(
      f'--config.data.source={source} is incomplete; it must have the form {spelled[name]!r}.'
    )
  return name, argument


def rules() -> dict[str, Any]:
  """Returns the allowed values of the fields of the section `data`, and their records of options."""
  return {
    'source': OneOf({name: kind_of(name).options for name in SOURCES}, 'options', ends=':'),
    'crop': OneOf(decode.CROPS, 'crop_options'),
    'resample': Choice(tuple(decode.FILTERS)),
    'mask': OneOf(masks.MASKS, 'mask_options'),
    'residency': Choice(pipeline.RESIDENCIES),
  }


def resolve(config: DataConfig) -> DataConfig:
  """Returns the section `data`, checked, with every option of source and crop filled in.

  Raises:
    ValueError: naming the invalid field as typed.
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
  """Returns the section with another source, and those of its options that this source has too."""
  options = possible(kind_of(parse(source)[0]).options)
  kept = {name: value for name, value in config.options.items() if name in options}
  return dataclasses.replace(config, source=source, options=kept)


def find(config: DataConfig) -> Source:
  """Finds the source of a resolved section `data`.

  Raises:
    ValueError: as `resolve`.
    FileNotFoundError: a path does not exist; the message says what to put there.
  """
  name, argument = parse(config.source)
  return kind_of(name).find(resolve(config), argument)
