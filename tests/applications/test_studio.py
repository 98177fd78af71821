"""The studio without its page: strokes, sessions, views beside dense algebra, files and recipes."""

import io
import shlex
import struct
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from structured_obs.applications import edit, edit_input, interpolate
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import files, panel, recipes, session, strokes, views
from structured_obs.applications.studio.strokes import Stroke
from structured_obs.data import decode, encode
from structured_obs.distributions import base, gaussian
from structured_obs.runs import restore
from tests.applications.studio_problem import problem

SHAPE = base.ImageShape(4, 5, 1)
DOT = Stroke('paint', ((1, 2),), 1, (0.5,))
SOFT = Stroke('paint', ((2, 0), (2, 3)), 1, (-0.25,), 0.2)
HIDE = Stroke('hide', ((0, 0), (3, 3)), 2)


@pytest.fixture(autouse=True)
def _as_the_studio_runs():
  """In float32, as a user's programs are, so that recipes give the very numbers."""
  with jax.enable_x64(False):
    yield


def with_strokes(*made: Stroke, subject: str = 'test:1') -> session.Session:
  page = session.Session((subject,))
  for stroke in made:
    page = session.act(page, stroke)
  return page


# Strokes


@pytest.mark.parametrize(('pen', 'count'), [(1, 1), (2, 4), (3, 5), (4, 12), (5, 21)])
def test_the_pen_is_round(pen: int, count: int):
  where = strokes.covered(Stroke('paint', ((10, 10),), pen), base.ImageShape(20, 20, 1))
  assert where.sum() == count
  assert where[10, 10]
  np.testing.assert_array_equal(where, where.T)


def test_a_fast_pen_leaves_no_gaps_and_ends_at_the_edge():
  where = strokes.covered(Stroke('paint', ((0, 0), (3, 9), (3, -5))), SHAPE)
  assert where[0, 0]
  assert where[3].all()
  assert (where.sum(axis=0) > 0).all()


@pytest.mark.parametrize(
  ('stroke', 'message'),
  [
    (Stroke('paint', ((9, 9),)), 'lies outside of the image'),
    (Stroke('cut', ((0, 0),)), "'cut' is unknown"),
    (Stroke('paint', ((0, 0),), 0), 'pen of 0 pixels'),
    (Stroke('paint', ()), 'must have 1 to'),
    (Stroke('paint', ((0, 0),), 1, (0.0, 0.0)), 'has 2 values'),
    (Stroke('paint', ((0, 0),), 1, (1.5,)), 'from -1 to 1'),
    (Stroke('paint', ((0, 0),), 1, (0.0,), float('nan')), 'deviation nan'),
  ],
)
def test_strokes_that_are_refused(stroke: Stroke, message: str):
  with pytest.raises(ValueError, match=message):
    strokes.check(stroke, SHAPE)


@pytest.mark.parametrize('tree', [None, {}, {'tool': 'paint', 'points': [[1e400, 0]]}, {'points': 3}])
def test_what_is_not_a_stroke(tree: object):
  with pytest.raises(ValueError, match='This is not a stroke'):
    strokes.from_json(tree)


def test_later_strokes_replace_earlier_ones():
  again = Stroke('paint', ((1, 1), (1, 3)), 1, (-1.0,), 0.5)
  painting = strokes.paint([HIDE, DOT, again, Stroke('erase', ((1, 1),))], SHAPE)
  assert painting.value[1, 2, 0] == -1
  assert painting.deviation[1, 2] == 0.5
  assert not painting.painted[1, 1]
  assert not painting.hidden[1, 1:4].any()  # painted or erased after it was hidden
  assert painting.hidden[0, 0]


def test_colours_of_a_page():
  assert strokes.value_of('#ff0080', 0.3, 3) == (1.0, -1.0, pytest.approx(1 / 255, abs=1e-6))
  assert strokes.value_of('rgba(255, 0, 128, 1)', 0, 3) == strokes.value_of('#ff0080', 0, 3)
  assert strokes.value_of('#ff0080', 0.3, 1) == (0.3,)
  with pytest.raises(ValueError, match='is not a colour'):
    strokes.value_of('red; }', 0, 3)


