"""What happens on the page of launch.studio: a function for each event.

The page keeps its session in the browser and gives it to every function, so the server has no state
but opened runs. Errors are sentences of the page.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from launch import errors
from structured_obs.applications import subject
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import files, panel, recipes, session, strokes, views
from structured_obs.plotting import colours


class Choices(NamedTuple):
  """The values of the page's controls, in the order in which its functions receive them."""

  run: str
  beside: str
  view: str = 'Edit'
  seed: float = 0
  temperature: float = 1.0
  pixel_noise: bool = True
  peek: bool = False
  sigma: float = 0.3
  from_sample: bool = False
  between: str = views.LATENTS
  other: float = 1
  path: str = 'gaussian'
  steps: float = 16
  channel: float = 0
  amounts: tuple[float, ...] = ()

  @classmethod
  def of(cls, values: tuple[Any, ...]) -> 'Choices':
    """Returns the choices of values, of which the last are the amounts."""
    fixed = len(cls._fields) - 1
    amounts = tuple(float(one or 0) for one in values[fixed:])
    return cls(**dict(zip(cls._fields[:fixed], values[:fixed], strict=True)), amounts=amounts)

  def settings(self, page: session.Session, image: Any) -> views.Settings:
    """Returns the settings of the views."""
    row, column = page.pixel or (image.height // 2, image.width // 2)
    pixel = (
      min(max(row, 0), image.height - 1),
      min(max(column, 0), image.width - 1),
      min(int(self.channel), image.channels - 1),
    )
    draws = desks.Draws(int(self.seed or 0), float(self.temperature), bool(self.pixel_noise))
    return views.Settings(
      draws, bool(self.peek), float(self.sigma), self.amounts, bool(self.from_sample), pixel,
      str(self.between), int(self.other or 0), str(self.path), int(self.steps),
    )  # fmt: skip


class Page:
  """The functions of a page on opened runs."""

  def __init__(self, opened: dict[str, desks.Desk]):
    """Takes the runs by their names, the first one first."""
    self.opened = opened
    self.lock = threading.Lock()  # of programs that are compiled

  def desk(self, run: str) -> desks.Desk:
    """Returns an opened run."""
    return self.opened.get(run) or next(iter(self.opened.values()))

  def page(self, memory: Any, run: str) -> session.Session:
    """Returns the session on images of a run; a new one if the browser has kept none."""
    kept = memory.get(_of(self.desk(run))) if isinstance(memory, dict) else None
    try:
      found = session.from_json(kept)
    except ValueError:
      return session.Session()
    return session.Session() if session.fits(found, self.desk(run).image) else found

  def change(self, make: Callable[..., session.Session]) -> Callable[..., list[Any]]:
    """Returns the function of an event that changes the session: (session, desk, *values) -> session."""

    def act(memory: Any, run: str, *values: Any) -> list[Any]:
      desk, before = self.desk(run), self.page(memory, run)
      number, said, after = 0, '', before
      if values and isinstance(values[-1], gr.EventData):
        number = int(values[-1]._data.get('number', 0))
      try:
        after = make(before, desk, *values)
        shown = self.shown(desk, after, number)
      except Exception as error:
        said, after = errors.as_typed(errors.message(error)), before
        shown = self.shown(desk, before, number)
      memory = {**(memory if isinstance(memory, dict) else {}), _of(desk): session.to_json(after)}
      canvas, sentence = shown
      sentence = sentence if not said else panel.sentence(said, warning=True)
      return [memory, canvas, sentence, self.history(desk, after)]

    return act

  def happen(self, make: Callable[..., session.Session]) -> Callable[..., list[Any]]:
    """Returns a function as that of `change`, for events of the canvas, which come with data."""
    change = self.change(make)

    def act(memory: Any, run: str, event: gr.EventData) -> list[Any]:
      return change(memory, run, event)

    return act

  def shown(self, desk: desks.Desk, page: session.Session, number: int = 0) -> tuple[Any, str]:
    """Returns what the canvas shows, and the HTML of a sentence on what was painted."""
    given = desks.known(desk, page)
    result, painting = desks.mean(desk, given), strokes.paint(page.strokes, desk.image)
    canvas = panel.canvas(result.image, painting, number, page.pixel)
    extra = {'milliseconds': result.milliseconds, 'channels': desk.image.channels}
    return {**canvas, **extra}, panel.about(painting, result.implausibility)

  def history(self, desk: desks.Desk, page: session.Session) -> Any:
    """Returns the list of actions, with the last one that is done chosen."""
    lines = session.history(page, desk.image)
    return gr.Dropdown(choices=lines, value=lines[page.done - 1])

  def drag(self, memory: Any, run: str, event: gr.EventData) -> Any:
    """Shows a stroke that has not ended, without keeping it."""
    try:
      desk = self.desk(run)
      page = painted(self.page(memory, run), desk, event)
      return {**self.shown(desk, page, int(event._data.get('number', 0)))[0], 'live': True}
    except ValueError:
      return gr.skip()

  def show(self, memory: Any, *values: Any) -> list[Any]:
    """Shows the chosen view: pictures, command line, Python; and keeps the choices in the browser."""
    choices = Choices.of(values)
    try:
      found, desk, page, settings = self.views(memory, choices)
      recipe = [make(desk, page, settings, choices.view) for make in (recipes.command, recipes.python)]
      return [panel.panel(found), *recipe, list(values)]
    except Exception as error:
      said = panel.sentence(errors.as_typed(errors.message(error)), warning=True)
      return [said, '', '', list(values)]

  def views(self, memory: Any, choices: Choices) -> tuple[dict[str, views.View], Any, Any, Any]:
    """Returns the chosen view of the chosen runs, and the first run, its session and the settings."""
    desk, page = self.desk(choices.run), self.page(memory, choices.run)
    settings = choices.settings(page, desk.image)
    names = [choices.run, *([choices.beside] if choices.beside in self.opened else [])]
    with self.lock:
      found = {name: views.VIEWS[choices.view](self.desk(name), page, settings) for name in names}
    return found, desk, page, settings

  def export(self, form: str) -> Callable[..., str]:
    """Returns a function that makes a file of a form from the chosen view, as JSON for the page."""

    def make(memory: Any, *values: Any) -> str:
      try:
        choices = Choices.of(values)
        found, *_ = self.views(memory, choices)
        file, kind = _file(found, form)
      except Exception as error:
        raise gr.Error(errors.as_typed(errors.message(error)), print_exception=False) from error
      name = f'{choices.run}_{choices.view.lower()}.{form}'
      return json.dumps({'name': name, 'kind': kind, 'file': files.to_text(file)})

    return make

  def restore(self, count: int) -> Callable[..., list[Any]]:
    """Returns a function that begins a page that is loaded, as it was left in this browser.

    Args:
      count: number of the page's choices.
    """

    def begin(memory: Any, kept: Any) -> list[Any]:
      known = isinstance(kept, list) and len(kept) == count and kept[0] in self.opened
      run = kept[0] if known else next(iter(self.opened))
      rest = kept[1:] if known else [gr.skip()] * (count - 1)
      return [run, *self.change(same)(memory, run), *rest]

    return begin


def painted(page: session.Session, desk: desks.Desk, event: gr.EventData) -> session.Session:
  """Returns the session after the strokes of an event."""
  data = event._data
  for tree in data.get('strokes', [])[:100]:
    value = strokes.value_of(tree.get('colour'), tree.get('gray'), desk.image.channels)
    stroke = strokes.from_json({**tree, 'value': value})
    if stroke.deviation and desk.family.student is not None:
      raise ValueError('A Student t is painted on exactly: set the softness to 0.')
    strokes.check(stroke, desk.image)
    page = session.act(page, stroke)
  return page


def undo(page: session.Session, desk: desks.Desk, *_: Any) -> session.Session:
  """Returns the session without its last action."""
  del desk
  return session.undo(page)


def redo(page: session.Session, desk: desks.Desk, *_: Any) -> session.Session:
  """Returns the session with the action that was undone last."""
  del desk
  return session.redo(page)


def reset(page: session.Session, desk: desks.Desk) -> session.Session:
  """Returns the session without strokes."""
  del desk
  return session.reset(page)


def same(page: session.Session, desk: desks.Desk) -> session.Session:
  """Returns the session as it is."""
  del desk
  return page


def beside(page: Page, step: int) -> Callable[..., Any]:
  """Returns a function of an event: the index of the test image before or after this one."""

  def move(memory: Any, run: str, index: Any) -> int:
    del memory
    count = len(page.desk(run).prepared.images['test'])
    return (int(index or 0) + step) % count

  return move


def looked(page: session.Session, desk: desks.Desk, event: gr.EventData) -> session.Session:
  """Returns the session with another marked pixel."""
  row, column = map(int, event._data['pixel'])
  if not (0 <= row < desk.image.height and 0 <= column < desk.image.width):
    raise ValueError('This pixel lies outside of the image.')
  return page._replace(pixel=(row, column))


def new(page: session.Session, desk: desks.Desk, label: Any) -> session.Session:
  """Returns the session with another new image."""
  del desk
  seeds = [
    int(one.split(':')[1]) for one in page.actions if isinstance(one, str) and one.startswith('prior:')
  ]
  chosen = f':{int(label)}' if str(label).isdecimal() else ''
  return session.act(page, f'prior:{max(seeds, default=-1) + 1}{chosen}')


def test(page: session.Session, desk: desks.Desk, index: Any) -> session.Session:
  """Returns the session with a test image."""
  if index is None or not 0 <= index < len(desk.prepared.images['test']) or index != int(index):
    last = len(desk.prepared.images['test']) - 1
    raise ValueError(f'There is no test image {index}; they are numbered from 0 to {last}.')
  return session.act(page, f'test:{int(index)}')


def uploaded(page: session.Session, desk: desks.Desk, path: str | None) -> session.Session:
  """Returns the session with an uploaded image, whose file is then removed."""
  if not path:
    return page
  try:
    if desk.trained.spec.condition or desk.trained.spec.masked:
      raise ValueError('This model is given more than an image, which a file does not contain.')
    digest, file = files.read_upload(path, subject.target(desk.trained))
  finally:
    Path(path).unlink(missing_ok=True)
  return session.upload(page, digest, file)


def went(page: session.Session, desk: desks.Desk, line: str | None) -> session.Session:
  """Returns the session after the action of a line of its history."""
  del desk
  number = str(line).partition('.')[0]
  return session.go(page, int(number)) if number.isdecimal() else page


def _of(desk: desks.Desk) -> str:
  """Returns what sessions are kept by: the images of a run."""
  return f'{desk.trained.spec.sha256[:12]} {"x".join(map(str, desk.image))}'


def _file(found: dict[str, views.View], form: str) -> tuple[bytes, str]:
  """Returns a file of a form, and its type."""
  if form == 'png':
    return panel.sheet(found), 'image/png'
  if form == 'npz':
    return files.arrays(panel.arrays(found)), 'application/octet-stream'
  view = next(iter(found.values()))
  return files.animation([colours.to_levels(one) for one in view.frames], form), f'image/{form}'
