"""The command line and the Python that give what a page of the studio shows."""

import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from structured_obs.applications import edit_input
from structured_obs.applications.studio import session, strokes
from structured_obs.applications.studio.desk import Desk
from structured_obs.applications.studio.views import NOISE, Settings

UPLOADED = 'upload.png'  # the name that an uploaded image has in recipes
_LAST = 'The last of these images.'
_OWN_NUMBERS = 'Other images of the same model: launch.sample draws its own.'
_OPEN = """import jax
import jax.numpy as jnp
import numpy as np
from structured_obs.applications import {modules}
from structured_obs.runs import restore

trained, prepared = restore.load({workdir!r}, {checkpoint!r})
family = trained.model.family
found = subject.find(trained, prepared, subject.parse({subject!r}))
"""


def command(desk: Desk, page: session.Session, settings: Settings, view: str) -> str:
  """Returns the command line of a view, which writes figures and arrays; or a comment that says why not.

  Args:
    desk: the run.
    page: the session.
    settings: of the page.
    view: of `views.VIEWS`.
  """
  script, words, said = _COMMANDS[view](desk, page, settings)
  checkpoint = f'--checkpoint={desk.trained.step}'
  line = ['python', '-m', f'launch.{script}', f'--workdir={desk.trained.workdir}', checkpoint, *words]
  return '\n'.join(([f'# {said}'] if said else []) + ([shlex.join(line)] if script else []))


def python(desk: Desk, page: session.Session, settings: Settings, view: str) -> str:
  """Returns Python that computes the arrays of a view; arguments as of `command`."""
  modules = {
    'Edit': 'edit, edit_input, subject',
    'Denoise': 'denoise, subject',
    'Components': 'components, subject',
    'Correlation': 'subject',
    'Interpolate': 'interpolate, subject',
  }[view]
  if view == 'Edit' and _hides(desk, page):
    modules, body = 'subject', _hidden(page, settings)
  else:
    body = _BODIES[view](desk, page, settings)
  start = _OPEN.format(
    modules=modules, workdir=desk.trained.workdir, checkpoint=desk.trained.step, subject=_subject(page)
  )
  return start + '\n'.join(body) + '\n'


class _Command(NamedTuple):
  """A script with its flags, and a remark; '' as script if there is none."""

  script: str
  words: Sequence[str] = ()
  said: str = ''


def _edit_command(desk: Desk, page: session.Session, settings: Settings) -> _Command:
  draws = settings.draws
  painting = strokes.paint(page.strokes, desk.image)
  if not painting.painted.any() and not painting.hidden.any():
    pixel = ''.join(f'{number},' for number in settings.pixel).rstrip(',')
    words = [*_up_to(page, 'num'), f'--samples={draws.samples}', f'--pixel={pixel}']
    words += [f'--temperature={draws.temperature:g}', *_drawn(settings)]
    return _Command('sample', words, _LAST if page.subject.startswith('test:') else _OWN_NUMBERS)
  words = [f'--subject={_subject(page)}']
  words += [f'--hide={",".join(map(str, one))}' for one in strokes.regions(painting)]
  words += ['--peek'] * (settings.peek and bool(painting.hidden.any()))
  words += [f'--rectangle={text}' for text in _rectangles(painting)]
  warm = draws.temperature != 1
  said = 'The samples of launch.edit have temperature 1.' if warm else ''
  return _Command('edit', [*words, f'--samples={draws.samples}', *_drawn(settings)], said)


def _denoise_command(desk: Desk, page: session.Session, settings: Settings) -> _Command:
  del desk
  kind = page.subject.partition(':')[0]
  if kind == 'prior':
    return _Command('', said='launch.denoise takes test images and files; the Python does the same.')
  files = [] if kind == 'test' else [f'--files={UPLOADED}']
  words = [f'--sigma={settings.sigma:g}', *files, *_up_to(page, 'num_images')]
  return _Command('denoise', [*words, f'--seed={settings.draws.seed}'], _LAST if kind == 'test' else '')


