"""Launch scripts imported into the process of a test: each defines its flags where it is imported."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

from absl import flags as absl_flags
from absl.testing import flagsaver

import launch
from tests.forks import ROOT


@contextlib.contextmanager
def flags_of_no_script() -> Iterator[None]:
  """Takes the flags away that scripts imported by other tests have defined, and brings them back."""
  registered = absl_flags.FLAGS
  scripts = {f'launch.{path.stem}' for path in (ROOT / 'launch').glob('*.py')} - {'launch.flags'}
  theirs = [
    (module, flag)
    for module, defined in registered.flags_by_module_dict().items()
    for flag in defined
    if module in scripts or flag.name.partition('.')[0] == 'config'
  ]
  for name in {flag.name for _, flag in theirs}:
    delattr(registered, name)
  yield
  for module, flag in theirs:
    registered[flag.name] = flag
    registered.register_flag_by_module(module, flag)


@contextlib.contextmanager
def imported(script: str) -> Iterator[ModuleType]:
  """Imports `launch.SCRIPT` anew, under `flags_of_no_script`; its flags go when the context ends."""
  before = sys.modules.pop(f'launch.{script}', None)
  with flagsaver.flagsaver():
    try:
      yield importlib.import_module(f'launch.{script}')
    finally:  # its flags go with `flagsaver`: whoever imports it next must define them again
      sys.modules.pop(f'launch.{script}', None)
      launch.__dict__.pop(script, None)
      if before is not None:
        sys.modules[f'launch.{script}'] = before
        setattr(launch, script, before)
