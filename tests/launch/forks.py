"""Runs programs as `python -m` does, each in a process of its own, without importing jax for each.

`python -m tests.launch.forks` imports the packages that launch scripts import, but uses none of them.
For each line of its input, a JSON list of a module, its arguments, and files for the output and the
errors, it forks a process that runs the module, and prints the status of that process.
"""

import importlib
import json
import os
import pkgutil
import runpy
import sys

import launch.flags  # noqa: F401
import structured_obs

FURTHER = ('matplotlib.pyplot', 'optax', 'orbax.checkpoint', 'rich.progress', 'scipy.stats', 'sklearn')


def main() -> None:
  """Imports, and runs programs until the input ends."""
  for module in pkgutil.walk_packages(structured_obs.__path__, 'structured_obs.'):
    if not module.name.startswith('structured_obs.benchmark'):
      importlib.import_module(module.name)
  for name in FURTHER:
    importlib.import_module(name)
  for line in sys.stdin:
    module, arguments, *files = json.loads(line)
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
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
