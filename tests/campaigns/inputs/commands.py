"""Command lines of `launch.train`, parsed in this process, and config files that return no config."""

import contextlib
import functools
import io
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from absl import flags as absl_flags

from structured_obs.devices import hosts
from structured_obs.train import loop
from tests.campaigns import outcomes

CONFIG = '''
from tests.campaigns.inputs import fields


def get_config(variant=''):
  if variant:
    raise ValueError(f'There is no variant {variant!r}; there is one config.')
  return fields.base()
'''
FILES = {
  'no_syntax.py': 'def get_config(:\n',
  'no_function.py': 'x = 1\n',
  'raises.py': 'def get_config(variant=""):\n  return 1 / 0\n',
  'imports.py': 'import a_package_that_is_not_there\n',
  'none.py': 'def get_config(variant=""):\n  return None\n',
  'number.py': 'def get_config(variant=""):\n  return 3\n',
  'dictionary.py': 'def get_config(variant=""):\n  return {"train": {"steps": 3}}\n',
  'binary.py': '\0\1\2',
  'exits.py': 'import sys\nsys.exit(0)\n',
}
# Appended to --config=CONFIG --workdir=WORKDIR: the rest of the line, and what the answer must name.
FLAGS = [
  ('--config.nothing=1', 'nothing'),
  ('--config.train.stepz=1', 'stepz'),
  ('--config.train=3', 'train'),
  ('--config.train.steps', 'steps'),
  ('--config.train.steps=', 'steps'),
  ('--config.train.steps=abc', 'steps'),
  ('--config.train.steps=1.5', 'steps'),
  ('--config.train.steps=-1', 'steps'),
  ('--config.train.steps=1e3', 'steps'),
  ('--config.train.steps=99999999999999999999', 'steps'),
  ('--config.optim.learning_rate=nan', 'learning_rate'),
  ('--config.optim.learning_rate=inf', 'learning_rate'),
  ('--config.optim.learning_rate=1e999', 'learning_rate'),
  ('--config.optim.learning_rate=1,5', 'learning_rate'),
  ('--config.optim.learning_rate=""', 'learning_rate'),
  ("--config.model.options.features='(32,'", 'features'),
  ("--config.model.options.features='(32, 0.5)'", 'features'),
  ("--config.model.options.features='(True,)'", 'features'),
  ("--config.model.options.features='__import__(\"os\")'", 'features'),
  ('--config.model.options.features=abc', 'features'),
  ('--config.data.flip=perhaps', 'flip'),
  ('--config.data.source=', 'source'),
  ('--config.data.source=folder', 'source'),
  ('--config.data.source=folder:', 'source'),
  ('--config.data.source=digit', 'source'),
  ('--config.data.source=digits:3', 'source'),
  ('--config.data.shift=-1', 'shift'),
  ('--config.likelihood.family=diagonl', 'diagonl'),
  ('--config.likelihood.options.min_scale=1', 'min_scale'),
  ('--config.likelihood.options=3', 'options'),
  ('--no_such_flag', 'no_such_flag'),
  ('--no_such_flag=3', 'no_such_flag'),
  ('positional', 'positional'),
  ('-x', 'x'),
  ('--dry_run=maybe', 'dry_run'),
  ('--distributed=maybe', 'distributed'),
  ('--num_processes=2', 'num_processes'),
  ('--num_processes=abc', 'num_processes'),
  ('--num_processes=0 --process_id=0 --coordinator_address=localhost:12345', 'num_processes'),
  ('--num_processes=-2 --process_id=0 --coordinator_address=localhost:12345', 'num_processes'),
  ('--num_processes=2 --process_id=2 --coordinator_address=localhost:12345', 'process_id'),
  ('--num_processes=2 --process_id=-1 --coordinator_address=localhost:12345', 'process_id'),
  ('--num_processes=2 --process_id=0 --coordinator_address=localhost', 'coordinator_address'),
  ('--num_processes=2 --process_id=0 --coordinator_address=localhost:99999', 'coordinator_address'),
  ('--num_processes=2 --process_id=0 --coordinator_address=localhost:port', 'coordinator_address'),
  ('--num_processes=2 --process_id=0 --coordinator_address=""', 'coordinator_address'),
  ('--distributed=auto --process_id=0', 'distributed'),
  ('--flagfile=/nowhere/flags.txt', '/nowhere/flags.txt'),
  ('--verbosity=loud', 'verbosity'),
]


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields every case."""
  del seed
  for line, named in FLAGS:
    run = functools.partial(_run, f'--config=CONFIG --workdir=WORKDIR {line}')
    yield outcomes.Case('command line', line, run, (named,))
  for name in FILES:
    run = functools.partial(_run, f'--config=FOLDER/{name} --workdir=WORKDIR')
    yield outcomes.Case('command line', f'--config={name}', run, (name, 'config'))
  for line, named in (
    ('', 'config'),
    ('--config', 'config'),
    ('--config=', 'config'),
    ('--config=FOLDER', 'config'),
    ('--config=nowhere.py', 'nowhere.py'),
    ('--config=CONFIG:variant', 'variant'),
    ('--config=CONFIG', 'workdir'),
    ('--config=CONFIG --workdir=', 'workdir'),
    ('--config=CONFIG --workdir', 'workdir'),
    ('--config.train.steps=3', 'config'),
  ):
    yield outcomes.Case('command line', line or '(empty)', functools.partial(_run, line), (named,))


class Started(BaseException):
  """Raised where a run would begin to train."""


def _run(line: str, folder: Path) -> str:
  """Parses a line and runs the script up to its training; it must end before, in one line."""
  from launch import flags, train  # defines the flags, once

  (folder / 'config.py').write_text(CONFIG)
  for name, content in FILES.items():
    (folder / name).write_text(content)
  line = line.replace('FOLDER', str(folder)).replace('CONFIG', str(folder / 'config.py'))
  arguments = ['launch/train.py', *shlex.split(line.replace('WORKDIR', str(folder / 'run')))]
  said = io.StringIO()
  try:
    with (
      contextlib.redirect_stderr(said),
      mock.patch.object(sys, 'argv', arguments),
      mock.patch.object(loop, 'train', side_effect=Started),
      mock.patch.object(hosts.jax.distributed, 'initialize', side_effect=Started),
    ):
      train.main(flags._parse(arguments))
  except SystemExit as error:
    lines = said.getvalue().splitlines()
    if error.code == 2 and lines[0].startswith('error: ') and 'Traceback' not in said.getvalue():
      raise _refused(said.getvalue()) from None
    raise
  except Started:
    raise outcomes.Wrong('accepted') from None
  finally:
    _forget()
  raise outcomes.Wrong('ended without an error')


def _refused(text: str) -> OSError:
  """Returns an error that counts as a sentence of the project, which `_parse` has printed."""
  return OSError(0, text, text)


def _forget() -> None:
  """Sets all flags to their defaults, for the next line."""
  flags = absl_flags.FLAGS
  flags.unparse_flags()
  for name in [name for name in sys.modules if name.endswith('_config')]:
    if name.startswith('config'):  # the modules of config files
      sys.modules.pop(name)
  for name in list(flags):
    if name.startswith('config.'):
      delattr(flags, name)
    elif flags[name].present:
      flags[name].unparse()
