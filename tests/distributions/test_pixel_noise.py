"""The floor of independent pixel noise of every family that has one, against dense covariances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import FAMILIES, base, circulant, colour, gaussian, mixture
from structured_obs.distributions.base import Family
from tests.distributions import cases
from tests.distributions.cases import Case, each

pytestmark = pytest.mark.x64  # against dense algebra in float64

CASES = [case._replace(image=(2, 3, 1)) for case in cases.main_cases()]
KEY = jax.random.key(0)
WITH_FLOOR = {'diagonal', 'low_rank', 'circulant', 'scaled_circulant'}


def _floor(family: Family[Any]) -> base.PixelNoise[Any] | None:
  return None if family.gaussian is None else family.gaussian.pixel_noise


def test_which_families_have_a_floor():
  assert {name for name in FAMILIES if _floor(FAMILIES[name]())} == WITH_FLOOR
  for options in ({'parametrization': 'wiener'}, {'taps': 'raw'}):
    assert _floor(circulant.family(**options)) is None
  for options in ({'gaussian_variance': 1.0}, {'scale': 'fixed'}, {'per_channel': True}):
    assert _floor(circulant.family(**options)) is not None


@each([case for case in CASES if _floor(cases.family_of(case)) is not None])
def test_the_floor_and_the_rest_are_the_whole(case: Case):
  """Covariances, and the sample that one key gives without the floor."""
  problem = cases.make_problem(case)
  family, params, floor = problem.family, problem.params, _floor(problem.family)
  assert floor is not None
  assert family.gaussian is not None
  noise = family.gaussian.noise(KEY, params)
  basis = jnp.eye(problem.size).reshape(-1, *case.image)

  @jax.jit
  def matrices(noise: Any) -> tuple[Any, ...]:
    smooth = jax.jacfwd(lambda noise: floor.without(params, noise).ravel())(noise)
    product = jax.vmap(lambda v: floor.covariance_matvec(params, v).ravel())(basis)
    drawn = jax.vmap(lambda v: floor.draw(params, v).ravel())(basis)
    return smooth, product, drawn, gaussian.sample(KEY, family, params, pixel_noise=False)

  smooth, product, drawn, sample = matrices(noise)
  root = np.concatenate([np.reshape(leaf, (problem.size, -1)) for leaf in jax.tree.leaves(smooth)], -1)
  cases.assert_close(root @ root.T + product, problem.cov, 1e-9, 1e-5)
  cases.assert_close(drawn.T @ drawn, product, 1e-9, 1e-5)
  assert np.linalg.eigvalsh(product).min() > 0
  expected = floor.without(params, noise)
  np.testing.assert_allclose(sample, expected, atol=1e-12)
  flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(noise)])
  np.testing.assert_allclose(np.ravel(sample), problem.mean + root @ flat, atol=1e-9)
  tempered = gaussian.temper(family, params, 2.0)
  twice = floor.covariance_matvec(tempered, basis[0])
  np.testing.assert_allclose(np.ravel(twice), 4 * product[0], rtol=1e-9, atol=1e-12)


@each([case for case in CASES if _floor(cases.family_of(case)) is None])
def test_families_without_a_floor_say_so(case: Case):
  with pytest.raises(ValueError, match='need a family with a floor of independent pixel noise'):
    gaussian.sample(KEY, cases.family_of(case), cases.random_params(case), pixel_noise=False)


def test_wrappers_pass_the_floor_on():
  image = (2, 2, 3)
  inner = circulant.family(3)
  for family in (colour.family(inner), mixture.family(inner)):
    params = family.from_outputs({n: jnp.ones(s) for n, s in family.outputs(image).items()})
    params = jax.tree.map(lambda leaf: leaf.at[...].set(jnp.nan), params)
    assert jnp.isnan(gaussian.sample(KEY, family, params, pixel_noise=False)).all()
  diagonal = FAMILIES['diagonal']()
  family = colour.family(mixture.family(diagonal, spread=1.0))
  params = family.from_outputs({n: jnp.zeros(s) for n, s in family.outputs(image).items()})
  sample = gaussian.sample(KEY, family, params, pixel_noise=False)
  np.testing.assert_allclose(sample, family.mean(params), atol=1e-12)


def test_an_invalid_parameter_leaves_no_number():
  for case in CASES:
    floor = _floor(cases.family_of(case))
    params = cases.random_params(case)
    if floor is not None and not case.options:
      last = jax.tree.leaves(params)[-1]
      broken = jax.tree.map(lambda leaf, last=last: leaf * jnp.nan if leaf is last else leaf, params)
      assert jnp.isnan(gaussian.sample(KEY, cases.family_of(case), broken, pixel_noise=False)).all()