def test_rectangles_cover_exactly_what_was_painted():
  random, image, made = np.random.default_rng(1), base.ImageShape(7, 9, 3), []
  for _ in range(9):
    points = tuple((int(r), int(c)) for r, c in random.integers(0, 7, (2, 2)))
    value = tuple(round(float(v), 2) for v in random.uniform(-1, 1, 3))
    tool = ('paint', 'paint', 'erase')[int(random.integers(3))]
    made.append(Stroke(tool, points, int(random.integers(1, 4)), value, float(random.integers(2)) / 10))
  painting = strokes.paint(made, image)
  texts = [edit_input.to_text(one) for one in strokes.rectangles(painting)]
  edits = [edit_input.of_rectangle(edit_input.parse_rectangle(text), image) for text in texts]
  merged, seen = edit.merge(edits, image), strokes.observed(painting, np.zeros(image))
  np.testing.assert_array_equal(merged.value, seen.value)
  np.testing.assert_allclose(merged.noise_variance, seen.noise_variance, rtol=1e-6)
  assert sum(int(one.mask[..., 0].sum()) for one in edits) == painting.painted.sum()


# Sessions


def test_undo_redo_and_a_new_action():
  page = with_strokes(DOT, SOFT)
  assert session.undo(page).strokes == (DOT,)
  assert session.redo(session.undo(page)).strokes == (DOT, SOFT)
  assert session.act(session.undo(page), HIDE).strokes == (DOT, HIDE)
  assert session.redo(session.act(session.undo(page), HIDE)).strokes == (DOT, HIDE)
  cleared = session.reset(page)
  assert cleared.strokes == ()
  assert session.undo(cleared).strokes == (DOT, SOFT)
  assert session.go(cleared, -3).subject == 'test:1'
  assert session.reset(session.go(page, 1)) == session.go(page, 1)


def test_another_image_keeps_the_history():
  page = session.act(with_strokes(DOT), 'prior:3')
  assert (page.subject, page.strokes) == ('prior:3', ())
  assert session.undo(page).strokes == (DOT,)
  leafed = session.act(page, 'test:4')
  assert leafed.actions == ('test:1', DOT, 'test:4')
  lines = session.history(session.act(leafed, HIDE), SHAPE)
  assert lines[:3] == ['1. test image 1', '2. painted 1 pixel with 0.5', '3. test image 4']
  assert lines[3].startswith('4. hid')


def test_a_long_session_drops_its_oldest_actions():
  page = with_strokes(*[DOT] * (session.MAX_ACTIONS + 5))
  assert len(page.actions) == page.done == session.MAX_ACTIONS
  assert page.subject == 'test:1'


def test_sessions_come_back_from_json():
  page = session.upload(with_strokes(DOT, SOFT), 'abc', 'AAAA')._replace(pixel=(1, 2))
  assert session.from_json(session.to_json(session.undo(page))) == session.undo(page)
  for tree in (None, [], {'actions': ['reset'], 'done': 1, 'uploads': {}}, {'actions': [], 'done': 0}):
    with pytest.raises(ValueError, match='not a session'):
      session.from_json(tree)
  for number in range(session.MAX_UPLOADS + 2):
    page = session.upload(page, str(number), '')
  assert len(page.uploads) == session.MAX_UPLOADS
  assert str(number) in page.uploads


# Views, beside dense algebra in float64


def conditional(mean: np.ndarray, covariance: np.ndarray, merged: edit.Merged):
  """Mean and covariance given what is known, by the dense formula."""
  seen = np.isfinite(np.ravel(merged.noise_variance))
  noise = np.diag(np.ravel(merged.noise_variance)[seen].astype(float))
  gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + noise)
  shift = np.ravel(merged.value)[seen].astype(float) - mean.ravel()[seen]
  return (mean.ravel() + gain @ shift).reshape(mean.shape), covariance - gain @ covariance[seen]


