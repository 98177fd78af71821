"""The studio without its page: strokes and sessions."""

import numpy as np
import pytest

from structured_obs.applications import edit, edit_input
from structured_obs.applications.studio import session, strokes
from structured_obs.applications.studio.strokes import Stroke
from structured_obs.distributions import base
from tests.applications.studio_problem import DOT, HIDE, SHAPE, SOFT, with_strokes

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
  last = session.MAX_UPLOADS + 1
  for number in range(last + 1):
    page = session.upload(page, str(number), '')
  assert len(page.uploads) == session.MAX_UPLOADS
  assert str(last) in page.uploads
