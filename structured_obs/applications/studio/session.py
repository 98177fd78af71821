"""All that a page of the studio remembers: actions with undo and redo, and settings. Plain JSON.

An action chooses an image, makes a stroke or resets. The present state follows from those that were
done; undone ones wait to be done again until there is a new one. The page keeps the session in the
browser, and every function of the studio is a function of it, so that a server may be killed and started
again while the page is open.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from structured_obs.applications.studio import strokes
from structured_obs.distributions.base import ImageShape

MAX_ACTIONS = 500
MAX_UPLOADS = 8
RESET = 'reset'
UPLOAD = 'upload:'  # and a digest: the subject of an uploaded image


class Session(NamedTuple):
  """A page."""

  actions: tuple[str | strokes.Stroke, ...] = ('test:0',)  # a subject's name, RESET, or a stroke
  done: int = 1  # how many of the actions are done; the others were undone
  pixel: tuple[int, int] | None = None  # row and column that was clicked; None for the middle
  uploads: Mapping[str, str] = {}  # PNG files in base64, by their digest

  @property
  def subject(self) -> str:
    """The chosen image, as `subject.parse` reads it, or 'upload:DIGEST'."""
    return next(one for one in reversed(self.actions[: self.done]) if _is_subject(one))  # type: ignore[return-value]

  @property
  def strokes(self) -> tuple[strokes.Stroke, ...]:
    """The strokes since the image was chosen or reset."""
    found: list[strokes.Stroke] = []
    for action in self.actions[: self.done]:
      if isinstance(action, strokes.Stroke):
        found.append(action)
      else:
        found.clear()
    return tuple(found)


def act(session: Session, action: str | strokes.Stroke) -> Session:
  """Returns the session after a new action; what was undone is forgotten.

  The choice of an image replaces the one just before, as when images are leafed through. The oldest
  actions are dropped above `MAX_ACTIONS`, but for the choice of the image.
  """
  before = session.actions[: session.done]
  if _is_subject(action) and _is_subject(before[-1]):
    before = before[:-1]
  actions = (*before, action)
  if len(actions) > MAX_ACTIONS:
    start = session._replace(actions=actions[:-MAX_ACTIONS], done=len(actions) - MAX_ACTIONS)
    actions = (start.subject, *actions[-MAX_ACTIONS + 1 :])
  return session._replace(actions=actions, done=len(actions))


def upload(session: Session, digest: str, file: str) -> Session:
  """Returns the session with an uploaded image chosen; the last `MAX_UPLOADS` are kept.

  Args:
    session: before.
    digest: of the image.
    file: PNG in base64.
  """
  kept = {name: old for name, old in session.uploads.items() if name != digest}
  kept = dict([*kept.items()][-MAX_UPLOADS + 1 :]) | {digest: file}
  return act(session._replace(uploads=kept), f'{UPLOAD}{digest}')


def undo(session: Session) -> Session:
  """Returns the session without its last action; the first choice of an image stays."""
  return go(session, session.done - 1)


def redo(session: Session) -> Session:
  """Returns the session with the action that was undone last."""
  return go(session, session.done + 1)


def go(session: Session, done: int) -> Session:
  """Returns the session with this number of its actions done."""
  return session._replace(done=min(max(done, 1), len(session.actions)))


def reset(session: Session) -> Session:
  """Returns the session without strokes, if there are any; itself an action that can be undone."""
  return act(session, RESET) if session.strokes else session


def history(session: Session, image: ImageShape) -> list[str]:
  """Returns a line for each action, of which the first `session.done` are done."""
  lines = []
  for number, action in enumerate(session.actions, 1):
    if isinstance(action, strokes.Stroke):
      words = strokes.in_words(action, image)
    else:
      words = 'reset' if action == RESET else subject_in_words(action)
    lines.append(f'{number}. {words}')
  return lines


def subject_in_words(subject: str) -> str:
  """Returns what a subject is: 'test image 3', 'new image 5', 'uploaded image'."""
  kind, _, rest = subject.partition(':')
  number, _, label = rest.partition(':')
  if kind == 'upload':
    return 'uploaded image'
  return f'{"test" if kind == "test" else "new"} image {number}{f" of class {label}" if label else ""}'


def to_json(session: Session) -> dict[str, Any]:
  """Returns the session as JSON."""
  actions = [
    dict(strokes.to_json(one)) if isinstance(one, strokes.Stroke) else one for one in session.actions
  ]
  pixel = None if session.pixel is None else [*session.pixel]
  return {
    'actions': actions, 'done': session.done, 'pixel': pixel, 'uploads': dict(session.uploads)
  }  # fmt: skip


def from_json(tree: Any) -> Session:
  """Returns a session from its JSON.

  Raises:
    ValueError: it is none, such as one of another version of this program.
  """
  try:
    actions = tuple(
      one if isinstance(one, str) else strokes.from_json(one) for one in tree['actions'][:MAX_ACTIONS]
    )
    uploads = {str(name): str(file) for name, file in tree['uploads'].items()}
    done, at = int(tree['done']), tree.get('pixel')
    pixel = None if at is None else (int(at[0]), int(at[1]))
  except (TypeError, ValueError, LookupError, AttributeError) as error:
    raise ValueError('What this browser has kept is not a session of the studio.') from error
  if not actions or not _is_subject(actions[0]) or not 1 <= done <= len(actions):
    raise ValueError('What this browser has kept is not a session of the studio.')
  return Session(actions, done, pixel, uploads)


def fits(session: Session, image: ImageShape) -> Sequence[str]:
  """Returns what is wrong with the strokes of a session on images of a shape, in sentences."""
  wrong = []
  for stroke in session.strokes:
    try:
      strokes.check(stroke, image)
    except ValueError as error:
      wrong.append(str(error))
  return wrong


def _is_subject(action: object) -> bool:
  return isinstance(action, str) and action != RESET