@pytest.mark.parametrize(
  ('name', 'wrappers', 'made'),
  [
    ('low_rank', (), ()),
    ('low_rank', (), (DOT,)),
    ('low_rank', (), (DOT, SOFT)),
    ('sparse_precision', (), (DOT,)),
    ('diagonal', ('student',), (DOT,)),
    ('diagonal', ('student',), (DOT, SOFT)),
  ],
)
def test_the_rest_follows(name: str, wrappers: tuple[str, ...], made: tuple[Stroke, ...]):
  desk, page = problem(name, wrappers=wrappers), with_strokes(*made)
  given = desks.known(desk, page)
  if wrappers and SOFT in made:
    with pytest.raises(ValueError, match='only if they are exact'):
      desks.mean(desk, given)
    return
  params = desks.find(desk, page).params
  dense = np.asarray(gaussian.covariance(desk.family, params), float)
  mean, covariance = conditional(np.asarray(desk.family.mean(params), float), dense, given.merged)
  result = desks.mean(desk, given)
  np.testing.assert_allclose(result.image, mean, atol=2e-4)
  assert (result.implausibility > 0) == bool(made)
  if name != 'low_rank':  # its other programs are slow to compile
    return
  if SOFT not in made:
    drawn = desks.samples(desk, given, desks.Draws())
    assert np.ptp(drawn, axis=0).max() > 0.1
  if made == (DOT,):
    np.testing.assert_array_equal(drawn[:, 1, 2, 0], np.float32([0.5] * 3))
  deviation = desks.deviation(desk, given)
  if not wrappers and deviation is not None:
    np.testing.assert_allclose(np.square(deviation).ravel(), np.diag(covariance), atol=2e-4)
    if SOFT not in made:
      np.testing.assert_allclose(desks.deviation(desk, given, 2.0), 2 * deviation, rtol=1e-3, atol=1e-5)


def test_hidden_pixels_are_not_read_unless_asked_to():
  """Another original below the hidden region gives the same image; a peeking encoder sees it."""
  desk, page = problem(), with_strokes(Stroke('hide', ((0, 0), (1, 4)), 1))
  hidden = strokes.paint(page.strokes, SHAPE).hidden
  changed = np.array(desk.prepared.images['test'])
  changed[1][hidden] = 255 - changed[1][hidden]
  other = desk._replace(prepared=desk.prepared._replace(images={'test': changed}), known={})
  results = {
    peek: [desks.mean(one, desks.known(one, page, peek)).image for one in (desk, other)]
    for peek in (False, True)
  }
  np.testing.assert_array_equal(*results[False])
  assert np.abs(results[True][0] - results[True][1])[hidden].min() > 0
  original = desks.find(desk, page).image
  np.testing.assert_array_equal(results[False][0][~hidden], original[~hidden])
  given = desks.known(desk, page, peek=True)
  dense = np.asarray(gaussian.covariance(desk.family, given.params), float)
  expected, _ = conditional(np.asarray(desk.family.mean(given.params), float), dense, given.merged)
  np.testing.assert_allclose(results[True][0], expected, atol=2e-4)


def test_components_move_together():
  desk, page = problem(), with_strokes()
  view = views.moved(desk, page, views.Settings(amounts=(1.0, -2.0)))
  dense = np.asarray(gaussian.covariance(desk.family, desks.find(desk, page).params), float)
  values, vectors = np.linalg.eigh(dense)
  change = (view.pictures[1].image - view.pictures[0].image).ravel()
  along = vectors[:, ::-1].T @ change
  np.testing.assert_allclose(np.abs(along[:2]), np.sqrt(values[::-1][:2]) * [1, 2], rtol=1e-3)
  np.testing.assert_allclose(along[2:], 0, atol=1e-4)
  np.testing.assert_allclose(view.frames[0] + view.frames[-1], 2 * view.frames[7], atol=1e-5)


def test_correlations_of_a_pixel():
  desk, page = problem(), with_strokes()
  view = views.correlated(desk, page, views.Settings(pixel=(1, 2, 0)))
  dense = np.asarray(gaussian.covariance(desk.family, desks.find(desk, page).params), float)
  scale, at = np.sqrt(np.diag(dense)), 1 * 5 + 2
  expected = dense[at] / (scale * scale[at])
  np.testing.assert_allclose(view.pictures[1].image.ravel(), expected, atol=1e-4)


def test_denoising_reports_what_it_gained():
  view = views.denoised(problem(), with_strokes(), views.Settings(sigma=0.4))
  captions = [picture.caption for picture in view.pictures]
  assert [one.partition(',')[0] for one in captions[:4]] == [
    'clean', 'noisy', 'reconstruction', 'posterior mean'
  ]  # fmt: skip
  clean, noisy = (view.pictures[i].image for i in (0, 1))
  ratio = 10 * np.log10(4 / np.mean(np.square(noisy - clean)))
  assert captions[1] == f'noisy, {ratio:.1f} dB'


