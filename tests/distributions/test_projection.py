"""Nearest members of every family."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import diagonal, sparse_precision
from structured_obs.distributions.base import Family
from tests.distributions import fitted
from tests.distributions.fitted import IMAGE

pytestmark = pytest.mark.x64  # projections run in float64 in either mode

SETTLED = 2e-3  # nats, where L-BFGS ends


def _covariance(size: int = 12, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  factor = rng.normal(size=(size, size))
  return factor @ factor.T / size + 0.1 * np.eye(size)


@functools.cache
def _covariance_of(family: Family[Any]) -> Any:
  assert family.gaussian is not None
  product, basis = family.gaussian.covariance_matvec, jnp.eye(12).reshape(12, *IMAGE)
  return jax.jit(lambda params: jax.vmap(product, (None, 0))(params, basis).reshape(12, 12))


def _divergence(family: Family[Any], params: Any, mean: Any, covariance: Any) -> float:
  """KL(N(mean, covariance) || member), from its dense covariance."""
  other = np.asarray(_covariance_of(family)(params))
  moved = np.ravel(family.mean(params) - mean)
  ratio = np.linalg.solve(other, covariance)
  return 0.5 * (
    np.trace(ratio) - 12 + moved @ np.linalg.solve(other, moved) - np.linalg.slogdet(ratio)[1]
  )


@fitted.every(gaussian=True)
@pytest.mark.slow
def test_a_member_is_its_own_projection(family: Family[Any]):
  params = fitted.params(family)
  found = distributions.project(family, family.mean(params), _covariance_of(family)(params))
  assert found.kl < SETTLED
  assert found.standard_error == 0


@fitted.every(gaussian=True)
@pytest.mark.slow
def test_the_projection_is_nearer_than_other_members(family: Family[Any]):
  covariance, mean = _covariance(), jnp.full(IMAGE, 0.2)
  found = distributions.project(family, mean, covariance)
  divergence = functools.partial(_divergence, family, mean=mean, covariance=covariance)
  np.testing.assert_allclose(found.kl, divergence(found.params), rtol=1e-9, atol=1e-9)
  leaves, tree = jax.tree.flatten(found.params)
  for k, leaf in enumerate(leaves):
    for step in (-0.03, 0.03):
      if leaf.ndim:  # not the fixed noise of `low_rank`
        assert (
          divergence(tree.unflatten([*leaves[:k], leaf * (1 + step), *leaves[k + 1 :]]))
          > found.kl - 1e-6
        )


def test_closed_forms():
  mean, covariance = jnp.full(IMAGE, 0.2), jnp.asarray(_covariance())
  found = distributions.project(distributions.family('diagonal'), mean, covariance)
  np.testing.assert_allclose(diagonal.variance(found.params).ravel(), np.diag(covariance), rtol=1e-9)
  correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
  np.testing.assert_allclose(found.kl, -0.5 * np.linalg.slogdet(correlation)[1], rtol=1e-9)
  family = distributions.family('sparse_precision', filter_size=3, channels='full')
  found = distributions.project(family, mean, covariance)
  expected = sparse_precision.from_covariance(mean, covariance, 3, 'full')
  for one, other in zip(found.params, expected, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(('name', 'option', 'values'), [
  ('low_rank', 'rank', (0, 3)), ('sparse_precision', 'filter_size', (1, 3)),
])  # fmt: skip
def test_a_larger_family_is_nearer(name: str, option: str, values: tuple[int, int]):
  options = {'noise_variance': 0.1} if name == 'low_rank' else {}
  smaller, larger = (
    distributions.project(
      distributions.family(name, **options, **{option: value}), np.zeros(IMAGE), _covariance()
    ).kl
    for value in values
  )
  assert smaller > larger + 0.01


def test_float32_gives_float32_in_either_mode():
  family = distributions.family('diagonal')
  variances = jnp.linspace(0.1, 0.4, 4, dtype=jnp.float32).reshape(2, 2, 1)
  with jax.enable_x64(False):
    found = distributions.project(family, jnp.zeros((2, 2, 1)), lambda v: variances * v)
  assert {leaf.dtype for leaf in found.params} == {np.dtype(np.float32)}
  np.testing.assert_allclose(diagonal.variance(found.params), variances, rtol=1e-6)
  assert found.kl < 1e-5


def _refused(covariance: Any, message: str, name: str = 'diagonal', mean: Any = None) -> None:
  mean = np.zeros((2, 2, 1)) if mean is None else mean
  with pytest.raises(ValueError, match=message):
    distributions.project(distributions.family(name), mean, covariance)


def test_what_cannot_be_is_refused():
  _refused(np.eye(3), r'must have shape \(4, 4\)')
  _refused(np.full((4, 4), np.nan), 'must be finite')
  _refused(np.triu(np.ones((4, 4))), 'must be a symmetric matrix')
  _refused(np.ones((4, 4)), 'must be positive definite; its smallest eigenvalue')
  _refused(lambda v: v[0], 'must be an image of shape')
  _refused(np.eye(4), 'probabilities of gray levels', 'discretized_logistic_mixture')
  _refused(np.eye(4), 'mean must be finite', mean=np.full((2, 2, 1), np.nan))
  _refused(np.eye(4), 'mean must have shape', mean=np.zeros((2, 2)))
  _refused(lambda v: v, '4096', mean=np.zeros((65, 64, 1)))


def test_a_student_t_comes_as_near_as_its_base():
  """By many degrees of freedom; the KL is an estimate."""
  family = fitted.family('student')
  found = distributions.project(family, jnp.full(IMAGE, 0.2), np.diag(np.linspace(0.1, 0.4, 12)))
  assert found.params.dof > 1e3
  np.testing.assert_allclose(
    jnp.exp(2 * found.params.base.log_scale).ravel(), np.linspace(0.1, 0.4, 12), rtol=0.01
  )
  assert 0 < found.standard_error < 0.02
  assert abs(found.kl) < 4 * found.standard_error
