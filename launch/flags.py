"""Defines and parses flags for all launch programs, and reports mistakes in one line.

`--config=configs/digits.py:low_rank` reads a config file, with a variant after the colon, and
`--config.optim.learning_rate=3e-4` changes one of its fields, checked against the field's type. Tuples
are written as `--config.model.options.features='(32, 64)'`. A choice, such as a kind of model, has its
own options. `--config.model.options.covariance=none` leaves a group of options out. In paths, `~` is
the user's directory.

Every program keeps its compiled programs in the user's cache folder, so that its next start is faster:
`--compile_cache=PATH` names another folder, and `--nocompile_cache` switches this off.
"""

import dataclasses
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from launch import errors, interrupts, parsers
from launch.parsers import Mistake
from structured_obs import compiled, names, option_records, option_values
from structured_obs.config import Config
from structured_obs.devices import hosts
from structured_obs.runs import configuration

_CONFIG = 'config'
_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of an error.')
_CACHE = 'compile_cache'
_arguments: list[str] = []  # the command line as the flag of a config reads it
flags.DEFINE_flag(
  flags.Flag(
    parsers.PathParser(_CACHE), None, _CACHE, 'true',
    'Whether to keep compiled programs, or the folder to keep them in.', boolean=True,
  )
)  # fmt: skip
flags.disclaim_key_flags()  # `--help` lists flags defined below with the script that defines them


def define_config() -> flags.FlagHolder[Any]:
  """Defines the required flag `--config`; its value is the config that the file returns."""
  _arguments[:] = sys.argv
  holder = config_flags.DEFINE_config_file(
    _CONFIG, None, 'Config file, as configs/NAME.py:VARIANT.', sys_argv=_arguments
  )
  flag = flags.FLAGS[_CONFIG]
  flag.parser = cast(Any, parsers.ConfigParser(flag.parser, _CONFIG, sys.argv))
  flags.register_validator(
    _CONFIG,
    lambda config: config is not None,
    message='a config file is required, such as --config=configs/digits.py.',
  )
  return holder


def define_path(name: str, default: str, doc: str) -> flags.FlagHolder[str]:
  """Defines a flag for a path on this machine."""
  return flags.DEFINE(parsers.PathParser(name), name, default, doc)


def define_paths(name: str, doc: str) -> flags.FlagHolder[list[str]]:
  """Defines a flag for a comma-separated list of paths, empty by default."""
  serializer = flags.CsvListSerializer(',')
  return flags.DEFINE(parsers.PathsParser(name), name, [], doc, serializer=serializer)


def define_multi_path(name: str, doc: str) -> flags.FlagHolder[list[str]]:
  """Defines a flag for a path that may be given several times."""
  return flags.DEFINE_multi(parsers.PathParser(name), flags.ArgumentSerializer(), name, [], doc)


def define_integer(name: str, default: int | None, doc: str, lower: int = 0) -> flags.FlagHolder[Any]:
  """Defines a flag for a 32-bit whole number of at least `lower`."""
  return flags.DEFINE_integer(name, default, doc, lower, option_values.LARGEST_INT)


def define_float(
  name: str, default: float, doc: str, lower: float | None = None
) -> flags.FlagHolder[float]:
  """Defines a flag for a finite number of at least `lower`."""
  return flags.DEFINE(parsers.FiniteParser(name, lower), name, default, doc)


def whole_numbers(flag: flags.FlagHolder[list[str]]) -> tuple[int, ...]:
  """Returns the numbers in a list flag.

  Raises:
    ValueError: an entry is not a whole number.
  """
  try:
    return tuple(int(text) for text in flag.value)
  except ValueError:
    given = ','.join(flag.value)
    raise ValueError(
      f'--{flag.name}={given} is invalid; it takes whole numbers separated by commas.'
    ) from None


def inherited() -> list[str]:
  """Returns the flags of this module that a script passes on to a script it starts."""
  return [f'--{_CACHE}={flags.FLAGS[_CACHE].value}'] if flags.FLAGS[_CACHE].present else []


