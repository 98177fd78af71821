"""Low-rank plus diagonal matrices whose columns are almost dependent: solves, whitening, derivatives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import woodbury

SIZE, RANK, VARIANCE = 60, 6, 1e-5


def _columns(kind: str) -> Any:
  rng = np.random.default_rng(0)
  column, other = 2 * rng.normal(size=(SIZE, 1)), rng.normal(size=(SIZE, RANK))
  factors = {
    'almost equal': column * (1 + 1e-5 * other),
    'repeated': np.repeat(column, RANK, axis=1),
    'independent and large': 30 * other,
    'over five decades': other * np.logspace(0, -5, RANK),
    'almost equal and zeros': column * (1 + 1e-4 * other) * (np.arange(RANK) % 3 > 0),
    'zeros': 0 * other,
  }
  return factors[kind].astype(np.float32)


KINDS = (
  'almost equal', 'repeated', 'independent and large', 'over five decades', 'almost equal and zeros',
  'zeros',
)  # fmt: skip


def _problem(kind: str) -> tuple[Any, Any, Any]:
  """Residual [n], factor [n, R] and variances [n], float32."""
  rng, factor = np.random.default_rng(1), _columns(kind)
  diag = np.float32(VARIANCE) * np.exp(rng.normal(size=SIZE)).astype(np.float32)
  residual = factor @ rng.normal(size=RANK) + np.sqrt(diag) * rng.normal(size=SIZE)
  return residual.astype(np.float32), factor, diag


def _exact(residual: Any, factor: Any, diag: Any) -> dict[str, Any]:
  """Everything about the whitened matrix I + W W^T, by a singular value decomposition in float64."""
  scale = np.sqrt(np.asarray(diag, np.float64))
  scaled, target = np.asarray(factor, np.float64) / scale[:, None], residual / scale
  left, values, right = np.linalg.svd(scaled, full_matrices=False)
  inner, eigenvalues = left.T @ target, 1 + values**2
  return {
    'residual': target - left @ (inner * (1 - 1 / eigenvalues)),
    'coefficients': right.T @ (inner * values / eigenvalues),
    'symmetric': target - left @ (inner * (1 - 1 / np.sqrt(eigenvalues))),
    'leverage': np.sum((left * values) ** 2 / eigenvalues, axis=1),
    'log_det': np.sum(np.log(eigenvalues)),
  }


def _evaluate(residual: jax.Array, factor: jax.Array, diag: jax.Array) -> dict[str, jax.Array]:
  cap = woodbury.capacitance(factor, woodbury.by_scale(jax.lax.rsqrt(diag)))
  whitened = woodbury.whiten(cap, residual)
  return {
    'residual': whitened.residual,
    'coefficients': whitened.coefficients,
    'symmetric': woodbury.whiten_symmetrically(cap, residual),
    'leverage': woodbury.leverage(cap),
    'log_det': cap.log_det,
  }


_one, _batch = jax.jit(_evaluate), jax.jit(jax.vmap(_evaluate))


def _check(actual: Any, expected: dict[str, Any]) -> None:
  for name, value in expected.items():
    tolerance = 1e-3 * max(1, np.max(np.abs(value)))
    np.testing.assert_allclose(actual[name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.float32
@pytest.mark.parametrize('kind', KINDS)
def test_float32_whitening(kind: str):
  problem = _problem(kind)
  actual = _one(*problem)
  assert actual['residual'].dtype == jnp.float32
  _check(actual, _exact(*problem))


@pytest.mark.float32
def test_float32_whitening_of_a_batch_of_all_kinds():
  """Each image takes the path that it needs."""
  problems = [_problem(kind) for kind in KINDS]
  actual = _batch(*(np.stack(parts) for parts in zip(*problems, strict=True)))
  for i, problem in enumerate(problems):
    _check({name: value[i] for name, value in actual.items()}, _exact(*problem))


def _exact_log_density(residual: Any, factor: Any, diag: Any) -> float:
  found = _exact(residual, factor, diag)
  squares = np.sum(found['residual'] ** 2) + np.sum(found['coefficients'] ** 2)
  log_det = np.sum(np.log(np.asarray(diag, np.float64))) + found['log_det']
  return -0.5 * (SIZE * np.log(2 * np.pi) + log_det + squares)


@pytest.mark.float32
def test_log_density_of_an_image_does_not_depend_on_the_others():
  """Whatever path they take, one of them without a number."""
  problems = [_problem(kind) for kind in KINDS]
  expected = [_exact_log_density(*problem) for problem in problems] + [np.nan]
  problems.append((np.full(SIZE, np.nan, np.float32), *problems[0][1:]))
  function = jax.jit(jax.vmap(jax.value_and_grad(woodbury.log_density, argnums=(0, 1, 2))))
  order = np.roll(np.arange(len(problems)), 3)
  stacked = [np.stack(parts) for parts in zip(*problems, strict=True)]
  found, rolled = function(*stacked), function(*(part[order] for part in stacked))
  np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=0.02)
  assert all(np.all(np.isfinite(gradient[:-1])) for gradient in found[1])
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), found, rolled)


@pytest.mark.float32
@pytest.mark.parametrize('where', range(3))
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_bad_numbers_end_in_no_number(where: int, value: float):
  problem = [np.copy(part) for part in _problem('almost equal')]
  problem[where].flat[7] = value
  found = _one(*problem)
  squares = np.sum(np.square(found['residual'])) + found['log_det']
  assert not np.isfinite(squares) or (where, value) == (2, np.inf)  # a pixel of infinite noise is unseen


@pytest.mark.float32
def test_log_determinant_of_a_ladder_of_columns():
  """Eigenvectors in float32 leave angles between the columns of such a factor; one Cholesky factor of
  their Gram matrix is wrong by 0.007 nats here, and by 0.1 at 12,288 pixels."""
  rng = np.random.default_rng(0)
  steps = rng.normal(size=(4, 1000, 40)) * np.geomspace(1, 1e-8, 40)
  factors = (30 * np.cumsum(steps, axis=-1)).astype(np.float32)
  scale = np.float32(VARIANCE) ** -0.5
  values = np.linalg.svd(factors.astype(np.float64) * scale, compute_uv=False)
  log_det = jax.jit(lambda one: woodbury.capacitance(one, woodbury.by_scale(jnp.asarray(scale))).log_det)
  found = [log_det(one) for one in factors]
  np.testing.assert_allclose(found, np.sum(np.log1p(values**2), axis=-1), rtol=0, atol=2e-3)


@pytest.mark.float32
def test_refinement_goes_by_the_residual():
  """An inexact factorisation costs steps, not digits; a fixed number of them would leave percents."""
  residual, factor, diag = _problem('independent and large')

  @jax.jit
  def found(residual: jax.Array, factor: jax.Array, diag: jax.Array) -> woodbury.Whitened:
    cap = woodbury.capacitance(factor, woodbury.by_scale(jax.lax.rsqrt(diag)))
    return woodbury.whiten(cap._replace(inner=0.8 * cap.inner), residual)

  whitened = found(residual, factor, diag)
  expected = _exact(residual, factor, diag)
  _check({'residual': whitened.residual}, {'residual': expected['residual']})


def _quadratic(residual: jax.Array, factor: jax.Array, diag: jax.Array) -> jax.Array:
  cap = woodbury.capacitance(factor, woodbury.by_scale(jax.lax.rsqrt(diag)))
  rest = woodbury.whiten(cap, residual).residual
  return jnp.sum(jnp.sin(rest)) + jnp.sum(woodbury.leverage(cap)) + cap.log_det


def _dense_quadratic(residual: jax.Array, factor: jax.Array, diag: jax.Array) -> jax.Array:
  scaled, target = factor / jnp.sqrt(diag)[:, None], residual / jnp.sqrt(diag)
  white = jnp.eye(SIZE) + scaled @ scaled.T
  rest, hat = jnp.linalg.solve(white, target), jnp.eye(SIZE) - jnp.linalg.inv(white)
  return jnp.sum(jnp.sin(rest)) + jnp.trace(hat) + jnp.linalg.slogdet(white)[1]


@pytest.mark.x64
@pytest.mark.parametrize('kind', ['repeated', 'independent and large'])
def test_derivatives_of_both_orders_are_the_dense_ones(kind: str):
  """Of what is solved by iteration, by residual, factor and variances."""
  residual, factor, _ = (np.asarray(part, np.float64) for part in _problem(kind))
  point = residual, factor / 30, np.linspace(0.5, 1, SIZE)
  rng = np.random.default_rng(2)
  direction = tuple(rng.normal(size=part.shape) for part in point)

  def derivatives(function: Any) -> Any:
    gradient = jax.grad(function, argnums=(0, 1, 2))

    def along(*arguments: jax.Array) -> Any:
      return sum(jnp.sum(g * d) for g, d in zip(gradient(*arguments), direction, strict=True))

    forward = jax.jvp(gradient, point, direction)
    return *forward, jax.grad(along, argnums=(0, 1, 2))(*point)

  found = jax.jit(derivatives, static_argnums=0)
  ours, dense = (jax.tree.leaves(found(f)) for f in (_quadratic, _dense_quadratic))
  for actual, expected in zip(ours, dense, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9 * np.max(np.abs(expected)))
