"""launch.studio: its page in a headless Chromium, and its flags."""

import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from structured_obs.applications.studio import desk as desks
from structured_obs.runs import restore
from tests import scripts
from tests.applications.studio_problem import problem

gradio = pytest.importorskip('gradio', reason='the page needs gradio')
sync_api = pytest.importorskip('playwright.sync_api', reason='the page is driven by playwright')
# Gradio and what it imports use what newer packages mean to remove.
pytestmark = [
  pytest.mark.x64,
  pytest.mark.filterwarnings('ignore::DeprecationWarning'),
  pytest.mark.filterwarnings('ignore::UserWarning'),
  pytest.mark.filterwarnings('ignore::ResourceWarning'),
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update',
  '--disable-sync',
]  # fmt: skip
SIZE = (8, 8, 1)
PATIENCE = 60_000  # milliseconds; programs are compiled where they are first needed


@pytest.fixture(scope='module')
def studio() -> Iterator[ModuleType]:
  with scripts.flags_of_no_script(), scripts.imported('studio') as module:
    yield module


@pytest.fixture(scope='module')
def address(studio: ModuleType) -> Iterator[str]:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  opened = {'one': problem('low_rank', SIZE), 'two': problem('diagonal', SIZE)}
  with jax.enable_x64(False):
    blocks = studio.serve(opened, '127.0.0.1', port)
  yield f'http://127.0.0.1:{port}'
  blocks.close(verbose=False)


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
  if CHROMIUM is None:
    pytest.skip('there is no Chromium on this machine')
  with sync_api.sync_playwright() as playwright:
    found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield found
    found.close()


@pytest.fixture(scope='module')
def opened(browser: Any, address: str) -> Iterator[Any]:
  """One page for all tests, which asked for nothing from elsewhere and had no error."""
  page = browser.new_page(accept_downloads=True, viewport={'width': 1280, 'height': 1000})
  asked: list[str] = []
  errors: list[str] = []
  page.on('request', lambda request: asked.append(request.url))
  page.on('pageerror', lambda error: errors.append(str(error)))
  page.set_default_timeout(PATIENCE)
  page.goto(address)
  yield page
  page.close()
  assert len(asked) > 10
  assert not [url for url in asked if not url.startswith((f'{address}/', 'data:', 'blob:'))]
  assert not errors


@pytest.fixture
def page(opened: Any) -> Any:
  """The page as it begins."""
  opened.evaluate('localStorage.clear()')
  opened.reload()
  until(opened, '#sentence', 'Nothing is painted')
  until(opened, '#panel', 'sample 3')
  return opened


def until(page: Any, where: str, text: str) -> None:
  sync_api.expect(page.locator(where)).to_contain_text(text, timeout=PATIENCE)


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
  """Moves the pen between two places in pixels of the image, row and column."""
  box = page.locator('#canvas canvas').bounding_box()
  (x0, y0), (x1, y1) = (
    (box['x'] + (column + 0.5) * box['width'] / 8, box['y'] + (row + 0.5) * box['height'] / 8)
    for row, column in (start, end)
  )
  page.mouse.move(x0, y0)
  page.mouse.down()
  page.mouse.move(x1, y1, steps=4)
  page.mouse.up()


def picture(page: Any, caption: str) -> str:
  return page.locator(f'#panel img[alt^="{caption}"]').first.get_attribute('src')


def color(page: Any, row: int, column: int) -> list[int]:
  """The colour that the canvas shows in the middle of a pixel."""
  return page.evaluate(
    """([row, column]) => { const board = document.querySelector('#canvas canvas'), k = board.width / 8;
    return [...board.getContext('2d').getImageData((column + .5) * k, (row + .5) * k, 1, 1).data]; }""",
    [row, column],
  )


def test_a_stroke_undo_redo_and_a_reload(page: Any):
  before, mean = color(page, 0, 0), picture(page, 'mean')
  drag(page, (3, 2), (3, 5))
  until(page, '#sentence', '4 pixels painted')
  until(page, '#canvas .so-time', 'ms of them to condition')
  assert color(page, 3, 4)[:3] == [255, 255, 255]
  assert color(page, 0, 0) != before  # the rest followed
  until(page, '#panel', 'change of the mean')
  assert picture(page, 'mean') != mean
  page.get_by_role('button', name='Undo').click()
  until(page, '#sentence', 'Nothing is painted')
  page.keyboard.press('Control+y')
  until(page, '#sentence', '4 pixels painted')
  page.reload()
  until(page, '#sentence', '4 pixels painted')
  sync_api.expect(page.locator('#history input')).to_have_value('2. painted 4 pixels with 1')
  drag(page, (0, 0), (0, -30))  # to the outside of the image
  until(page, '#sentence', '5 pixels painted')
  page.get_by_role('button', name='Reset', exact=True).click()
  until(page, '#sentence', 'Nothing is painted')


