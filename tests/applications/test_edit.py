"""Edits of every family against dense float64 linear algebra."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from structured_obs.applications import edit
from structured_obs.distributions import base, low_rank
from tests.distributions import cases

IMAGE = (3, 4, 2)
LOW_RANK = cases.Case('low_rank', (('rank', 3), ('learn_diag', True)), IMAGE)
# By conjugate gradients; for a condition number that float32 can bear.
GENERIC = cases.Case('low_rank', (*LOW_RANK.options, ('noise_variance', 0.05)), IMAGE, generic=True)
GAUSSIAN = [
  LOW_RANK,
  GENERIC,
  *(cases.Case(name, (), IMAGE) for name in ('diagonal', 'sparse_precision', 'dense_precision')),
]


def two_edits(deviations: tuple[Any, Any]) -> list[edit.Edit]:
  """Two edits that overlap."""
  rng, dtype = np.random.default_rng(7), cases.default_dtype()
  first, second = np.zeros((2, *IMAGE), bool)
  first[0, :3], second[0, 2], second[2, 1, 1] = True, True, True
  values = [jnp.asarray(rng.normal(size=IMAGE), dtype) for _ in range(2)]
  return [
    edit.Edit(v, jnp.asarray(m), d) for v, m, d in zip(values, (first, second), deviations, strict=True)
  ]


def apply(problem: cases.Problem, edits: list[edit.Edit], **options: Any) -> edit.Edited:
  """`edit.apply` as one program, in which deviations stay the numbers that they are."""
  one = functools.partial(edit.apply, problem.family, edits=edits, **options)
  return jax.jit(one)(problem.params)


def oracle(
  mean: np.ndarray, cov: np.ndarray, edits: list[edit.Edit]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Mean and covariance of the image given the edits, and which numbers were edited; dense."""
  value, variance = np.zeros_like(mean), np.full_like(mean, np.inf)
  for one in edits:
    mask = np.ravel(one.mask)
    value[mask] = np.ravel(one.value)[mask]
    variance[mask] = float(one.deviation) ** 2
  seen = variance < np.inf
  gain = cov[:, seen] @ np.linalg.inv(cov[np.ix_(seen, seen)] + np.diag(variance[seen]))
  rest, fixed = cov - gain @ cov[seen], variance == 0
  assert np.max(np.abs(rest[fixed]), initial=0) < 1e-12 * np.max(cov)
  rest[fixed], rest[:, fixed] = 0, 0  # exactly: a standard deviation has the square root of round-off
  return mean + gain @ (value - mean)[seen], rest, seen


@cases.each(GAUSSIAN)
@pytest.mark.parametrize('deviations', [(0.0, 0), (0.5, 0.2), (0.0, 0.3)], ids=['hard', 'soft', 'mixed'])
@pytest.mark.few(3)
def test_every_family_against_dense_matrices(case: cases.Case, deviations: tuple[float, float]):
  problem, edits = cases.make_problem(case), two_edits(deviations)
  found = apply(problem, edits)
  mean, cov, seen = oracle(problem.mean, problem.cov, edits)
  cases.assert_close(np.ravel(found.mean), mean, 1e-7, 2e-4)
  assert found.deviation is not None
  cases.assert_close(np.ravel(found.deviation), np.sqrt(np.maximum(np.diag(cov), 0)), 1e-6, 5e-4)
  exact = seen & ~np.ravel(edits[1].mask) if deviations[0] == 0 else np.zeros_like(seen)
  np.testing.assert_array_equal(np.ravel(found.mean)[exact], np.ravel(edits[0].value)[exact])
  shift = mean - problem.mean
  expected = shift @ np.linalg.solve(problem.cov, shift) / seen.sum()
  if case.name == 'low_rank':
    factor = np.asarray(problem.params.cov_factor, np.float64).reshape(problem.size, -1)
    m = factor.T @ np.linalg.solve(problem.cov, shift)
    expected = m @ m / 3
  cases.assert_close(found.implausibility, expected, 1e-6, 1e-3)


def test_the_implausibility_is_of_the_factor_noise_given_the_edits_alone():
  """|m|^2 over the rank, or the number of edited numbers where it is smaller."""
  problem, (one, _) = cases.make_problem(LOW_RANK), two_edits((0.0, 0.0))
  factor = np.asarray(problem.params.cov_factor, np.float64).reshape(problem.size, -1)
  for pixels in (2, 6):
    mask = np.arange(problem.size) < pixels
    residual = np.ravel(one.value)[mask] - problem.mean[mask]
    m = factor[mask].T @ np.linalg.solve(problem.cov[np.ix_(mask, mask)], residual)
    wanted = one._replace(mask=jnp.asarray(mask.reshape(IMAGE)))
    found = apply(problem, [wanted]).implausibility
    cases.assert_close(found, m @ m / min(3, pixels), 1e-8, 1e-3)


