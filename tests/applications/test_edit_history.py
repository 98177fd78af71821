"""Edits in a row: each on top of those before it, and their picture."""

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import plotting
from structured_obs.applications import edit, edit_history
from tests.distributions import cases

CASE = cases.Case('low_rank', (('rank', 3), ('learn_diag', True)), (3, 4, 1))


def edits() -> list[edit.Edit]:
  found, dtype = [], cases.default_dtype()
  for row, value in ((0, 1.0), (1, -1.0)):
    mask = np.zeros((3, 4, 1), bool)
    mask[row, :2] = True
    found.append(edit.Edit(jnp.full((3, 4, 1), value, dtype), jnp.asarray(mask)))
  return found


def test_every_step_is_of_the_edits_so_far():
  problem, (one, two) = cases.make_problem(CASE), edits()
  key = jax.random.key(0)
  history = edit_history.run(problem.family, problem.params, [one, two], key, edit_history.Draws(2))
  assert history.samples.shape == (3, 2, 3, 4, 1)
  expected = [edit.apply(problem.family, problem.params, e) for e in ([one], [one, two])]
  np.testing.assert_allclose(history.means[0].ravel(), problem.mean, rtol=1e-6)
  assert history.deviations is not None
  for i, result in enumerate(expected, 1):
    np.testing.assert_array_equal(history.means[i], result.mean)
    np.testing.assert_array_equal(history.implausibility[i - 1], result.implausibility)
    np.testing.assert_array_equal(history.deviations[i], result.deviation)
  assert (history.means[2][0, :2] == 1).all()  # the first edit holds after the second
  np.testing.assert_array_equal(history.touched[1], np.where(two.mask, -1, history.means[1]))
  np.testing.assert_allclose(np.square(history.deviations[0]).ravel(), np.diag(problem.cov), rtol=1e-5)
  assert (history.samples[2, :, 1, :2] == -1).all()


def test_the_picture_alternates_images_and_edits():
  problem = cases.make_problem(CASE)
  draws = edit_history.Draws(1)
  history = edit_history.run(problem.family, problem.params, edits(), jax.random.key(0), draws)
  rows, headings = edit_history.rows(history)
  assert headings == ['predicted', 'edit 1', 'after', 'edit 2', 'after']
  assert [row.label for row in rows] == ['mean', 'change', 'standard\ndeviation', 'sample 1']
  assert all(len(row.images) == 5 for row in rows)
  np.testing.assert_array_equal(rows[0].images[3], history.touched[1])
  outline = rows[0].outline
  assert outline is not None
  assert outline.sum(axis=(1, 2)).tolist() == [0, 2, 0, 2, 0]
  np.testing.assert_array_equal(rows[1].images[4], history.means[2] - history.means[1])
  assert rows[1].empty == (0, 1, 3)
  without = history._replace(deviations=None, samples=history.samples[:, :0])
  assert [row.label for row in edit_history.rows(without)[0]] == ['mean', 'change']
  assert 'deviations' not in edit_history.arrays(without)


def test_no_samples_can_be_asked_for(tmp_path):
  problem = cases.make_problem(CASE)
  draws = edit_history.Draws(0)
  history = edit_history.run(problem.family, problem.params, edits()[:1], jax.random.key(0), draws)
  assert history.samples.shape == (2, 0, 3, 4, 1)
  rows, headings = edit_history.rows(history)
  assert plotting.image_rows(tmp_path / 'x.png', rows, headings).stat().st_size > 2000


def test_the_picture_says_value_and_softness_of_every_edit():
  mask = np.zeros((4, 5, 3), bool)
  mask[1:3, 2:4] = True
  values = np.full((4, 5, 3), 0.5) * np.array([1.0, -0.4, 0.0])
  one = edit.Edit(jnp.asarray(values), jnp.asarray(mask))
  assert edit_history.described(one) == '0.5/-0.2/0\nexact'
  values = np.linspace(-1, 1, 60).reshape(4, 5, 3)
  soft = edit.Edit(jnp.asarray(values[..., :1]), jnp.asarray(mask[..., :1]), 0.125)
  low, high = values[1, 2, 0], values[2, 3, 0]
  assert edit_history.described(soft) == f'{low:.2g} to {high:.2g}\nsoft, ± 0.12'
