"""Ways between noises against geometry in float64, and grids against the samples at their corners."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.applications import interpolate, paths
from structured_obs.distributions import diagonal, low_rank
from structured_obs.models.base import Bound
from tests.distributions import cases
from tests.models import test_sr_vae
from tests.train import stub

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 7))
TIMES = np.linspace(0, 1, 5)
PATHS = pytest.mark.parametrize('path', list(paths.PATHS.values()))


def array(values: Any) -> jax.Array:
  return jnp.asarray(values, cases.default_dtype())


@pytest.mark.parametrize('t', TIMES)
def test_slerp_turns_in_equal_parts(t: float):
  """Of vectors of one length, by turning the first in the plane of both."""
  a, b = A / np.linalg.norm(A) * 3, B / np.linalg.norm(B) * 3
  angle = np.arccos(a @ b / 9)
  across = b - (a @ b) / 9 * a
  expected = np.cos(t * angle) * a + np.sin(t * angle) * 3 * across / np.linalg.norm(across)
  cases.assert_close(paths.slerp(array(a), array(b), t), expected, 1e-12, 2e-6)


@pytest.mark.parametrize('t', TIMES)
def test_slerp_of_vectors_of_any_length_is_the_papers(t: float):
  angle = np.arccos(A @ B / np.linalg.norm(A) / np.linalg.norm(B))
  expected = (np.sin((1 - t) * angle) * A + np.sin(t * angle) * 5 * B) / np.sin(angle)
  cases.assert_close(paths.slerp(array(A), array(5 * B), t), expected, 1e-12, 2e-6)


@PATHS
def test_a_way_begins_and_ends_exactly(path: paths.Path):
  np.testing.assert_array_equal(path(array(A), array(B), 0.0), array(A))
  np.testing.assert_array_equal(path(array(A), array(B), 1.0), array(B))


@pytest.mark.parametrize(
  ('a', 'b'),
  [
    (A, 2 * A), (A, A), (A, -A), (A, -3 * A), (0 * A, B), (A, 0 * A), (0 * A, 0 * A),
    (A, -A + 1e-4 * B), (1e-30 * A, 1e-30 * B), (1e18 * A, 1e18 * B), (A, 1e-20 * B),
  ],
)  # fmt: skip
@PATHS
def test_values_and_derivatives_are_finite(path: paths.Path, a: np.ndarray, b: np.ndarray):
  """Wherever the two lie to each other, whatever their size."""
  size = max(np.abs(a).max(), np.abs(b).max(), 1e-30)

  def total(a: jax.Array, b: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sum(path(a, b, t) / array(size))

  for t in (0.0, 0.3, 1.0):
    arguments = array(a), array(b), array(t)
    value, slopes = jax.value_and_grad(total, argnums=(0, 1, 2))(*arguments)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
  assert np.abs(path(array(a), array(b), 0.5)).max() <= 1.5 * size


def test_the_straight_way_where_there_is_no_plane():
  np.testing.assert_allclose(paths.slerp(array(A), array(-3 * A), 0.25), 0 * A, atol=1e-6)
  np.testing.assert_allclose(paths.slerp(array(0 * A), array(B), 0.25), 0.25 * B, rtol=1e-6)


def test_the_derivative_of_slerp():
  step = 1e-4 if cases.default_dtype() == jnp.float64 else 1e-2
  direction = RNG.normal(size=7)

  def value(s: Any) -> Any:
    return paths.slerp(array(A) + s * array(direction), array(B), 0.3)[2]

  numerical = (value(array(step)) - value(array(-step))) / (2 * step)
  np.testing.assert_allclose(jax.grad(value)(array(0.0)), numerical, rtol=1e-3)


def test_nan_stays_nan():
  bad = array(A).at[0].set(jnp.nan)
  for path in paths.PATHS.values():
    assert np.isnan(path(bad, array(B), 0.5)).any()
  assert np.isnan(paths.slerp(bad, array(B), 0.5)).all()


@pytest.mark.parametrize('t', TIMES)
def test_the_gaussian_path_stays_standard_normal(t: float):
  """The Jacobian F by both ends has F F^T = I."""
  by_both = jax.jacobian(lambda ab: paths.gaussian_path(ab[0], ab[1], t))(array([A, B]))
  factor = np.asarray(by_both).reshape(7, 14)
  cases.assert_close(factor @ factor.T, np.eye(7), 1e-12, 1e-6)


CASE = cases.Case('low_rank', (('rank', 3),), (3, 4, 2))


@PATHS
def test_a_grid_of_a_low_rank_family_moves_the_factor_noise(path: paths.Path):
  problem = cases.make_problem(CASE)
  keys = jax.random.split(jax.random.key(0), 4)
  noises = jax.vmap(lambda key: low_rank.noise(key, problem.params))(keys)
  draw = jax.jit(interpolate.grid, static_argnums=(0, 3, 4))
  found = np.asarray(draw(problem.family, problem.params, noises, 3, path))
  factor = np.asarray(problem.params.cov_factor, np.float64)
  fixed = problem.params.mean + np.sqrt(problem.params.cov_diag) * np.asarray(noises.diag[0])
  w = np.asarray(noises.factor, np.float64)
  middle = [np.asarray(path(array(a), array(b), 0.5)) for a, b in ((w[0], w[2]), (w[1], w[3]))]
  inside = np.asarray(path(array(middle[0]), array(middle[1]), 0.5))
  expected = {
    (0, 0): w[0], (0, 2): w[1], (2, 0): w[2], (2, 2): w[3],
    (1, 0): middle[0], (1, 2): middle[1], (1, 1): inside,
  }  # fmt: skip
  for place, noise in expected.items():
    cases.assert_close(found[place], fixed + factor @ noise, 1e-9, 1e-5)


@pytest.mark.parametrize('name', ['diagonal', 'sparse_precision'])
def test_a_grid_of_any_other_family_moves_all_noise(name: str):
  case = cases.Case(name, (), (3, 4, 2))
  problem = cases.make_problem(case)
  noises = interpolate.corners(jax.random.key(1), problem.family, problem.params)
  draw = jax.jit(interpolate.grid, static_argnums=(0, 3, 4))
  found = draw(problem.family, problem.params, noises, 3, paths.gaussian_path)
  assert found.shape == (3, 3, 3, 4, 2)
  half = np.sqrt(0.5)
  u = np.asarray(noises, np.float64).reshape(4, -1)
  for place, noise in ((0, 0), u[0]), ((2, 0), u[2]), ((0, 1), half * (u[0] + u[1])):
    expected = problem.mean + problem.factor @ noise
    cases.assert_close(np.ravel(found[place]), expected, 1e-9, 1e-5)


def test_the_corners_of_a_low_rank_family_share_the_pixel_noise():
  problem = cases.make_problem(CASE)
  noises = interpolate.corners(jax.random.key(1), problem.family, problem.params)
  assert np.ptp(np.asarray(noises.diag), axis=0).max() == 0
  assert np.ptp(np.asarray(noises.factor), axis=0).min() > 0
  images = interpolate.draw(problem.family, interpolate.Way(2), problem.params, jax.random.key(1))
  for place, i in (((0, 0), 0), ((0, 1), 1), ((1, 0), 2), ((1, 1), 3)):
    noise = jax.tree.map(lambda leaf, i=i: leaf[i], noises)
    sample = low_rank.reparameterize(problem.params, noise)
    cases.assert_close(images[place], sample, 1e-12, 1e-6)
  way = interpolate.Way(2, pixel_noise=False)
  images = interpolate.draw(problem.family, way, problem.params, jax.random.key(1))
  nothing = low_rank.Noise(noises.factor[3], jnp.zeros_like(noises.diag[3]))
  cases.assert_close(images[1, 1], low_rank.reparameterize(problem.params, nothing), 1e-12, 1e-6)
  none = cases.make_problem(cases.Case('dense_precision', (), (2, 2, 1)))
  with pytest.raises(ValueError, match='no floor of independent pixel noise'):
    interpolate.draw(none.family, way, none.params, jax.random.key(1))


def test_without_a_factor_all_noise_moves():
  case = cases.Case('low_rank', (('rank', 0),), (3, 4, 1))
  problem = cases.make_problem(case)
  noises = jax.vmap(lambda key: low_rank.noise(key, problem.params))(
    jax.random.split(jax.random.key(0), 4)
  )
  found = interpolate.grid(problem.family, problem.params, noises, 2)
  expected = low_rank.reparameterize(problem.params, jax.tree.map(lambda leaf: leaf[3], noises))
  cases.assert_close(found[1, 1], expected, 1e-12, 1e-6)


def test_what_cannot_be_is_refused():
  problem = cases.make_problem(CASE)
  noises = interpolate.corners(jax.random.key(1), problem.family, problem.params)
  with pytest.raises(ValueError, match='got 1 steps and 4 corners'):
    interpolate.grid(problem.family, problem.params, noises, 1)
  two = jax.tree.map(lambda leaf: leaf[:2], noises)
  with pytest.raises(ValueError, match='got 3 steps and 2 corners'):
    interpolate.grid(problem.family, problem.params, two, 3)
  with pytest.raises(ValueError, match='needs a family with a covariance'):
    interpolate.check(diagonal.family()._replace(gaussian=None))


@pytest.mark.slow
def test_a_grid_between_latents_has_the_images_of_its_corners():
  made = test_sr_vae.make((8, 12, 3))
  bound = Bound(made.model, made.variables)
  grid = interpolate.between_images(bound, made.x, 3, 'straight')
  assert grid.shape == (3, 3, 8, 12, 3)
  latents = test_sr_vae.apply(made, None, made.x, method='infer')

  def with_middle(leaf):
    return jnp.concatenate([leaf, jnp.mean(leaf, axis=0, keepdims=True)])

  decoded = test_sr_vae.apply(made, jax.tree.map(with_middle, latents), method='decode')
  modes = jax.jit(jax.vmap(test_sr_vae.MODE))(decoded)
  for number, (i, j) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2), (1, 1)]):
    assert np.mean(np.abs(np.asarray(grid[i, j] - modes[number])) > 1e-6) < 0.01  # but for round-off
  with pytest.raises(ValueError, match='at least 2 steps and 4 images'):
    interpolate.between_images(bound, made.x[:3], 3, 'slerp')
  with pytest.raises(ValueError, match='no latents to interpolate'):
    interpolate.between_images(Bound(stub.StubVAE(12), {}), made.x, 3, 'slerp')
