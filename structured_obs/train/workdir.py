"""The directory of a run: opened, or refused, before anything long starts.

`run.json` is written first and says what the run is: its resolved configuration, the data, versions
and the command. What it says is what a later start is compared with.
"""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import structured_obs
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.train import checkpoint, configuration

FILE = 'run.json'
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
Json = dict[str, Any]


def describe(config: Config, spec: DataSpec, command: str) -> Json:
  """Returns what run.json holds."""
  return {
    'config': configuration.to_dict(config),
    'data': json.loads(json.dumps(spec._asdict())),
    'versions': versions(),
    'command': command,
  }


def versions() -> dict[str, str]:
  """Returns the versions of Python, of this package and of what it computes with."""
  found = {'python': platform.python_version(), 'structured_obs': structured_obs.__version__}
  return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def check(workdir: Path, config: Config, allow_change: bool) -> None:
  """Compares the configuration of a run about to start with what the workdir holds.

  Args:
    workdir: of the run; it need not exist.
    config: resolved.
    allow_change: go on with another configuration.

  Raises:
    ValueError: if the workdir holds other files, or a run of another configuration.
  """
  if workdir.exists() and not workdir.is_dir():
    raise ValueError(f'The workdir {workdir} is a file; it must be a directory or not exist.')
  if not (workdir / FILE).exists():
    if workdir.is_dir() and any(workdir.iterdir()):
      raise ValueError(
        f'The workdir {workdir} holds files but no {FILE}, so it is not of a run; choose a '
        'directory that is empty or does not exist.'
      )
    return
  old = configuration.binding(configuration.from_dict(read(workdir)['config']))
  lines = checkpoint.differences(old, configuration.binding(config))
  if lines and not allow_change:
    raise ValueError(
      f'The workdir {workdir} holds a run of another configuration:\n{checkpoint.summary(lines)}\n'
      'Choose another --workdir, or go on with the new configuration by --allow_config_change.'
    )


def check_data(workdir: Path, spec: DataSpec, allow_change: bool) -> None:
  """Compares the data in the same way, which first have to be there.

  Raises:
    ValueError: if the workdir holds a run on other data, unless `allow_change`.
  """
  if allow_change or not (workdir / FILE).exists():
    return
  # Of the pixels themselves: the fingerprint also changes when the same files have moved.
  old, new = read(workdir)['data']['sha256'], spec.sha256
  if old != new:
    raise ValueError(
      f'The workdir {workdir} holds a run on other data:\n  data.sha256: {old} -> {new}\n'
      'Choose another --workdir, or go on with the new data by --allow_config_change.'
    )


def read(workdir: Path) -> Json:
  """Returns run.json.

  Raises:
    FileNotFoundError: if the directory holds no run.
    ValueError: if the file is not the JSON it should be.
  """
  path = workdir / FILE
  if not path.exists():
    raise FileNotFoundError(f'There is no run in {workdir}: it has no {FILE}.')
  try:
    run = json.loads(path.read_text())
    return {name: run[name] for name in ('config', 'data', 'versions', 'command')}
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged ({error}); choose another workdir.') from error


def write(workdir: Path, run: Json) -> None:
  """Writes run.json at once or not at all."""
  workdir.mkdir(parents=True, exist_ok=True)
  temporary = workdir / f'{FILE}.tmp'
  temporary.write_text(json.dumps(run, indent=2) + '\n')
  os.replace(temporary, workdir / FILE)