def test_hidden_pixels_and_a_stroke_that_is_outside(page: Any):
  page.get_by_label('Hide').check()
  drag(page, (1, 0), (1, 7))
  until(page, '#sentence', '8 pixels hidden; all others are seen')
  page.evaluate("""() => document.querySelector('#canvas canvas').dispatchEvent(new PointerEvent(
    'pointerdown', { bubbles: true, clientX: -500, clientY: -500, pointerId: 1 }))""")
  page.evaluate("""() => document.querySelector('#canvas canvas').dispatchEvent(new PointerEvent(
    'pointerup', { bubbles: true, pointerId: 1 }))""")
  until(page, '#sentence', 'The stroke lies outside of the image, so nothing has changed')
  page.get_by_role('button', name='Undo').click()
  until(page, '#sentence', 'Nothing is painted')


def test_a_slider_moves_a_component(page: Any):
  page.get_by_role('tab', name='Components').click()
  until(page, '#panel', 'component 3')
  before = picture(page, 'moved')
  slider = page.locator('#amount0 input[type=number]')
  slider.fill('2')
  slider.press('Enter')
  page.wait_for_function(
    "(old) => document.querySelector('#panel img[alt^=\"moved\"]').src !== old", arg=before
  )


def test_a_click_shows_correlations(page: Any):
  page.get_by_label('Correlate').check()
  drag(page, (2, 6), (2, 6))
  until(page, '#panel', 'correlation with (2, 6)')
  page.get_by_text('The same from a terminal').click()
  until(page, '.cm-content >> nth=1', 'gaussian.correlation(family, found.params, (2, 6, 0))')


def test_uploads(page: Any, tmp_path: Path):
  (tmp_path / 'notes.txt').write_text('hello')
  Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / 'gray.png')
  files = page.locator('input[type=file]').first
  files.set_input_files(tmp_path / 'notes.txt')
  until(page, '#sentence', 'Image notes.txt cannot be read')
  sync_api.expect(page.locator('#history input')).to_have_value('1. test image 0')
  files.set_input_files(tmp_path / 'gray.png')
  sync_api.expect(page.locator('#history input')).to_have_value('1. uploaded image')
  page.reload()
  until(page, '#panel', 'original')
  sync_api.expect(page.locator('#history input')).to_have_value('1. uploaded image')


def test_exports(page: Any):
  for form in ('png', 'npz', 'webp', 'gif'):
    with page.expect_download() as found:
      page.locator(f'#save_{form}').click()
    assert found.value.suggested_filename == f'one_edit.{form}'
    data = Path(found.value.path()).read_bytes()
    if form == 'npz':
      with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        assert arrays['mean'].shape == arrays['sample_2'].shape == SIZE
    else:
      with Image.open(io.BytesIO(data)) as image:
        assert image.format == form.upper()
        assert getattr(image, 'n_frames', 1) == (1 if form == 'png' else 6)


def test_two_runs_side_by_side(page: Any):
  page.get_by_label('Beside it').click()
  page.get_by_role('option', name='two').click()
  until(page, '#panel', 'two')
  assert page.locator('#panel h4').all_inner_texts() == ['one', 'two']
  assert page.locator('#panel img[alt="mean"]').count() == 2


def test_the_policy_keeps_the_page_at_home(opened: Any):
  page = opened
  policy = page.request.get(page.url).headers['content-security-policy']
  assert "default-src 'self' data: blob:" in policy
  blocked = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.name)")
  assert blocked == 'TypeError'


# Flags


def test_mistakes_come_before_anything_is_opened(studio: ModuleType):
  with pytest.raises(FileNotFoundError, match='There is no run in runs/none_such'):
    studio.runs_of('runs/none_such')
  with pytest.raises(ValueError, match='--port=99999 is out of range'):
    studio.free_port('127.0.0.1', 99999)
  with pytest.raises(ValueError, match='--host=no such host --port=0 cannot be served'):
    studio.free_port('no such host', 0)


def test_a_port_that_is_in_use(studio: ModuleType):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ValueError, match=f'--port={port} cannot be served'):
      studio.free_port('127.0.0.1', port)


def test_a_folder_of_runs(
  studio: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
  for name in ('first', 'other', 'none'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'run.json').write_text('{}')
  small = problem()
  other = small.trained._replace(spec=small.trained.spec._replace(sha256='b'))

  def load(workdir: str, checkpoint: str):
    trained = {'first': small.trained, 'other': other}.get(Path(workdir).name)
    if trained is None:
      raise FileNotFoundError('it has no checkpoint')
    return trained._replace(name=Path(workdir).name, workdir=workdir), small.prepared

  monkeypatch.setattr(restore, 'load', load)
  names = studio.runs_of(str(tmp_path))
  assert sorted(Path(name).name for name in names) == ['first', 'none', 'other']
  first = str(tmp_path / 'first')
  assert [*studio.open_all([first, str(tmp_path / 'none')], [], 'best')] == ['first']
  assert 'no checkpoint' in capsys.readouterr().out
  with pytest.raises(ValueError, match=r'^--compare=\S+other has other images than \S+first'):
    studio.open_all([first], [str(tmp_path / 'other')], 'best')
  assert isinstance(studio.open_all([first], [], 'best')['first'], desks.Desk)