def test_implausible_edits_are_told():
  problem, (one, _) = cases.make_problem(LOW_RANK), two_edits((0.0, 0.0))
  usual = one._replace(value=problem.x)
  far = one._replace(value=problem.x + 30)
  for wanted, message in ((usual, ''), (far, 'standard deviations away')):
    found = apply(problem, [wanted]).implausibility
    assert message in edit.warning(found)
    assert bool(message) == bool(edit.warning(found))
  assert 'not finite' in edit.warning(float('nan'))


@cases.each([LOW_RANK, GENERIC])
@pytest.mark.parametrize('deviations', [(0.0, 0.0), (0.0, 0.6)], ids=['hard', 'mixed'])
@pytest.mark.few(2)
def test_samples_have_the_mean_and_the_covariance(case: cases.Case, deviations: tuple[float, float]):
  problem, edits = cases.make_problem(case), two_edits(deviations)
  found = apply(problem, edits)
  count = 6000
  drawn = jax.lax.map(found.sample, jax.random.split(jax.random.key(0), count))
  samples = np.asarray(drawn, np.float64).reshape(count, -1)
  mean, cov, _ = oracle(problem.mean, problem.cov, edits)
  scale = np.sqrt(np.diag(problem.cov))
  assert np.abs((samples.mean(axis=0) - mean) / scale).max() < 5 / np.sqrt(count)
  error = (np.cov(samples.T) - cov) / np.outer(scale, scale)
  assert np.abs(error).max() < 7 / np.sqrt(count)
  hard = np.ravel(edits[0].mask & ~edits[1].mask)
  np.testing.assert_allclose(samples[:, hard].std(axis=0), 0, atol=1e-5)


def float32_problem(image: tuple[int, int, int], smooth: float) -> tuple[low_rank.LowRank, np.ndarray]:
  """Rank 25 and noise of variance 1e-5, with columns as smooth as those of a trained network."""
  rng = np.random.default_rng(1)
  columns = [ndimage.gaussian_filter(rng.normal(size=image), (smooth, smooth, 0)) for _ in range(25)]
  factor = np.stack(columns, axis=-1) / np.std(columns) * np.logspace(-0.3, -1.8, 25)
  mean = 0.3 * rng.normal(size=image)
  leaves = [jnp.asarray(leaf, jnp.float32) for leaf in (mean, factor, 1e-5)]
  return low_rank.LowRank(*leaves), rng.normal(size=25)


@pytest.mark.parametrize(('image', 'smooth', 'size'), [((8, 8, 1), 0.5, 3), ((64, 48, 3), 4.0, 10)])
@pytest.mark.parametrize('kind', ['flat', 'likely'])
@pytest.mark.few(3)
def test_float32_is_within_a_thousandth_of_float64(image: Any, smooth: float, size: int, kind: str):
  """Hard edits at noise of variance 1e-5: of one colour, and of a sample's own pixels."""
  params, w = float32_problem(image, smooth)
  mean, factor, variance = (np.asarray(leaf, np.float64) for leaf in params)
  mask = np.zeros(image, bool)
  mask[2 : 2 + size, 3 : 3 + size] = True
  value = np.float32(np.full(image, 0.7) if kind == 'flat' else mean + factor @ w)
  wanted = [edit.Edit(jnp.asarray(value), jnp.asarray(mask))]
  found = jax.jit(lambda params: edit.apply(low_rank.family(25), params, wanted))(params)
  assert found.mean.dtype == jnp.float32
  # Dense, but least squares in the place of an inverse that would lose digits in float64 too.
  seen = mask.ravel()
  rows, noise = factor.reshape(-1, 25), np.sqrt(variance)
  system = np.concatenate([rows[seen] / noise, np.eye(25)])
  target = np.concatenate([(value - mean).ravel()[seen] / noise, np.zeros(25)])
  m = np.linalg.lstsq(system, target)[0]
  expected = np.where(mask, value, mean + factor @ m)
  assert np.abs(expected - mean)[~mask].max() > 0.3
  np.testing.assert_allclose(found.mean, expected, rtol=0, atol=1e-3)
  np.testing.assert_allclose(found.implausibility, m @ m / min(25, seen.sum()), rtol=1e-2)


@cases.each([LOW_RANK, GENERIC])
@pytest.mark.few(2)
def test_what_is_not_finite_gives_nan_everywhere(case: cases.Case):
  problem, (one, two) = cases.make_problem(case), two_edits((0.0, 0.0))
  traced = jax.jit(functools.partial(edit.apply, problem.family))  # also the deviations
  bad_value = one._replace(value=one.value.at[0, 1, 0].set(jnp.nan))
  results = [apply(problem, [bad_value, two])]
  wrong = bad_value._replace(deviation=0.1), one._replace(deviation=-0.1)
  results += [traced(problem.params, [first, two]) for first in wrong]
  for found in results:
    assert found.deviation is not None
    for array in (found.mean, found.deviation, found.implausibility, found.sample(jax.random.key(0))):
      assert np.isnan(array).all()
  unread = one._replace(value=one.value.at[2, 3, 0].set(jnp.nan))
  found, expected = (apply(problem, [first, two]) for first in (unread, one))
  np.testing.assert_array_equal(found.mean, expected.mean)