def run(main: Callable[[Sequence[str]], Any], plain: bool = False) -> None:
  """Parses the command line, runs `main` and exits.

  A mistake on the command line prints one line and exits with status 2. An error in `main` prints its
  message, or its traceback with `--debug`, and exits with status 1 (see `errors.message`). Ctrl-C prints
  one line and exits with status 130, SIGTERM with 143.

  Args:
    main: receives the command line without flags.
    plain: whether to leave jax unconfigured, so that compiled programs are not kept.
  """
  for stream in (sys.stdout, sys.stderr):  # characters outside their encoding are escaped
    cast(Any, stream).reconfigure(errors='backslashreplace')

  def prepared(arguments: Sequence[str]) -> Any:
    if not plain:
      _compile_once()
    return main(arguments)

  app.run(lambda arguments: _guarded(prepared, arguments), flags_parser=_parse)


def _compile_once() -> None:
  """Configures jax's cache of compiled programs by the flags."""
  where = flags.FLAGS[_CACHE].value
  if where in ('false', ''):
    jax.config.update('jax_enable_compilation_cache', False)
  else:
    compiled.keep(None if where == 'true' else where)


def _guarded(main: Callable[[Sequence[str]], Any], arguments: Sequence[str]) -> Any:
  """Runs `main`; prints one message instead of the traceback of an error or an interrupt."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax logs 70 lines about every checkpoint
  try:
    with interrupts.raised():
      return main(arguments)
  except interrupts.Interrupted as error:
    step = next((note for note in getattr(error, '__notes__', ()) if note.startswith('while ')), '')
    print(interrupts.sentence(error.number, step), file=sys.stderr)
    _end(128 + error.number)
  except Exception as error:
    if _DEBUG.value:
      traceback.print_exc()
    else:
      print(f'error: {errors.message(error)}', file=sys.stderr)
    if not jax.distributed.is_initialized():
      return 1
    hosts.leave()
    _end(1)


def _end(status: int) -> NoReturn:
  """Ends the process without waiting for its threads or for other processes of a run."""
  sys.stdout.flush()
  os._exit(status)


def _parse(arguments: Sequence[str]) -> list[str]:
  """Parses the command line; prints what is wrong with it and exits with status 2."""
  try:
    config = _load(arguments) if _CONFIG in flags.FLAGS else None
    _arguments[:] = arguments = _check_names(arguments, config)
    rest = _parse_values(arguments, config)
    if rest[1:]:
      raise Mistake(f'{rest[1]!r} is not a flag; write flags as --name=value.')
    if config is not None:
      _check_fields(flags.FLAGS[_CONFIG].value)
    return rest
  except (flags.Error, Mistake) as error:
    cause = error.__context__ if isinstance(error.__context__, Mistake) else error  # not absl's words
    print(f'error: {str(cause).splitlines()[0]}', file=sys.stderr)
    sys.exit(2)


def _load(arguments: Sequence[str]) -> Any:
  """Returns the config of `--config`, without overrides; None without that flag."""
  given = [
    i
    for i, argument in enumerate(arguments)
    if argument.startswith('-') and argument.lstrip('-').partition('=')[0] == _CONFIG
  ]
  if not given:
    return None
  path = parsers.value(arguments, given[0])
  file = path.partition(':')[0]
  if not os.path.isfile(file):
    folder = os.path.dirname(file)
    beside = os.listdir(folder or '.') if os.path.isdir(folder or '.') else []
    near = names.nearest(os.path.basename(file), [one for one in beside if one.endswith('.py')])
    hint = f'; did you mean {os.path.join(folder, near)}?' if near else '.'
    raise Mistake(f'--config={path}: the file {file!r} does not exist{hint}')
  config = read_config(path)
  gone = cast(Any, flags.FLAGS[_CONFIG].parser).gone
  if gone:
    print(
      f'Ignored, as the config file has it for another choice: {", ".join(gone)}.',
      file=sys.stderr,
    )
  return config


def read_config(path: str) -> Any:
  """Returns the config of 'FILE:VARIANT', without overrides.

  Raises:
    ValueError: the file cannot be read, or has no such variant.
  """
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # errors are reported here
  try:
    config = flags.FLAGS[_CONFIG].parser.parse(path)
  except (Exception, SystemExit) as error:  # a file may call sys.exit
    cause = error.__context__ or error  # ml_collections puts a whole traceback into the message
    raise Mistake(f'--config={path} cannot be read: {type(cause).__name__}: {cause}') from error
  finally:
    logging.set_verbosity(before)
  if not isinstance(config, Config):
    raise Mistake(
      f'--config={path} cannot be read: its get_config must return a '
      f'structured_obs.config.Config, but returns a {type(config).__name__}.'
    )
  return config


def _check_names(arguments: Sequence[str], config: Any) -> Sequence[str]:
  """Checks that every `--config.a.b` names a field of the config, or leaves a group out.

  Returns:
    The arguments but for groups that are left out, as `--config.a=none`: the config is without them.
  """
  done: set[int] = set()
  for index, argument in enumerate(arguments if config is not None else ()):
    name, equals, _ = argument.lstrip('-').partition('=')
    name = name.removeprefix('no')
    if argument.startswith('-') and name.startswith(f'{_CONFIG}.'):
      node = _look_up(config, name, arguments)
      if node == {} and parsers.value(arguments, index) == option_records.NONE:
        done |= {index} if equals else {index, index + 1}
      elif dataclasses.is_dataclass(node) or isinstance(node, dict):
        raise Mistake(
          f'--{name} is a group of fields; set one of '
          f'{", ".join(f"--{name}.{field}" for field in parsers.fields(node))}.'
        )
  return [argument for index, argument in enumerate(arguments) if index not in done]


def _parse_values(arguments: Sequence[str], config: Any) -> list[str]:
  """Parses the flags; the message for a value of the wrong type names the right one."""
  try:
    return flags.FLAGS(arguments)
  except flags.UnrecognizedFlagError as error:
    raise parsers.unknown(error.flagname, _CONFIG) from error
  except flags.IllegalFlagValueError as error:
    named = re.match(rf'flag --({_CONFIG}\.[\w.]+)=', str(error))
    if named is None:
      if str(error).startswith(f'flag --{_CONFIG}=None: '):
        raise Mistake(f'--{_CONFIG} is missing: {str(error).partition(": ")[2]}') from error
      raise
    value = str(error)[named.end() :].partition(': ')[0]
    current = _look_up(config, named[1], arguments)
    raise parsers.mistyped(named[1], value, current) from error


def _look_up(config: Any, name: str, arguments: Sequence[str]) -> Any:
  """Returns the value at a dotted name in the config; errors suggest known names."""
  node, seen = config, _CONFIG
  for part in name.split('.')[1:]:
    known = parsers.fields(node)
    if isinstance(node, dict) and part not in known:
      node[part] = parsers.literal(parsers.typed(arguments, _CONFIG)[name.partition('.')[2]])
      _check_fields(config)
    if part not in known:
      near = [f'{seen}.{one}' for one in [names.nearest(part, known)] if one]
      moved = [f'{_CONFIG}.{place}' for place in configuration.places(name.partition('.')[2])]
      near = moved or near or [f'{seen}.{one}' for one in sorted(known)]
      meant = ' or '.join(f'--{one}' for one in near)
      hint = f'did you mean {meant}?' if near else f'--{seen} has no fields.'
      raise Mistake(f'--{name} is not a field of the config; {hint}')
    node = node[part] if isinstance(node, dict) else getattr(node, part)
    seen = f'{seen}.{part}'
  return node


def _check_fields(config: Any) -> None:
  """Checks types and ranges of all fields, including those set by the config file."""
  try:
    configuration.filled(config)
  except ValueError as error:
    raise Mistake(str(error)) from error
