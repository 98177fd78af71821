"""The layout of the page of launch.studio, and which event calls which function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from launch import studio_events as events
from launch.studio_events import Page
from structured_obs.applications import paths
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import strokes, views

HERE = Path(__file__).parent
CSS = HERE / 'studio.css'
ALONE = 'no other run'
_KEEP = 'structured_obs_studio'  # in the browser's storage
_PEN = """(tool, pen, gray, colour, deviation) => { window.soPen = {
  tool: tool.toLowerCase(), pen: Math.round(pen), gray, colour, deviation }; }"""
_SAVE = """(text) => { if (!text) return; const { name, kind, file } = JSON.parse(text);
  const bytes = Uint8Array.from(atob(file), (one) => one.charCodeAt(0));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type: kind })); link.download = name; link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000); }"""
_CORRELATE = "() => ['Correlation', { selected: 'Correlation', __type__: 'update' }]"
_CANVAS = """<div class="so-canvas"><canvas aria-label="the image to paint on"></canvas></div>
<p class="so-time" role="status"></p>"""
_QUICK: dict[str, Any] = {'queue': False, 'show_progress': 'hidden', 'trigger_mode': 'multiple'}


class Shown(NamedTuple):
  """What events change on the page."""

  memory: Any  # the sessions, in the browser
  canvas: Any
  sentence: Any
  history: Any


class Sources(NamedTuple):
  """The controls that choose an image."""

  index: Any
  previous: Any
  next: Any
  new: Any
  label: Any
  upload: Any
  undo: Any
  redo: Any
  reset: Any
  history: Any


def build(page: Page, beside: str = '') -> gr.Blocks:
  """Returns the page on opened runs.

  Args:
    page: its functions.
    beside: name of the run that is shown beside the first.
  """
  desk = next(iter(page.opened.values()))
  able = desks.abilities(desk)
  with gr.Blocks(title='structured_obs studio', analytics_enabled=False) as blocks:
    memory = gr.BrowserState({}, storage_key=_KEEP, secret=_KEEP)
    kept = gr.BrowserState(None, storage_key=f'{_KEEP}_choices', secret=_KEEP)
    gr.Markdown(f'### structured_obs studio\n{_about(desk)}', elem_id='about')
    run, other = _runs(page, beside)
    with gr.Row():
      with gr.Column(scale=5, min_width=320):
        script = (HERE / 'studio_canvas.js').read_text(encoding='utf-8')
        canvas = gr.HTML(None, html_template=_CANVAS, js_on_load=script, elem_id='canvas')
        sentence = gr.HTML(elem_id='sentence')
        pen = _pen(desk, able)
      with gr.Column(scale=7, min_width=320):
        sources = _sources(able)
        choices, views_ = _views(desk, able)
        panel = gr.HTML(elem_id='panel', elem_classes='so-panel')
        exports = _exports()
        command, python = _recipes()
    shown = Shown(memory, canvas, sentence, sources.history)
    inputs = [memory, run, other, *choices]
    outputs = [panel, command, python, kept]
    _connect(page, shown, run, sources)
    _connect_views(page, shown, inputs, outputs, views_)
    for form, button in exports.items():
      file = gr.Textbox(visible=False)
      button.click(page.export(form), inputs, file).success(None, file, js=_SAVE)
    for control in pen:
      control.change(None, pen, js=_PEN)
    begin = page.restore(len(choices) + 2)
    started = blocks.load(begin, [memory, kept], [run, *shown, other, *choices])
    started.then(None, pen, js=_PEN)
  return blocks


def _about(desk: desks.Desk) -> str:
  """Returns a line about a run."""
  trained, likelihood = desk.trained, desk.trained.config.likelihood
  name = '+'.join([likelihood.family, *filter(None, likelihood.wrappers)])
  shape = ' x '.join(map(str, desk.image))
  return f'`{trained.workdir}`, step {trained.step}: {name}, images of {shape}, {trained.spec.source}'


def _runs(page: Page, beside: str) -> tuple[Any, Any]:
  """Returns the choices of the run and of the one beside it."""
  names = [*page.opened]
  several = len(names) > 1
  with gr.Row(visible=several):
    run = gr.Dropdown(names, value=names[0], label='Run', filterable=False, visible=several)
    other = gr.Dropdown(
      [ALONE, *names], value=beside or ALONE, label='Beside it', filterable=False, visible=several
    )
  return run, other


def _pen(desk: desks.Desk, able: desks.Abilities) -> list[Any]:
  """Returns the controls of the pen, in the order of _PEN."""
  colour = desk.image.channels == 3
  largest = min(strokes.MAX_PEN, max(desk.image.height, desk.image.width) // 2)
  with gr.Row():
    tool = gr.Radio(
      ['Paint', 'Hide', 'Erase', 'Correlate'], value='Paint', label='Pen', elem_id='tool', min_width=300
    )
    hue = gr.ColorPicker('#ffffff', label='Colour', visible=colour, min_width=80, scale=0)
  with gr.Row():
    gray = gr.Slider(
      -1, 1, 1, step=0.01, label='Value, -1 to 1', visible=not colour, min_width=150,
      elem_id='value',
    )  # fmt: skip
    start = max(1, min(desk.image.height, desk.image.width) // 12)
    size = gr.Slider(1, max(largest, 2), start, step=1, label='Width', min_width=150, elem_id='pen')
    softness = gr.Slider(
      0, 1, 0, step=0.01, label='Softness, 0 is exact' if able.soft else 'Exact only',
      interactive=able.soft, min_width=150, elem_id='softness',
    )  # fmt: skip
  return [tool, size, gray, hue, softness]


def _sources(able: desks.Abilities) -> Sources:
  small: dict[str, Any] = {'size': 'sm', 'min_width': 72}
  with gr.Row():
    index = gr.Number(
      0, label=f'Test image, 0 to {able.test_images - 1}', precision=0, minimum=0,
      maximum=able.test_images - 1, min_width=150, elem_id='index',
    )  # fmt: skip
    label = gr.Dropdown(
      ['any class', *map(str, range(able.classes))], value='any class', label='Class of new images',
      min_width=150, visible=able.classes > 0, filterable=False,
    )  # fmt: skip
    history = gr.Dropdown(
      [],
      label='History: go back to',
      interactive=True,
      filterable=False,
      min_width=220,
      elem_id='history',
    )
  with gr.Row():
    back = gr.Button('Previous', **small)
    forth = gr.Button('Next', **small)
    new = gr.Button('New image', interactive=able.prior, **small)
    upload = gr.UploadButton('Upload', interactive=able.uploads, elem_id='upload', **small)
    undo = gr.Button('Undo', **small)
    redo = gr.Button('Redo', **small)
    reset = gr.Button('Reset', **small)
  return Sources(index, back, forth, new, label, upload, undo, redo, reset, history)


class _Views(NamedTuple):
  """The tabs, and the controls that change what they show."""

  tabs: Any
  each: dict[str, Any]  # tabs by their view
  chosen: Any  # the name of the chosen one
  noise: Any  # the button of new noise
  seed: Any
  zero: Any  # the button that sets the sliders to 0


def _views(desk: desks.Desk, able: desks.Abilities) -> tuple[list[Any], _Views]:
  """Returns the controls in the order of `events.Choices` behind the runs, and the tabs."""
  start, each = events.Choices('', ''), {}
  chosen = gr.Textbox('Edit', visible=False)
  with gr.Tabs() as tabs:
    with gr.Tab('Edit', id='Edit') as each['Edit']:
      peek = gr.Checkbox(
        False,
        label='Encoder sees hidden pixels',
        info='off: it sees the visible ones alone',
        min_width=180,
      )
    with gr.Tab('Denoise', id='Denoise') as each['Denoise']:
      sigma = gr.Slider(0.01, 1.5, start.sigma, step=0.01, label='Noise, standard deviation')
    with gr.Tab('Components', id='Components') as each['Components']:
      with gr.Row():
        sample = gr.Checkbox(False, label='Move a sample, not the mean', min_width=180)
        zero = gr.Button('All to 0', size='sm', min_width=80)
      with gr.Row():
        amounts = [
          gr.Slider(-4, 4, 0, step=0.1, label=f'Component {i + 1}', min_width=140, elem_id=f'amount{i}')
          for i in range(able.components)
        ]
    with gr.Tab('Correlation', id='Correlation') as each['Correlation']:
      gr.Markdown('Choose the pen *Correlate* and click on a pixel of the image.')
      names = ['red', 'green', 'blue'] if desk.image.channels == 3 else ['gray']
      channel = gr.Radio(
        [*zip(names, range(3), strict=False)], value=0, label='Channel', visible=len(names) > 1
      )
    with gr.Tab('Interpolate', id='Interpolate') as each['Interpolate'], gr.Row():
      kinds = [*views.BETWEEN] if able.latents else [views.NOISE]
      between = gr.Radio(
        kinds, value=kinds[0], label='Images, in latents; or samples, in noise', min_width=220
      )
      other = gr.Number(1, label='To test image', precision=0, minimum=0, min_width=100)
      path = gr.Dropdown([*paths.PATHS], value=start.path, label='Path', min_width=100)
      steps = gr.Slider(2, views.MAX_STEPS, start.steps, step=1, label='Steps', min_width=180)
  with gr.Row():
    seed = gr.Number(0, label='Noise number', precision=0, minimum=0, maximum=2**31 - 1, min_width=90)
    temperature = gr.Slider(0.1, 2, 1, step=0.05, label='Temperature', min_width=160)
    pixel_noise = gr.Checkbox(
      True, label='Pixel noise', interactive=able.pixel_noise, min_width=110, elem_id='pixel_noise'
    )
    noise = gr.Button('New noise', size='sm', min_width=100, elem_id='noise')
  choices = [
    chosen, seed, temperature, pixel_noise, peek, sigma, sample, between, other, path, steps, channel,
    *amounts,
  ]  # fmt: skip
  return choices, _Views(tabs, each, chosen, noise, seed, zero)


def _exports() -> dict[str, Any]:
  """Returns buttons by the form that they export."""
  with gr.Row():
    return {
      form: gr.Button(f'Save {form.upper()}', size='sm', min_width=90, elem_id=f'save_{form}')
      for form in ('png', 'npz', 'webp', 'gif')
    }


def _recipes() -> tuple[Any, Any]:
  with gr.Accordion('The same from a terminal and from Python', open=False):
    command = gr.Code(language='shell', label='Command line', interactive=False, lines=2)
    python = gr.Code(language='python', label='Python', interactive=False, lines=8)
  return command, python


def _connect(page: Page, shown: Shown, run: Any, at: Sources) -> None:
  """Connects all that changes the session."""
  plain = [shown.memory, run]

  def when(event: Any, make: Any, more: Sequence[Any] = (), **how: Any) -> Any:
    return event(page.change(make), [*plain, *more], list(shown), **{**_QUICK, **how})

  shown.canvas.stroke(page.happen(events.painted), plain, list(shown), **_QUICK)
  shown.canvas.drag(page.drag, plain, shown.canvas, **_QUICK)
  for event in (shown.canvas.undo, at.undo.click):
    when(event, events.undo)
  for event in (shown.canvas.redo, at.redo.click):
    when(event, events.redo)
  when(at.reset.click, events.reset)
  when(at.index.input, events.test, [at.index])
  when(at.new.click, events.new, [at.label])
  when(at.upload.upload, events.uploaded, [at.upload], show_progress='minimal')
  when(shown.history.input, events.went, [shown.history])
  when(run.input, events.same)
  for button, step in ((at.previous, -1), (at.next, 1)):
    button.click(events.beside(page, step), [*plain, at.index], at.index, **_QUICK).then(
      page.change(events.test), [*plain, at.index], list(shown), **_QUICK
    )


def _connect_views(page: Page, shown: Shown, inputs: list[Any], outputs: list[Any], at: _Views) -> None:
  """Connects all that changes the panel: the session, the tabs and the controls."""
  how: dict[str, Any] = {'show_progress': 'minimal', 'trigger_mode': 'always_last'}
  looked = shown.canvas.look(page.happen(events.looked), inputs[:2], list(shown), **_QUICK)
  looked.then(None, None, [at.chosen, at.tabs], js=_CORRELATE).then(page.show, inputs, outputs, **how)
  shown.canvas.shown(page.show, inputs, outputs, **how)
  for control in (*inputs[1:3], *inputs[4:]):
    control.change(page.show, inputs, outputs, **how)
  for name, tab in at.each.items():
    tab.select(None, None, at.chosen, js=f"() => '{name}'").then(page.show, inputs, outputs, **how)
  at.noise.click(None, at.seed, at.seed, js='(seed) => (seed || 0) + 1')
  amounts = inputs[-(len(inputs) - 2 - len(events.Choices._fields) + 2) :]
  at.zero.click(None, None, amounts, js=f'() => Array({len(amounts)}).fill(0)')