def test_hard_edits_whose_deviation_is_traced_come_to_the_same():
  problem, edits = cases.make_problem(LOW_RANK), two_edits((0.0, 0.0))
  expected = apply(problem, edits)
  found = jax.jit(functools.partial(edit.apply, problem.family))(problem.params, edits)
  cases.assert_close(found.mean, expected.mean, 1e-8, 1e-4)
  cases.assert_close(found.deviation, expected.deviation, 1e-6, 1e-4)
  cases.assert_close(found.implausibility, expected.implausibility, 1e-8, 1e-3)


def test_without_an_exact_variance_there_is_none(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr('structured_obs.distributions.posterior.MAX_DENSE_SIZE', 4)
  problem = cases.make_problem(GENERIC)
  family = problem.family._replace(sample=lambda key, params: low_rank.sample(key, params))
  found = edit.apply(family, problem.params, two_edits((0.1, 0.1)))
  assert found.deviation is None
  assert np.isfinite(found.mean).all()


def test_what_cannot_be_is_refused():
  problem, (one, two) = cases.make_problem(LOW_RANK), two_edits((0.0, 0.0))
  apply = functools.partial(edit.apply, problem.family, problem.params)
  with pytest.raises(ValueError, match='at least one edit'):
    apply([])
  with pytest.raises(ValueError, match=r'deviation -1\.0 of an edit is invalid'):
    apply([one, two._replace(deviation=-1.0)])
  with pytest.raises(ValueError, match='deviation inf of an edit'):
    apply([one._replace(deviation=float('inf'))])
  with pytest.raises(TypeError, match='mask must be a boolean array'):
    apply([one._replace(mask=one.value)])
  with pytest.raises(ValueError, match='value must have shape'):
    apply([one._replace(value=one.value[1:])])
  with pytest.raises(ValueError, match='needs a family with a covariance'):
    edit.apply(problem.family._replace(gaussian=None), problem.params, [one])


def test_a_later_edit_overwrites_an_earlier_one():
  one, two = two_edits((0.5, 0.0))
  merged = edit.merge([one, two], base.ImageShape(*IMAGE))
  both = np.asarray(one.mask & two.mask)
  assert both.any()
  np.testing.assert_array_equal(merged.value[both], two.value[both])
  np.testing.assert_array_equal(merged.noise_variance[both], 0)
  np.testing.assert_array_equal(merged.noise_variance[np.asarray(one.mask & ~two.mask)], 0.25)
  assert np.isinf(merged.noise_variance[np.asarray(~one.mask & ~two.mask)]).all()


@pytest.mark.parametrize('deviations', [(0.0, 0), (0.5, 0.2)], ids=['hard', 'soft'])
@pytest.mark.few(2)
def test_samples_without_pixel_noise_have_the_dense_mean_and_covariance(deviations: tuple[float, float]):
  """Of the smooth part given the edits, by averages over keys; pixels of exact edits are as edited."""
  problem, edits = cases.make_problem(LOW_RANK), two_edits(deviations)
  params = problem.params
  found = edit.apply(problem.family, params, edits, pixel_noise=False)
  factor = np.asarray(params.cov_factor, np.float64).reshape(-1, 3)
  smooth = factor @ factor.T
  value, variance = (np.ravel(a) for a in edit.merge(edits, IMAGE))
  seen = variance < np.inf
  inverse = np.linalg.inv(problem.cov[np.ix_(seen, seen)] + np.diag(variance[seen]))
  gain = smooth[:, seen] @ inverse
  mean = problem.mean + gain @ (value - problem.mean)[seen]
  cov = smooth - gain @ smooth[seen]
  count = 4000
  drawn = jax.jit(lambda keys: jax.lax.map(found.sample, keys))(
    jax.random.split(jax.random.key(0), count)
  )
  drawn, exact = np.reshape(drawn, (count, -1)), variance == 0
  np.testing.assert_allclose(drawn[:, exact], np.broadcast_to(value[exact], drawn[:, exact].shape))
  drawn, mean, cov = drawn[:, ~exact], mean[~exact], cov[np.ix_(~exact, ~exact)]
  deviation = np.sqrt(np.diag(cov))
  assert np.max(np.abs(drawn.mean(axis=0) - mean) / deviation) < 5 / count**0.5
  error = np.cov(drawn.T) - cov
  assert np.max(np.abs(error) / np.outer(deviation, deviation)) < 5 * 2**0.5 / count**0.5
  other = cases.make_problem(cases.Case('dense_precision', (), (2, 2, 1)))
  one = edit.Edit(jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1), bool))
  with pytest.raises(ValueError, match='floor of independent pixel noise'):
    edit.apply(other.family, other.params, [one], pixel_noise=False)