def _components_command(desk: Desk, page: session.Session, settings: Settings) -> _Command:
  del desk
  count = max(1, len(settings.amounts))
  said = 'Moves one component at a time; the Python moves them together.'
  words = [f'--subject={_subject(page)}', f'--components={count}', *_drawn(settings)]
  return _Command('components', words, said)


def _interpolate_command(desk: Desk, page: session.Session, settings: Settings) -> _Command:
  del desk
  way = [f'--steps={settings.steps}', f'--path={settings.path}']
  if settings.between == NOISE:
    words = [f'--subject={_subject(page)}', *way, *_drawn(settings)]
    return _Command('interpolate', words, 'The upper row of the grid.')
  if not page.subject.startswith('test:'):
    return _Command('', said='launch.interpolate takes test images; the Python does the same.')
  ends = f'{page.subject[5:]},{settings.other}'
  return _Command('interpolate', [f'--images={ends},{ends}', *way], 'Any row of the grid.')


_COMMANDS: dict[str, Callable[[Desk, session.Session, Settings], _Command]] = {
  'Edit': _edit_command,
  'Denoise': _denoise_command,
  'Components': _components_command,
  'Correlation': lambda desk, page, settings: _edit_command(desk, _bare(page), settings),
  'Interpolate': _interpolate_command,
}


def _edit(desk: Desk, page: session.Session, settings: Settings) -> Sequence[str]:
  draws = settings.draws
  lines = [] if draws.temperature == 1 else ['from structured_obs.distributions import gaussian']
  lines += [f'keys = jax.random.split(jax.random.key({draws.seed}), {draws.samples})']
  painting = strokes.paint(page.strokes, desk.image)
  if painting.painted.any():
    texts = ''.join(f'  {text!r},\n' for text in _rectangles(painting))
    lines += [f'rectangles = [\n{texts}]', 'edits = [']
    lines += ['  edit_input.of_rectangle(edit_input.parse_rectangle(text), trained.model.image)']
    lines += ['  for text in rectangles', ']']
    lines += ['mean = edit.apply(family, found.params, edits).mean']
    params = _params(draws.temperature)
    lines += [f'drawn = edit.apply(family, {params}, edits, pixel_noise={draws.pixel_noise})']
  else:
    lines += ['mean = family.mean(found.params)', *_nothing_known(settings)]
  return [*lines, 'deviation, samples = drawn.deviation, jnp.stack([*map(drawn.sample, keys)])']


def _hidden(page: session.Session, settings: Settings) -> Sequence[str]:
  draws = settings.draws
  return [
    'from structured_obs.applications.studio import desk, session, strokes, views',
    'page = session.from_json(' + repr(session.to_json(_alone(page))) + ')',
    f'draws = desk.Draws(seed={draws.seed}, temperature={draws.temperature:g}, '
    f'pixel_noise={draws.pixel_noise}, samples={draws.samples})',
    f'settings = views.Settings(draws, peek={settings.peek})',
    'view = views.edited(desk.Desk(trained, prepared, {}), page, settings)',
    'arrays = views.arrays(view)',
  ]


def _denoise(desk: Desk, page: session.Session, settings: Settings) -> Sequence[str]:
  del desk, page
  return [
    f'key = jax.random.key({settings.draws.seed})',
    f'noisy = denoise.add_noise(key, jnp.asarray(found.image)[None], {settings.sigma:g})',
    f'denoised = denoise.posterior_mean(trained.bound, noisy, {settings.sigma:g})',
    'denoised.mean, denoised.variance',
  ]