def test_lines_are_the_upper_edges_of_grids():
  desk, page = problem(), with_strokes()
  way, params = interpolate.Way(5, 'gaussian'), desks.find(desk, page).params
  grid = interpolate.draw(desk.family, way, params, jax.random.key(3))
  settings = views.Settings(desks.Draws(seed=3), between='noise', path='gaussian', steps=5)
  np.testing.assert_allclose(views.interpolated(desk, page, settings).frames, grid[0], atol=1e-6)
  settings = settings._replace(between='latents', other=2, path='straight')
  frames = views.interpolated(desk, page, settings).frames
  ends = [0.5 * desks.find(desk, with_strokes(subject=f'test:{i}')).image for i in (1, 2)]
  np.testing.assert_allclose(frames[1], 0.75 * ends[0] + 0.25 * ends[1], atol=1e-6)
  with pytest.raises(ValueError, match='A new image has no encoding'):
    views.interpolated(desk, with_strokes(subject='prior:0'), settings)


def test_a_model_without_a_covariance_is_refused():
  trained = problem().trained
  family = trained.model.family._replace(gaussian=None)
  with pytest.raises(ValueError, match=r'^--compare=runs/a_run: the studio needs .* low_rank has none'):
    desks.check(trained._replace(model=trained.model.clone(family=family)), '--compare')


# Files


def declared(width: int, height: int) -> bytes:
  """A PNG that declares a size, and holds no such pixels."""

  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')


def test_uploads_are_read_as_the_data_of_the_run(tmp_path: Path):
  to, deep, clear = (
    decode.Target(2, 3, 1, 'none', 'nearest'),
    tmp_path / 'deep.png',
    tmp_path / 'clear.png',
  )
  Image.fromarray(np.full((2, 3), 257 * 100, np.uint16)).save(deep)
  Image.fromarray(np.zeros((4, 6, 4), np.uint8)).save(clear)
  read = [files.from_text(files.read_upload(str(path), to)[1]) for path in (deep, clear)]
  np.testing.assert_array_equal(read[0], np.full((2, 3, 1), 100))
  np.testing.assert_array_equal(read[1], np.full((2, 3, 1), 255))  # transparent pixels are white


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('notes.txt', b'hello', 'Image notes.txt cannot be read: it is damaged, or not one of PNG'),
    ('bomb.png', declared(10_000, 10_000), '10000 x 10000 pixels, more than the limit of 25,000,000'),
    ('huge.png', declared(60_000, 60_000), 'Image huge.png cannot be read: .*[Pp]ixel|exceeds limit'),
    ('large.png', b'\x89PNG' + bytes(files.MAX_BYTES), 'more than the limit of 20 MiB'),
    ('cut.png', declared(10, 10), 'Image cut.png cannot be read'),
  ],
)
def test_uploads_that_are_refused(name: str, content: bytes, message: str, tmp_path: Path):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(decode.UnreadableImage, match=message):
    files.read_upload(str(tmp_path / name), decode.Target(2, 2, 1, 'none', 'area'))


def test_kept_uploads_may_be_damaged():
  for text in ('no base64!', 'AAAA'):
    with pytest.raises(decode.UnreadableImage):
      files.from_text(text)
  page = session.Session(('upload:gone',))
  with pytest.raises(ValueError, match='upload it again'):
    desks.find(problem(), page)


