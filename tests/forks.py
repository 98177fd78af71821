"""Runs programs as `python -m` does, each in a process of its own, without importing jax for each.

`python -m tests.forks` imports the packages that launch scripts import, but uses none of them. For each
line of its input, a JSON list of a module or a file, its arguments, and files for the output and the
errors, it forks a process that runs the module, and prints the status of that process.
"""

import atexit
import functools
import importlib
import json
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FURTHER = ('launch.flags', 'matplotlib.pyplot', 'optax', 'orbax.checkpoint', 'rich.progress', 'sklearn')


class Done(NamedTuple):
  """A program that ended."""

  status: int
  output: str
  errors: list[str]  # lines


def run(program: str, *arguments: str) -> Done:
  """Runs a module, or a file whose name ends with .py, in the root of the project."""
  server = _server()
  assert server.stdin is not None
  assert server.stdout is not None
  with tempfile.TemporaryDirectory() as folder:
    files = [Path(folder, name) for name in ('output', 'errors')]
    server.stdin.write(json.dumps([program, arguments, *map(str, files)]) + '\n')
    server.stdin.flush()
    status = server.stdout.readline()
    assert status, 'The process that runs programs has ended.'
    output, errors = (file.read_text() for file in files)
  return Done(int(status), output, errors.splitlines())


@functools.cache
def _server() -> 'subprocess.Popen[str]':
  command = [sys.executable, '-m', 'tests.forks']
  pipe = subprocess.PIPE
  server = subprocess.Popen(command, cwd=ROOT, text=True, stdin=pipe, stdout=pipe)
  atexit.register(server.communicate)  # it ends with its input
  return server


def main() -> None:
  """Imports, and runs programs until the input ends."""
  package = importlib.import_module('structured_obs')
  for module in pkgutil.walk_packages(package.__path__, 'structured_obs.'):
    if not module.name.startswith('structured_obs.benchmark'):
      importlib.import_module(module.name)
  for name in FURTHER:
    importlib.import_module(name)
  for line in sys.stdin:
    program, arguments, *files = json.loads(line)
    child = os.fork()
    if not child:
      break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
  else:
    return
  for number, path in enumerate((os.devnull, *files)):
    opened = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(opened, number)
    os.close(opened)
  sys.argv = [program, *arguments]
  if program.endswith('.py'):
    runpy.run_path(program, run_name='__main__')
  else:
    runpy.run_module(program, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
