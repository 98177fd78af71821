"""Reports a run: metrics.jsonl, TensorBoard events, and progress on the terminal.

Each line of metrics.jsonl is a JSON object {"step": .., "kind": "train" or "validation", name: number,
..}. The JSON is strict: a number that is not finite is null.
"""

import contextlib
import importlib.util
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import rich.console
import rich.progress

from structured_obs import strict_json
from structured_obs.runs import metrics_file
from structured_obs.train import terminal

FIRST = ('loss',)  # metrics to show before the others


def check_tensorboard() -> None:
  """Raises an ImportError that names the extra if tensorboardX is not installed."""
  if importlib.util.find_spec('tensorboardX') is None:
    raise ImportError(
      "--tensorboard needs tensorboardX, which is not installed; install it by "
      "pip install 'structured_obs[log]'."
    )


class Meter:
  """Averages the finite metrics of finished steps, and measures the speed."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._told: list[dict[str, Any]] = []
    self._timed = 0
    self._seconds = 0.0
    self._since: float | None = None  # None until the first step, which compiles, has finished

  def add(self, told: dict[str, Any]) -> None:
    """Adds the metrics of a finished step, as arrays on the devices."""
    self._told.append(told)
    if self._since is None:
      self._since = time.perf_counter()
    else:
      self._timed += 1

  def read(self) -> dict[str, float]:
    """Returns the means since the last call, and images per second over all devices."""
    fetched = jax.device_get(self._told)
    now = time.perf_counter()
    seconds = self._seconds + now - (now if self._since is None else self._since)
    found = set(fetched[0]) if fetched else set()
    names = [name for name in FIRST if name in found] + sorted(found - {*FIRST, 'skipped'})
    values = {name: _finite_mean([float(told[name]) for told in fetched]) for name in names}
    values['images_per_second'] = self._timed * self._batch_size / seconds if self._timed else math.nan
    self._told, self._timed, self._seconds, self._since = [], 0, 0.0, now
    return values

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Excludes the time inside the block from the speed."""
    begun = time.perf_counter()
    yield
    if self._since is not None:
      self._seconds -= time.perf_counter() - begun


def _finite_mean(values: list[float]) -> float:
  finite = [value for value in values if math.isfinite(value)]
  return math.fsum(finite) / len(finite) if finite else math.nan


class Recorder:
  """Writes records to metrics.jsonl and optionally to TensorBoard, and shows them.

  A context manager. On a terminal a rich progress bar stays at the bottom; elsewhere each record is one
  plain line. `active=False` silences it, for processes other than 0 of a run on several hosts.
  """

  def __init__(
    self,
    workdir: Path,
    steps: int,
    tensorboard: bool = False,
    active: bool = True,
    code: terminal.Coding | None = None,
  ):
    self._active = active
    self._code = code
    self._steps = steps
    self._workdir = Path(workdir)
    self._tensorboard = tensorboard
    self._file: Any = None
    self._began: tuple[int, float] | None = None
    self._events: Any = None
    self._console = rich.console.Console(highlight=False, soft_wrap=True)
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn('step {task.completed}/{task.total}'),
      rich.progress.BarColumn(),
      rich.progress.TimeElapsedColumn(),
      rich.progress.TextColumn('ETA'),
      rich.progress.TimeRemainingColumn(),
      rich.progress.TextColumn('{task.description}'),
      console=self._console,
      disable=not (active and self._console.is_terminal),
    )
    self._task = self._bar.add_task('', total=steps)

  def __enter__(self) -> 'Recorder':
    self._bar.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._bar.stop()
    for output in (self._file, self._events):
      if output is not None:
        with contextlib.suppress(OSError):  # a full disk loses only what TensorBoard has not read
          output.close()

  def resume(self, step: int) -> None:
    """Resumes at `step`: removes the records after it, and moves the bar."""
    self._began = None
    if self._active:
      metrics_file.truncate(self._workdir, step)
      self._file = (self._workdir / metrics_file.FILE).open(
        'ab', buffering=0
      )  # nothing is left for `close`
    if self._active and self._tensorboard:
      import tensorboardX  # the `log` extra

      self._events = tensorboardX.SummaryWriter(
        str(self._workdir / 'tensorboard'),
        purge_step=step or None,
        max_queue=0,  # unlimited: the writer's thread ends when the disk is full and stops emptying it
      )
    self._bar.reset(self._task, completed=step)

  def advance(self, step: int) -> None:
    """Moves the progress bar."""
    self._began = self._began or (step, time.perf_counter())  # excludes the first step, which compiles
    self._bar.update(self._task, completed=step)

  def record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    """Writes and shows one record."""
    if not self._active:
      return
    line = strict_json.text({'step': step, 'kind': kind, **values}, indent=None)
    with metrics_file.naming(self._workdir / metrics_file.FILE):
      left = line.encode()
      while left:
        left = left[self._file.write(left) :]
    if self._events is not None:
      for name, value in values.items():
        self._events.add_scalar(f'{kind}/{name}', value, step)
    self._show(step, kind, values)

  def picture(self, step: int, image: Any) -> None:
    """Gives TensorBoard, where it is used, a picture, uint8 [height, width, 3]."""
    if self._events is not None:
      self._events.add_image('validation/images', image, step, dataformats='HWC')

  def say(self, text: str) -> None:
    """Prints one message, above the progress bar if there is one."""
    if self._active:
      self._console.print(text, markup=False)

  def _show(self, step: int, kind: str, values: Mapping[str, float]) -> None:
    text = terminal.terms(values, self._code)
    if kind == 'train' and not self._bar.disable:
      self._bar.update(self._task, completed=step, description=text)
    else:
      left = f'  ETA {self._eta(step)}' if kind == 'train' else ''
      self.say(terminal.line(kind, step, self._steps, text + left))

  def _eta(self, step: int) -> str:
    if self._began is None or step <= self._began[0]:
      return '-'
    first, begun = self._began
    left = (time.perf_counter() - begun) / (step - first) * (self._steps - step)
    return f'{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}'