def _components(desk: Desk, page: session.Session, settings: Settings) -> Sequence[str]:
  del desk, page
  amounts, draws = [float(amount) for amount in settings.amounts], settings.draws
  start = 'mean'
  lines = ['mean = family.mean(found.params)']
  lines += [f'scaled = components.scale(family, found.params, mean, {max(1, len(amounts))}, (0.0,))']
  if settings.from_sample:
    lines += ['from structured_obs.applications import edit', *_nothing_known(settings)]
    lines += ['from structured_obs.distributions import gaussian'] * (draws.temperature != 1)
    lines += [f'(key,) = jax.random.split(jax.random.key({draws.seed}), 1)']
    start = 'drawn.sample(key)'
  return [*lines, f'moved = components.shift({start}, scaled, jnp.asarray({amounts}))']


def _correlation(desk: Desk, page: session.Session, settings: Settings) -> Sequence[str]:
  del desk, page
  return [
    'from structured_obs.distributions import gaussian',
    f'correlation = gaussian.correlation(family, found.params, {settings.pixel})',
  ]


def _interpolation(desk: Desk, page: session.Session, settings: Settings) -> Sequence[str]:
  del desk, page
  if settings.between == NOISE:
    draws = settings.draws
    return [
      f'way = interpolate.Way({settings.steps}, {settings.path!r}, {draws.pixel_noise})',
      f'frames = interpolate.line(family, way, found.params, jax.random.key({draws.seed}))',
    ]
  return [
    f"other = subject.find(trained, prepared, subject.parse('test:{settings.other}'))",
    'ends = jnp.stack([found.given, other.given])',
    'frames = interpolate.line_between_images('
    f'trained.bound, ends, {settings.steps}, {settings.path!r})',
  ]


_BODIES: dict[str, Callable[[Desk, session.Session, Settings], Sequence[str]]] = {
  'Edit': _edit,
  'Denoise': _denoise,
  'Components': _components,
  'Correlation': _correlation,
  'Interpolate': _interpolation,
}


def _nothing_known(settings: Settings) -> Sequence[str]:
  """Returns lines for the distribution that samples have before any stroke."""
  params, noise = _params(settings.draws.temperature), settings.draws.pixel_noise
  return [
    'shape = trained.model.image',
    'nothing = edit.Merged(jnp.zeros(shape), jnp.full(shape, jnp.inf))',
    f'drawn = edit.apply_merged(family, {params}, nothing, exact=True, pixel_noise={noise})',
  ]


def _up_to(page: session.Session, flag: str) -> list[str]:
  """Returns the flag for the first test images, up to the one of the page."""
  kind, _, number = page.subject.partition(':')
  return [f'--{flag}={int(number) + 1}'] if kind == 'test' else []


def _drawn(settings: Settings) -> list[str]:
  """Returns the flags of samples."""
  noise = [] if settings.draws.pixel_noise else ['--nopixel_noise']
  return [f'--seed={settings.draws.seed}', *noise]


def _bare(page: session.Session) -> session.Session:
  return page._replace(actions=(page.subject,), done=1)


def _subject(page: session.Session) -> str:
  return UPLOADED if page.subject.startswith(session.UPLOAD) else page.subject


def _params(temperature: float) -> str:
  """Returns the expression of the parameters that samples have."""
  if temperature == 1:
    return 'found.params'
  return f'gaussian.temper(family, found.params, {temperature:g})'


def _hides(desk: Desk, page: session.Session) -> bool:
  return bool(strokes.paint(page.strokes, desk.image).hidden.any())


def _alone(page: session.Session) -> session.Session:
  """Returns the session of what is on screen alone: no history, no other uploads."""
  actions = (page.subject, *page.strokes)
  name = page.subject.removeprefix(session.UPLOAD)
  return session.Session(
    actions, len(actions), None, {n: f for n, f in page.uploads.items() if n == name}
  )


def _rectangles(painting: strokes.Painting) -> list[str]:
  """Returns the painted pixels as `edit_input.parse_rectangle` reads them."""
  return [edit_input.to_text(one) for one in strokes.rectangles(painting)]