def test_exports_come_back():
  frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
  with Image.open(io.BytesIO(files.animation(frames, 'webp'))) as opened:
    assert opened.n_frames == 4  # there and back
    opened.seek(2)
    shown = np.asarray(opened.convert('RGB'))
  np.testing.assert_array_equal(shown[::64, ::64][:4], frames[2][:, : shown.shape[1] // 64 + 1][:, :5])
  with np.load(io.BytesIO(files.arrays({'x': frames})), allow_pickle=False) as arrays:
    np.testing.assert_array_equal(arrays['x'], frames)
  with pytest.raises(TypeError, match='not an array of numbers'):
    files.arrays({'x': np.array([object()])})
  with pytest.raises(ValueError, match='webp, gif'):
    encode.animation([frames[0]], 'exe')


# The page's data


def test_a_panel_escapes_names_and_shares_scales():
  image = np.ones((2, 2, 1), np.float32)
  shown = {
    name: views.View((views.Picture('spread', factor * image, 'size'),), image[None], note='a < b')
    for name, factor in (('<script>', 1), ('b', 2))
  }
  found = panel.panel(shown)
  assert '<script>' not in found
  assert found.count('&lt;script&gt;') == 1
  assert found.count('spread (0 to 2)') == 4
  half, whole = (panel.levels(view.pictures[0], 2) for view in shown.values())
  assert (half != whole).any()
  names = {*panel.arrays(shown)}
  assert names == {'<script>/spread', '<script>/frames', 'b/spread', 'b/frames'}
  with Image.open(io.BytesIO(panel.sheet(shown))) as opened:
    assert opened.format == 'PNG'


def test_a_canvas_shows_cells_and_sentences_say_what_is_implausible():
  painting = strokes.paint([DOT], SHAPE)
  found = panel.canvas(np.zeros(SHAPE), painting, 3, (0, 1))
  assert found['cells'] == '00000001000000000000'
  assert (found['height'], found['width'], found['number'], found['mark']) == (4, 5, 3, [0, 1])
  assert 'plausible: 1.0 standard' in panel.about(painting, 1.0)
  assert 'so-warning' in panel.about(painting, 100.0)
  assert '10.0 standard deviations' in panel.about(painting, 100.0)
  assert 'not finite' in panel.about(painting, float('nan'))


# Recipes


@pytest.mark.parametrize(
  ('view', 'made'), [*((view, ()) for view in views.VIEWS), ('Edit', (DOT, SOFT)), ('Edit', (HIDE, DOT))]
)
def test_python_recipes_give_what_is_shown(
  view: str, made: tuple[Stroke, ...], monkeypatch: pytest.MonkeyPatch
):
  desk, page = problem(), with_strokes(*made)
  draws = desks.Draws(seed=2, temperature=0.5 if made else 1.0)
  settings = views.Settings(
    draws, sigma=0.2, amounts=(1.0, 2.0), from_sample=True, pixel=(1, 2, 0), steps=3
  )
  shown = {
    picture.caption: picture.image for picture in views.VIEWS[view](desk, page, settings).pictures
  }
  monkeypatch.setattr(restore, 'load', lambda workdir, which: (desk.trained, desk.prepared))
  space: dict = {}
  exec(recipes.python(desk, page, settings, view), space)
  if 'arrays' in space:
    space |= space['arrays']
    space['samples'] = [space['sample_1'], space['sample_2'], space['sample_3']]
    space['deviation'] = space['standard_deviation']
  for caption, image in shown.items():
    match caption.split():
      case ['mean'] if view == 'Edit':
        np.testing.assert_allclose(space['mean'], image, atol=1e-5)
      case ['sample', number]:
        np.testing.assert_allclose(space['samples'][int(number) - 1], image, atol=1e-5)
      case ['standard', 'deviation']:
        np.testing.assert_allclose(space['deviation'], image, atol=1e-5)
      case ['posterior', 'mean,', *_]:
        np.testing.assert_allclose(space['denoised'].mean[0], image, atol=1e-5)
      case ['moved']:
        np.testing.assert_allclose(space['moved'], image, atol=1e-5)
      case ['correlation', *_]:
        np.testing.assert_allclose(space['correlation'], image, atol=1e-5)
      case ['middle']:
        np.testing.assert_allclose(space['frames'][1], image, atol=1e-5)


def test_the_command_line_has_the_same_rectangles():
  desk, page = problem(), with_strokes(DOT, SOFT)
  words = shlex.split(recipes.command(desk, page, views.Settings(), 'Edit'))
  assert words[:5] == ['python', '-m', 'launch.edit', '--workdir=runs/a_run', '--checkpoint=7']
  assert '--rectangle=1,2,1,1,0.5' in words
  assert '--rectangle=2,0,1,4,-0.25,0.2' in words
  hidden = recipes.command(desk, with_strokes(HIDE), views.Settings(), 'Edit')
  assert hidden.startswith('# Hidden regions have no flag')
