"""Pictures of the studio as HTML and data for a page; each is a PNG inside the page itself.

Letters: H W C image height, width, channels.
"""

import html
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from structured_obs import plotting
from structured_obs.applications import edit
from structured_obs.applications.studio import files, strokes, views
from structured_obs.applications.studio.views import Picture, View
from structured_obs.data import encode
from structured_obs.plotting import colours

FREE, PAINTED, HIDDEN = '012'  # cells of a canvas


def address(file: bytes, kind: str) -> str:
  """Returns a file as a data address, for an image of a page; `kind` is as 'image/png'."""
  return f'data:{kind};base64,{files.to_text(file)}'


def levels(picture: Picture, limit: float | None = None) -> np.ndarray:
  """Returns the colours of a picture, with its mark. uint8 [H, W, 1 or 3].

  Args:
    picture: to show.
    limit: end of the scale; None takes its own.
  """
  found = colours.to_levels(picture.image, picture.kind, limit or picture.end())
  if picture.mark is None:
    return found
  found = np.array(np.broadcast_to(found, (*found.shape[:2], 3)))
  found[picture.mark] = (255, 0, 200)
  return found


def limits(shown: Sequence[View]) -> dict[str, float]:
  """Returns a common end of the scale for pictures of one caption, so that runs can be compared."""
  found: dict[str, float] = {}
  for view in shown:
    for picture in view.pictures:
      found[picture.caption] = max(found.get(picture.caption, 0), picture.end())
  return found


def panel(shown: Mapping[str, View]) -> str:
  """Returns the HTML of views of one or several runs, by the run's name, a row for each."""
  ends, rows = limits([*shown.values()]), []
  for name, view in shown.items():
    figures = [_figure(picture, ends[picture.caption]) for picture in view.pictures]
    if view.moving:
      frames = [colours.to_levels(frame) for frame in view.frames]
      file = address(files.animation(frames, 'webp'), 'image/webp')
      figures.insert(0, _html(file, 'animation, there and back'))
    heading = f'<h4>{html.escape(name)}</h4>' if len(shown) > 1 else ''
    note = f'<p>{html.escape(view.note)}</p>' if view.note else ''
    rows.append(f'<section>{heading}<div class="so-row">{"".join(figures)}</div>{note}</section>')
  return ''.join(rows)


def sentence(text: str, warning: bool = False) -> str:
  """Returns a sentence as the HTML of a panel, marked where it is a warning."""
  kind = 'so-sentence so-warning' if warning else 'so-sentence'
  return f'<p class="{kind}" role="status">{html.escape(text)}</p>'


def about(painting: strokes.Painting, implausibility: float) -> str:
  """Returns what was painted and hidden, and whether it is plausible, as the HTML of a sentence.

  Args:
    painting: of the strokes.
    implausibility: as of `edit.Edited`.
  """
  painted, hidden = int(painting.painted.sum()), int(painting.hidden.sum())
  if hidden:
    also = f', {painted} painted' if painted else ''
    return sentence(f'{_pixels(hidden)} hidden{also}; all others are seen as they are.')
  if not painted:
    return sentence('Nothing is painted: this is the predicted mean. Paint on it, and the rest follows.')
  warning = edit.warning(implausibility)
  if warning:
    return sentence(f'{_pixels(painted)} painted. {warning}', warning=True)
  away = math.sqrt(max(implausibility, 0))
  return sentence(
    f'{_pixels(painted)} painted, plausible: {away:.1f} standard deviations away per direction, where '
    'about 1 is usual.'
  )


def canvas(
  image: np.ndarray, painting: strokes.Painting, number: int, mark: tuple[int, int] | None = None
) -> dict[str, Any]:
  """Returns what the page's canvas shows.

  Args:
    image: [H, W, C] in [-1, 1].
    painting: what is painted and hidden.
    number: of the request that this answers; 0 for none.
    mark: row and column of a marked pixel.
  """
  cells = np.where(painting.hidden, 2, np.where(painting.painted, 1, 0))
  return {
    'image': address(encode.png(colours.to_levels(image), level=1), 'image/png'),
    'height': image.shape[0],
    'width': image.shape[1],
    'cells': (cells.astype(np.uint8) + ord(FREE)).tobytes().decode(),
    'mark': None if mark is None else [*mark],
    'number': number,
  }


def sheet(shown: Mapping[str, View]) -> bytes:
  """Returns a PNG file with all pictures of views, a row for each, a column for each run.

  Args:
    shown: views by the run's name, with the same captions or not.
  """
  ends = limits([*shown.values()])
  by_caption: dict[str, dict[int, Picture]] = {}
  for column, view in enumerate(shown.values()):
    for picture in view.pictures:
      by_caption.setdefault(picture.caption, {})[column] = picture
  rows = []
  for caption, pictures in by_caption.items():
    some = next(iter(pictures.values()))
    blank = np.zeros_like(some.image)
    images = np.stack([pictures[i].image if i in pictures else blank for i in range(len(shown))])
    empty = tuple(i for i in range(len(shown)) if i not in pictures)
    limit = None if some.kind == 'pixels' else ends[caption]
    rows.append(plotting.Row(caption, images, some.kind, some.mark, limit, empty=empty))
  with tempfile.TemporaryDirectory() as folder:
    return plotting.image_rows(Path(folder) / 'sheet.png', rows, [*shown]).read_bytes()


def arrays(shown: Mapping[str, View]) -> dict[str, np.ndarray]:
  """Returns the arrays of views by name, with the run's name before it where there are several."""
  if len(shown) == 1:
    return views.arrays(*shown.values())
  return {
    f'{name}/{key}': array for name, view in shown.items() for key, array in views.arrays(view).items()
  }


def _pixels(count: int) -> str:
  return f'{count} pixel{"s" * (count != 1)}'


def _figure(picture: Picture, limit: float) -> str:
  caption = picture.caption
  if picture.kind != 'pixels':
    caption += f' (±{limit:.2g})' if picture.kind == 'signed' else f' (0 to {limit:.2g})'
  return _html(address(encode.png(levels(picture, limit)), 'image/png'), caption)


def _html(source: str, caption: str) -> str:
  text = html.escape(caption)
  return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
