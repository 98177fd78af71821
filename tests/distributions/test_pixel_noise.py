"""The floor of independent pixel noise of every family that has one, against dense covariances."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import (
  FAMILIES,
  WRAPPERS,
  base,
  circulant,
  colour,
  gaussian,
  mixture,
  student,
)
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
  options: dict[str, Any]
  for options in ({'parametrization': 'wiener'}, {'taps': 'raw'}):
    assert _floor(circulant.family(**options)) is None
  for options in ({'gaussian_variance': 1.0}, {'scale': 'fixed'}, {'per_channel': True}):
    assert _floor(circulant.family(**options)) is not None


def _assert_whole(family: Family[Any], params: Any, cov: Any) -> None:
  """Compares the covariances of both parts with the whole, and samples by one key."""
  floor, mean = _floor(family), family.mean(params)
  assert floor is not None
  assert family.gaussian is not None
  basis = jnp.eye(mean.size).reshape(-1, *mean.shape)
  primitives = family.gaussian

  @jax.jit
  def matrices(params: Any) -> tuple[Any, ...]:
    noise = primitives.noise(KEY, params)
    smooth = jax.jacfwd(lambda noise: floor.without(params, noise).ravel())(noise)
    product = jax.vmap(lambda v: floor.covariance_matvec(params, v).ravel())(basis)
    drawn = jax.vmap(lambda v: floor.draw(params, v).ravel())(basis)
    twice = floor.covariance_matvec(gaussian.temper(family, params, 2.0), basis[0])
    sample = gaussian.sample(KEY, family, params, pixel_noise=False)
    return noise, smooth, product, drawn, sample, twice

  noise, smooth, product, drawn, sample, twice = matrices(params)
  root = np.concatenate([np.reshape(leaf, (mean.size, -1)) for leaf in jax.tree.leaves(smooth)], -1)
  cases.assert_close(root @ root.T + product, cov, 1e-9, 1e-5)
  cases.assert_close(drawn.T @ drawn, product, 1e-9, 1e-5)
  assert np.linalg.eigvalsh(product).min() > 0
  flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(noise)])
  np.testing.assert_allclose(np.ravel(sample), np.ravel(mean) + root @ flat, atol=1e-9)
  np.testing.assert_allclose(np.ravel(twice), 4 * product[0], rtol=1e-9, atol=1e-12)


@each([case for case in CASES if _floor(cases.family_of(case)) is not None])
@pytest.mark.few(2)
def test_the_floor_and_the_rest_are_the_whole(case: Case):
  problem = cases.make_problem(case)
  _assert_whole(problem.family, problem.params, problem.cov)


@pytest.mark.parametrize('wrapper', ['colour', 'low_rank_update'])
@pytest.mark.slow
def test_wrappers_have_the_floor_of_their_base(wrapper: str):
  family = WRAPPERS[wrapper](circulant.family(3))
  rng = np.random.default_rng(0)
  shapes = family.outputs((2, 2, 2))
  params = family.from_outputs({n: jnp.asarray(rng.normal(size=tuple(s))) for n, s in shapes.items()})
  _assert_whole(family, params, gaussian.covariance(family, params))


@each([case for case in CASES if _floor(cases.family_of(case)) is None])
def test_families_without_a_floor_say_so(case: Case):
  with pytest.raises(ValueError, match='need a family with a floor of independent pixel noise'):
    gaussian.sample(KEY, cases.family_of(case), cases.random_params(case), pixel_noise=False)


def test_families_that_are_not_gaussian_pass_it_on():
  """With all noise that of pixels, a sample is the mean: in a mixture, a Student t, and their maps."""
  image, diagonal = (2, 2, 3), FAMILIES['diagonal']()
  for inner in (mixture.family(diagonal), student.family(diagonal), FAMILIES['sparse_precision']()):
    family = colour.family(inner)
    params = family.from_outputs({n: jnp.zeros(tuple(s)) for n, s in family.outputs(image).items()})
    if inner.gaussian is None:
      draw = functools.partial(gaussian.sample, KEY, family, pixel_noise=False)
      sample = jax.jit(draw)(params)
      np.testing.assert_allclose(sample, family.mean(params), atol=1e-12)
    else:
      with pytest.raises(ValueError, match='floor of independent pixel noise'):
        gaussian.sample(KEY, family, params, pixel_noise=False)


def test_an_invalid_parameter_leaves_no_number():
  for case in CASES:
    floor = _floor(cases.family_of(case))
    params = cases.random_params(case)
    if floor is not None and not case.options:
      last = jax.tree.leaves(params)[-1]
      broken = jax.tree.map(lambda leaf, last=last: leaf * jnp.nan if leaf is last else leaf, params)
      draw = functools.partial(gaussian.sample, KEY, cases.family_of(case), pixel_noise=False)
      assert jnp.isnan(jax.jit(draw)(broken)).all()
