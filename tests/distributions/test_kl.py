"""Kullback-Leibler divergences of every pair of families with a closed form, against dense matrices."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import FAMILIES, kl
from structured_obs.linalg import dense
from tests.distributions import cases
from tests.distributions.cases import Case

OF_FAMILY = {
  name: [case for case in cases.gaussian_only(cases.main_cases()) if case.name == name]
  for name in FAMILIES
}
# Each family with its defaults and with its last set of options.
MAIN = [case for found in OF_FAMILY.values() for case in sorted({*found[:1], *found[-1:]})]
PAIRS = [
  (p, q)
  for p, q in itertools.product(MAIN, MAIN)
  if (type(cases.random_params(p)), type(cases.random_params(q))) in kl.CLOSED_FORMS
]


class Other(NamedTuple):
  """Parameters of a family that the table does not know."""

  mean: jax.Array


@functools.cache
def _compiled(case_p: Case, case_q: Case) -> Any:
  """The divergence as a function of both parameters, compiled once for all tests of a pair."""
  p, q = cases.family_of(case_p), cases.family_of(case_q)
  return jax.jit(lambda a, b: kl.kl_divergence(p, a, q, b))


def _dense_kl(p: cases.Problem, q: cases.Problem) -> float:
  return dense.kl_divergence(p.mean, p.cov, q.mean, q.cov)


@pytest.mark.parametrize(('case_p', 'case_q'), PAIRS, ids=str)
@pytest.mark.few(4)
def test_closed_forms(case_p: Case, case_q: Case):
  p, q = cases.make_problem(case_p), cases.make_problem(case_q, seed=1)
  actual, expected = float(_compiled(case_p, case_q)(p.params, q.params)), _dense_kl(p, q)
  assert actual > 0
  # A sparse p against a low-rank q takes the difference of two numbers of the size of 1 / eps.
  coarse = case_p.name == 'sparse_precision' and case_q.name == 'low_rank'
  assert actual == pytest.approx(expected, rel=cases.tolerance(1e-9, 1e-3 if coarse else 1e-4))


@pytest.mark.x64
@pytest.mark.parametrize('name', ['diagonal', 'low_rank', 'sparse_precision', 'dense_precision'])
@pytest.mark.few(2)
def test_pairs_without_a_closed_form_take_dense_matrices(name: str):
  chosen = OF_FAMILY[name][-1], OF_FAMILY['dense_precision'][-1]
  p, q = (cases.make_problem(case, seed) for seed, case in enumerate(chosen))
  for a, b in ((p, q), (q, p)):
    actual = float(kl.kl_divergence(a.family, a.params, b.family, b.params))
    assert actual == pytest.approx(_dense_kl(a, b), rel=cases.tolerance(1e-9, 1e-4))


@pytest.mark.x64
@pytest.mark.parametrize('case', [p for p, q in PAIRS if p == q], ids=str)
@pytest.mark.slow
def test_zero_between_equals(case: Case):
  problem = cases.make_problem(case)
  value = kl.kl_divergence(problem.family, problem.params, problem.family, problem.params)
  assert float(value) == pytest.approx(0, abs=cases.tolerance(1e-10, 2e-4))


@pytest.mark.parametrize('case', [p for p, q in PAIRS if p == q], ids=str)
def test_small_divergences_are_accurate(case: Case):
  """Between p and p at a temperature of 1.01."""
  p = cases.make_problem(case)
  assert p.family.gaussian is not None
  near = p.family.gaussian.temper(p.params, jnp.asarray(1.01, p.x.dtype))
  exact = p.size * (np.log(1.01) + 0.5 * (1.01**-2 - 1))
  actual = float(_compiled(case, case)(p.params, near))
  assert actual == pytest.approx(exact, abs=cases.tolerance(1e-10, 2e-4))


@pytest.mark.x64
@pytest.mark.parametrize('case', [p for p, q in PAIRS if p == q], ids=str)
def test_bad_parameters_give_nan(case: Case):
  problem = cases.make_problem(case)
  bad = problem.params._replace(mean=problem.params.mean.at[0, 0, 0].set(jnp.nan))
  for p, q in ((bad, problem.params), (problem.params, bad)):
    assert np.isnan(_compiled(case, case)(p, q))


@pytest.mark.x64
@pytest.mark.parametrize(('case_p', 'case_q'), [PAIRS[0], PAIRS[-1]], ids=str)
def test_monte_carlo_agrees(case_p: Case, case_q: Case):
  p, q = cases.make_problem(case_p), cases.make_problem(case_q, seed=1)
  estimate = kl.kl_monte_carlo(jax.random.key(0), p.family, p.params, q.family, q.params, 2000)
  assert estimate.standard_error > 0
  assert abs(float(estimate.value) - _dense_kl(p, q)) < 5 * float(estimate.standard_error)


@pytest.mark.x64
def test_a_pair_without_closed_form_is_refused():
  problem = cases.make_problem(MAIN[0])
  family = problem.family._replace(mean=lambda params: params.mean, gaussian=None)
  with pytest.raises(ValueError, match=r'no closed form for Other \|\| .*kl_monte_carlo'):
    kl.kl_divergence(family, Other(problem.params.mean), problem.family, problem.params)


@pytest.mark.x64
def test_images_of_different_shapes_are_refused():
  problem = cases.make_problem(MAIN[0])
  other = cases.make_problem(MAIN[0]._replace(image=(2, 2, 1)))
  with pytest.raises(ValueError, match='images of one shape'):
    kl.kl_divergence(problem.family, problem.params, other.family, other.params)
