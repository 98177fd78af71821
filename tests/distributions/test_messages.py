"""What a user gets wrong is a TypeError or ValueError with a sentence of ours: never another error.

Everything here fails while tracing, so nothing is compiled.
"""

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from structured_obs import distributions
from structured_obs.distributions import (
  FAMILIES,
  WRAPPERS,
  circulant,
  elliptical,
  gaussian,
  kl,
  low_rank,
)
from tests.distributions import cases
from tests.distributions.cases import Case

pytestmark = pytest.mark.x64  # messages are the same in both precisions

IMAGE = (2, 3, 1)
KEY, X, SEEN = jax.random.key(0), jnp.zeros(IMAGE), jnp.ones(IMAGE, bool)
OTHERS = ('diagonal', 'low_rank', 'scaled_circulant', 'discretized_logistic_mixture')
Operation = Callable[[Any, Any], Any]  # (family, params) -> anything
OF_ANY: dict[str, Operation] = {
  'log_prob': lambda f, p: gaussian.log_prob(f, p, X),
  'sample': lambda f, p: gaussian.sample(KEY, f, p),
  'entropy_monte_carlo': lambda f, p: kl.entropy_monte_carlo(KEY, f, p, 2),
  'kl_monte_carlo': lambda f, p: kl.kl_monte_carlo(KEY, f, p, f, p, 2),
}
OF_GAUSSIANS: dict[str, Operation] = {
  'mahalanobis': lambda f, p: gaussian.mahalanobis(f, p, X),
  'white_image': lambda f, p: gaussian.white_image(f, p, X),
  'entropy': gaussian.entropy,
  'variance': gaussian.variance,
  'channel_covariance': gaussian.channel_covariance,
  'covariance': gaussian.covariance,
  'covariance_column': lambda f, p: gaussian.covariance_column(f, p, (0, 0, 0)),
  'correlation': lambda f, p: gaussian.correlation(f, p, (0, 0, 0)),
  'temper': lambda f, p: gaussian.temper(f, p, 2.0),
  'principal_components': lambda f, p: gaussian.principal_components(f, p, 1),
  'condition': lambda f, p: gaussian.condition(f, p, X, SEEN),
  'posterior_mean': lambda f, p: gaussian.posterior_mean(f, p, X, 0.1),
  'pixel_cdf': lambda f, p: elliptical.pixel_cdf(f, p, X),
  'distance_cdf': lambda f, p: elliptical.distance_cdf(f, p, 1.0),
  'kl_divergence': lambda f, p: kl.kl_divergence(f, p, f, p),
}


def _case(name: str) -> tuple[Any, Any]:
  case = Case(name, (), IMAGE)
  return cases.family_of(case), cases.random_params(case)


def _assert_told(operation: Callable[[], Any]) -> None:
  with pytest.raises((TypeError, ValueError)) as told:
    operation()
  last = traceback.extract_tb(told.tb)[-1].filename
  assert '/structured_obs/' in last, f'{told.value!r} of {last}'
  assert str(told.value).endswith(('.', '?')), told.value


@pytest.mark.parametrize('name', list(FAMILIES))
def test_parameters_of_another_family(name: str):
  family, params = _case(name)
  operations = OF_ANY | (OF_GAUSSIANS if family.gaussian else {})
  for other in OTHERS:
    wrong = _case(other)[1]
    for operation in operations.values():
      if type(wrong) is not type(params):
        _assert_told(lambda: operation(family, wrong))  # noqa: B023


@pytest.mark.parametrize('name', list(OF_ANY | OF_GAUSSIANS))
def test_arguments_of_another_kind(name: str):
  operation, (family, params) = (OF_ANY | OF_GAUSSIANS)[name], _case('low_rank')
  for wrong in (None, 'low_rank', low_rank.family, params):
    _assert_told(lambda wrong=wrong: operation(wrong, params))
  for wrong in (None, X, {}, (X, X), 0.5, family):
    _assert_told(lambda wrong=wrong: operation(family, wrong))


def _of_values(family: Any, params: Any) -> Iterator[Callable[[Any], Any]]:
  """Yields functions of one argument that should be an array of an image's shape."""
  yield lambda x: family.log_prob(params, x)
  for field in params._fields:
    if field not in ('base', 'cov_diag'):
      yield lambda x, field=field: family.log_prob(params._replace(**{field: x}), X)
  outputs = {name: jnp.zeros(tuple(s)) for name, s in family.outputs(IMAGE).items()}
  for output in outputs:
    if outputs[output].ndim:
      yield lambda x, output=output: family.from_outputs(outputs | {output: x})
  yield family.from_outputs
  if family.gaussian is not None:
    yield lambda x: gaussian.condition(family, params, x, SEEN)
    yield lambda x: gaussian.condition(family, params, X, x)
    yield lambda x: gaussian.posterior_mean(family, params, x, 0.1)
    yield lambda x: family.gaussian.whiten(params, x)
    yield lambda x: family.gaussian.covariance_matvec(params, x)


@pytest.mark.parametrize('name', list(FAMILIES))
def test_values_that_are_no_image(name: str):
  for operation in _of_values(*_case(name)):
    for wrong in (None, [[1.0]], 0.5, 'x', X.astype(int), X.astype(complex), KEY):
      _assert_told(lambda: operation(wrong))  # noqa: B023


@pytest.mark.parametrize(
  'pixel', [(0, 0), (0, 3, 0), (2, 0, 0), (0, 0, 1), 5, None, 'abc', X, (0, 0, 0.0)]
)
def test_pixels(pixel: Any):
  family, params = _case('low_rank')
  for operation in (gaussian.covariance_column, gaussian.correlation):
    _assert_told(lambda operation=operation: operation(family, params, pixel))


def test_temperatures_and_noise():
  family, params = _case('circulant')
  values: tuple[Any, ...] = (None, 'x', [1.0], jnp.ones(2), jnp.asarray(1j))
  for wrong in values:
    _assert_told(lambda wrong=wrong: gaussian.temper(family, params, wrong))
    _assert_told(lambda wrong=wrong: gaussian.posterior_mean(family, params, X, wrong))


def test_names_and_families_inside_others():
  names: tuple[Any, ...] = (None, 5, 'lowrank', low_rank)
  for wrong in names:
    _assert_told(lambda wrong=wrong: distributions.family(wrong))
  with pytest.raises(ValueError, match="'low_rank'"):
    distributions.family('lowrank')
  diagonal = distributions.family('diagonal')
  names = ('colour', ('color',), (5,))
  for wrong in names:
    _assert_told(lambda wrong=wrong: distributions.wrapped(diagonal, wrong))
  for make in WRAPPERS.values():
    for wrong in (None, 'diagonal', low_rank.family):
      _assert_told(lambda make=make, wrong=wrong: make(wrong))
  kernel: Any = 'regularised'
  _assert_told(lambda: circulant.from_kernel(X, jnp.ones((3, 3)), kernel))
