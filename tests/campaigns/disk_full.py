"""A file system that becomes full: training, data preparation and unfinished evaluations, at many sizes.

A small file system in memory where the machine allows it (root on Linux), otherwise a limit on the size
of a file. Each attempt must end in a sentence that names the path, with nothing of an error's traceback
before it. Then space is made, and the same command must give what it gives on an empty disk.
"""

import contextlib
import functools
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from structured_obs.data import prepare
from structured_obs.evaluation import resume
from structured_obs.runs import checkpoint
from tests.campaigns import damage, outcomes

COUNT = 24
FRACTIONS = (0.0, 0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)  # of the space that is needed
PAGE = 4096

Release = Callable[[], object]


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields a case for every use of the disk and every size of it."""
  del seed
  for fraction in FRACTIONS:
    for kind, use, names in (
      ('training', _train, (damage.WORKDIR, 'place')),
      ('prepared data', _prepare, ('cache', 'place')),
      ('unfinished evaluation', _evaluate, ('partial', 'place')),
    ):
      run = functools.partial(_run, use, fraction)
      yield outcomes.Case(kind, f'{fraction:.0%} of the space', run, names)


def run(count: int, seed: int) -> list[outcomes.Result]:
  """Fills the disk `count` times, or at every size for 0."""
  return [outcomes.judge(case) for case in outcomes.sample(list(cases(seed)), count, seed)]


def _run(use: Callable[[Path], Callable[[], None]], fraction: float, folder: Path) -> str:
  """Runs on a disk that is too small, then makes space and runs again."""
  attempt = use(folder / 'place')
  attempt()  # counts the space
  place = folder / 'place'
  files = [path for path in place.rglob('*') if path.is_file()]
  needed = sum(-(-file.stat().st_size // PAGE) * PAGE for file in files)
  place.rename(folder / 'measured')
  place.mkdir()
  refused: Exception | None = None
  with _small(place, int(needed * fraction)) as release:
    with outcomes.output() as said:
      try:
        attempt()
      except Exception as error:
        refused = error
      text = said()
    release()
    attempt()
  outcomes.expect('Traceback' not in text, f'a traceback was printed: {text[:200]}')
  if refused is not None:
    raise refused
  return outcomes.RIGHT


def _train(place: Path) -> Callable[[], None]:
  made = damage.whole()

  def attempt() -> None:
    state = damage.train(made.config, place / damage.WORKDIR)
    outcomes.expect(checkpoint.digests(state) == made.end, 'the training ended in another state')

  return attempt


def _prepare(place: Path) -> Callable[[], None]:
  config = damage.run_config(place).data

  def attempt() -> None:
    found = prepare.prepare(config, verify=True)
    outcomes.expect(found.spec.sha256 == damage.whole().spec.sha256, 'other pixels')

  return attempt


def _evaluate(place: Path) -> Callable[[], None]:
  work = damage.unfinished_work(place / damage.PARTIAL)
  scores = np.random.default_rng(0).normal(size=(20, 2000))

  def attempt() -> None:
    resume.save(work, [scores])
    found, count = resume.load(work)
    outcomes.expect(count in (0, 20), f'{count} images were kept')
    outcomes.expect(not count or np.array_equal(found[0], scores), 'other numbers than were kept')

  return attempt


@contextlib.contextmanager
def _small(place: Path, size: int) -> Iterator[Release]:
  """Limits the space in an empty directory to a size in bytes, until it is released."""
  size = max(size // PAGE * PAGE, PAGE)
  mount = ('mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(place))
  if sys.platform == 'linux' and _succeeds(*mount):
    try:
      yield lambda: _succeeds('mount', '-o', 'remount,size=256m', str(place))
    finally:
      subprocess.run(['umount', '-l', str(place)], check=True)
    return
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size // 8, before[1]))  # a run writes several files
  try:
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def _succeeds(*command: str) -> bool:
  return subprocess.run(command, capture_output=True, check=False).returncode == 0
