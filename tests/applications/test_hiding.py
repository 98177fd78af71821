"""Hidden regions as scripts draw them, beside the studio, whose tests compare it with dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.applications import edit, edit_history, edit_input, hiding, subject
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import strokes
from tests.applications.studio_problem import DOT, HIDE, SHAPE, SOFT, problem, with_strokes


@pytest.mark.parametrize('name', ['test:1', 'prior:2'])
@pytest.mark.parametrize('peek', [False, True])
@pytest.mark.parametrize('made', [(), (DOT,), (DOT, SOFT)], ids=['alone', 'dot', 'soft'])
def test_a_script_shows_what_the_studio_shows(name: str, peek: bool, made: tuple[strokes.Stroke, ...]):
  desk, page = problem(), with_strokes(HIDE, *made, subject=name)
  painting = strokes.paint(page.strokes, SHAPE)
  with jax.enable_x64(False):
    given = desks.known(desk, page, peek)
    expected = desks.mean(desk, given).image, desks.deviation(desk, given)
    drawn = desks.samples(desk, given, desks.Draws(seed=4))
    trained = desk.trained
    found = subject.find(trained, desk.prepared, subject.parse(name))
    edits = [edit_input.of_rectangle(one, SHAPE) for one in strokes.rectangles(painting)]
    found, edits = hiding.hide(trained, found, painting.hidden, edits, peek)
    history = edit_history.run(desk.family, found.params, edits, jax.random.key(4))
  assert history.deviations is not None
  assert expected[1] is not None
  np.testing.assert_allclose(history.means[-1], expected[0], atol=1e-5)
  np.testing.assert_allclose(history.deviations[-1], expected[1], atol=1e-5)
  np.testing.assert_allclose(history.samples[-1], drawn, atol=1e-5)
  assert np.ptp(history.samples[-1], axis=0)[painting.hidden].min() > 0


def test_pixels_that_do_not_count_are_not_seen():
  desk = problem()
  spec = desk.trained.spec._replace(masked=True)
  trained = desk.trained._replace(spec=spec)
  found = subject.find(desk.trained, desk.prepared, subject.parse('test:1'))
  assert found.given is not None
  counts = np.ones(SHAPE[:2], bool)
  counts[0] = False
  found = found._replace(
    given=jnp.concatenate([found.given, jnp.asarray(counts[..., None], found.given.dtype)], axis=-1)
  )
  hidden = np.zeros(SHAPE[:2], bool)
  hidden[1, 1] = True
  first: edit.Edit = hiding.around(trained, found, hidden)
  np.testing.assert_array_equal(first.mask[..., 0], counts & ~hidden)
