"""What became of one attempt to break something, and the counts of many.

An attempt is a `Case`: a function of an empty folder that returns a verdict, or raises. `judge` runs it
and also recognises errors that nobody wrote for a user, and hangs.
"""

import collections
import contextlib
import linecache
import os
import signal
import stat
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS_ANSWER = (ValueError, OSError, ImportError, TypeError)  # with the message alone
TIMEOUT = 120  # seconds until a case hangs

RIGHT = 'right'  # the result is the one of the undamaged input
ACCEPTED = 'accepted'  # a result that no oracle can judge
REFUSED = 'refused'  # with a sentence that names the cause
# Faults:
WRONG = 'silently wrong'
RAW = 'raw exception'
VAGUE = 'unnamed'  # refused with a sentence that does not name the file or the field
NEEDLESS = 'refused needlessly'  # a healthy input, or one that was to be skipped
HANG = 'hang'
LOST = 'lost'  # work that was on disk before
FAULTS = (WRONG, RAW, VAGUE, NEEDLESS, HANG, LOST)
COLUMNS = (RIGHT, ACCEPTED, REFUSED, *FAULTS)


class Case(NamedTuple):
  """One attempt."""

  kind: str  # row of the table of counts
  name: str  # unique within its kind
  run: Callable[[Path], str]  # given an empty folder; returns a verdict, or raises
  names: tuple[str, ...] = ()  # a refusal must contain one of these
  healthy: bool = False  # a refusal is a fault


class Result(NamedTuple):
  """What became of one attempt."""

  kind: str
  name: str
  outcome: str  # one of COLUMNS
  note: str = ''  # the message of the error, or what differs


class Hang(BaseException):
  """Raised in a case that takes too long; no handler of ordinary errors catches it."""


class Wrong(Exception):
  """Raised by a case whose result is silently wrong; the message says how it differs."""


def expect(condition: object, difference: str) -> None:
  """Raises `Wrong` with the difference unless the condition holds."""
  if not condition:
    raise Wrong(difference)


def judge(case: Case, timeout: int = TIMEOUT) -> Result:
  """Runs a case in a folder of its own and classifies what happened."""
  with tempfile.TemporaryDirectory(prefix='campaign-') as folder, warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      with output(), _deadline(Path(folder), timeout):
        outcome, note = case.run(Path(folder)), ''
    except Hang:
      outcome, note = HANG, f'no end after {timeout} s'
    except Wrong as error:
      outcome, note = WRONG, str(error)
    except (Exception, SystemExit) as error:
      outcome, note = refusal(error, case.names), f'{type(error).__name__}: {error}'
    if outcome == REFUSED and case.healthy:
      outcome = NEEDLESS
  return Result(case.kind, case.name, outcome, note)


def refusal(error: BaseException, names: Sequence[str] = ()) -> str:
  """Returns REFUSED, VAGUE or RAW: whether an error is a sentence that was written for a user."""
  message = str(error)
  systems = isinstance(error, OSError) and error.filename is not None  # such as a missing permission
  written = isinstance(error, SCRIPTS_ANSWER) and (systems or raised_by_project(error))
  if not written or len(message) < 20 or 'Traceback' in message:
    return RAW
  return REFUSED if not names or any(name in message for name in names) else VAGUE


def raised_by_project(error: BaseException) -> bool:
  """Whether the error comes from a `raise` statement of the library or of the scripts."""
  frames = list(traceback.walk_tb(error.__traceback__))
  if not frames:
    return False
  frame, line = frames[-1]
  file = os.path.abspath(frame.f_code.co_filename)
  parts = [str(ROOT / part) + os.sep for part in ('structured_obs', 'launch', 'configs')]
  return file.startswith(tuple(parts)) and linecache.getline(file, line).lstrip().startswith('raise')


def sample(cases: Sequence[Case], count: int, seed: int) -> list[Case]:
  """Returns `count` cases, the same for the same seed, as evenly over the kinds as they allow.

  Args:
    cases: of any number of kinds.
    count: 0 takes all.
    seed: of the choice.
  """
  if not count or count >= len(cases):
    return list(cases)
  order = np.random.default_rng(seed).permutation(len(cases))
  turns: collections.Counter[str] = collections.Counter()
  ranked = []
  for index in order:
    turns[cases[index].kind] += 1
    ranked.append((turns[cases[index].kind], int(index)))
  return [cases[index] for index in sorted(index for _, index in sorted(ranked)[:count])]


def table(results: Sequence[Result]) -> str:
  """Returns the counts by kind and outcome, as Markdown; columns that are empty are left out."""
  counts = collections.Counter((result.kind, result.outcome) for result in results)
  kinds = list(dict.fromkeys(result.kind for result in results))
  columns = [name for name in COLUMNS if any(counts[kind, name] for kind in kinds)]
  rows = [['kind', 'tried', *columns], ['---', *['---:'] * (len(columns) + 1)]]
  for kind in kinds:
    own = [counts[kind, name] for name in columns]
    rows.append([kind, *map(str, [sum(own), *own])])
  total = [sum(counts[kind, name] for kind in kinds) for name in columns]
  rows.append(['**all**', *map(str, [sum(total), *total])])
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def faults(results: Sequence[Result]) -> list[Result]:
  """Returns the results that are faults."""
  return [result for result in results if result.outcome in FAULTS]


@contextlib.contextmanager
def _deadline(folder: Path, seconds: int) -> Iterator[None]:
  """Raises `Hang` after some seconds, also where threads wait for a pipe in the folder."""

  def expired(number: int, frame: types.FrameType | None) -> None:
    del number, frame
    for path in folder.rglob('*'):
      if stat.S_ISFIFO(path.lstat().st_mode):  # whoever waits for its content gets an end of file
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    raise Hang

  before = signal.signal(signal.SIGALRM, expired)
  own = signal.setitimer(signal.ITIMER_REAL, seconds)[0]
  try:
    yield
  finally:
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, own)  # whose time has not passed meanwhile


@contextlib.contextmanager
def output() -> Iterator[Callable[[], str]]:
  """Gathers what this process prints meanwhile, also from other languages; yields what returns it."""
  streams = (sys.stdout, sys.stderr)
  with tempfile.TemporaryFile() as file:
    for stream in streams:
      stream.flush()
    before = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
      os.dup2(file.fileno(), number)

    def text() -> str:
      for stream in streams:
        stream.flush()
      file.seek(0)
      return file.read().decode(errors='replace')

    try:
      yield text
    finally:
      for stream in streams:
        stream.flush()
      for number, original in zip((1, 2), before, strict=True):
        os.dup2(original, number)
        os.close(original)
