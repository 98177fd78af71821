"""Messages for exceptions, which separate mistakes of the user from faults of the program."""

import linecache
import re
import traceback
from pathlib import Path

from absl import flags

import structured_obs

_ROOTS = (Path(structured_obs.__file__).parent, Path(__file__).parent)
_MEMORY = re.compile('RESOURCE_EXHAUSTED|out of memory', re.IGNORECASE)


def message(error: BaseException) -> str:
  """Returns what to print about an exception from `main`.

  Exceptions that this project raises carry a message for the user, and so do those of the operating
  system and of missing packages. Others come from within a library or are a fault of the program: the
  message says so, and names the step, the type and the line of this project.
  """
  if _meant(error):
    return as_typed(str(error))
  step = next((f'{note}: ' for note in getattr(error, '__notes__', ()) if note.startswith('while ')), '')
  reason = next((line for line in str(error).splitlines() if line.strip()), '')
  if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
    return (
      f'{step}out of memory ({reason or type(error).__name__}). Process fewer images at a time: lower '
      '--config.train.batch_size or raise --config.train.accumulate in training, and lower '
      '--config.eval.batch_size or --config.eval.chunk in evaluations.'
    )
  return (
    f'{step}{type(error).__name__}: {reason} ({_place(error)}). This may be a fault of the program; run '
    'the same command with --debug to see the traceback.'
  )


def as_typed(text: str) -> str:
  """Returns a message with fields written as this program's flags.

  In a program without `--config`, --config.data.source becomes the flag --data_source if there is one,
  and otherwise the field data.source of the run's configuration.
  """
  if 'config' in flags.FLAGS:
    return text

  def typed(found: re.Match[str]) -> str:
    flag = found[1].replace('.', '_')
    return f'--{flag}' if flag in flags.FLAGS else found[1]

  return re.sub(r'--config\.(\w+(?:\.\w+)+)', typed, text)


def _meant(error: BaseException) -> bool:
  """Returns whether an exception was raised for the user."""
  if isinstance(error, OSError | ImportError):
    return True
  frames = traceback.extract_tb(error.__traceback__)
  if not frames:
    return True
  line = linecache.getline(frames[-1].filename, frames[-1].lineno or 0)
  return _own(frames[-1].filename) and line.strip().startswith('raise')


def _own(filename: str) -> bool:
  return any(Path(filename).is_relative_to(root) for root in _ROOTS)


def _place(error: BaseException) -> str:
  """Returns the innermost line of this project in the traceback."""
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _own(frame.filename)]
  if not frames:
    return 'outside of this project'
  path = Path(frames[-1].filename)
  root = next(root for root in _ROOTS if path.is_relative_to(root))
  return f'{path.relative_to(root.parent)}, line {frames[-1].lineno}'
