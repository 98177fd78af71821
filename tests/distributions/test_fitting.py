"""Fits of every family to samples of itself, their optima, and what is refused."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import base, fitting, low_rank, low_rank_update, probabilistic_pca
from tests.distributions import cases, fitted

pytestmark = pytest.mark.x64  # fits run in float64 in either mode

COUNT = 60
CLOSED_FORMS = [
  ('diagonal', {}),
  ('low_rank', {'rank': 3, 'noise_variance': 0.02}),
  ('sparse_precision', {'filter_size': 3, 'channels': 'full'}),
  ('sparse_precision', {'filter_size': 5, 'channels': 'none', 'parametrization': 'raw'}),
  ('dense_precision', {}),
  ('dense_precision', {'parametrization': 'raw'}),
]


def _samples(family: base.Family[Any], params: Any, count: int = COUNT) -> jax.Array:
  draw = jax.jit(jax.vmap(family.sample, (0, None)))
  return draw(jax.random.split(jax.random.key(3), count), params)


@fitted.every(gaussian=False)
@pytest.mark.slow
def test_a_fit_is_better_than_the_truth_on_its_own_samples(family: base.Family[Any]):
  """From a bad start it would not be. (Of Gaussian families, projections say more.)"""
  params = fitted.params(family)
  images = _samples(family, params)
  fits = [distributions.fit(family, images, max_iterations=n) for n in (3, 60)]
  first, last, truth = (fitting.mean_log_prob(family, one, images) for one in (*fits, params))
  assert last >= first - 1e-9
  assert last >= truth
  for one, other in zip(jax.tree.leaves(fits[1]), jax.tree.leaves(params), strict=True):
    assert (one.shape, one.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize(('name', 'options'), CLOSED_FORMS)
@pytest.mark.few(2)
def test_closed_forms_are_optima(name: str, options: dict[str, Any]):
  """The gradient by all that is free vanishes, and so it does for a mean that is given."""
  family, images = distributions.family(name, **options), fitted.images(COUNT)

  def likelihood(outputs):
    params = family.from_outputs(outputs)
    return jnp.mean(jax.vmap(family.log_prob, (None, 0))(params, jnp.asarray(images)))

  gradient = jax.jit(jax.grad(likelihood))
  for mean in (None, np.full((2, 3, 2), 0.1)):
    found = fitting.outputs(family, fitting.Sample(images, mean, 0))
    slopes = gradient({key: jnp.asarray(value) for key, value in found.items()})
    if mean is not None:
      np.testing.assert_array_equal(found['mean'], mean)
      del slopes['mean']
    for key, leaf in slopes.items():
      np.testing.assert_allclose(leaf, 0, atol=1e-8, err_msg=key)


def test_the_mean_log_prob_is_the_mean():
  """Of a Gaussian by the second moments of many images, of few as they are."""
  family = distributions.family('diagonal')
  for count in (30, 5):
    images = fitted.images(count)
    params = distributions.fit(family, images)
    expected = np.mean(fitting.log_probs(family, params, images))
    np.testing.assert_allclose(fitting.mean_log_prob(family, params, images), expected, rtol=1e-12)


def test_low_rank_is_probabilistic_pca(monkeypatch):
  images = fitted.images(100, (4, 4, 1))
  moments = probabilistic_pca.moments(images, 3)
  expected = probabilistic_pca.optimum(moments, 3, 0.05, jnp.float64)
  family = distributions.family('low_rank', rank=3, noise_variance=0.05)
  for size in (fitting.COMPRESSED_SIZE, 1):  # all eigenpairs at once, and the leading ones alone
    monkeypatch.setattr('structured_obs.distributions.fits.DENSE_SIZE', size)
    found = distributions.fit(family, images)
    np.testing.assert_allclose(
      low_rank.covariance_matvec(found, jnp.asarray(images[0])),
      low_rank.covariance_matvec(expected, jnp.asarray(images[0])),
      rtol=1e-6,
    )


def test_factor_analysis_finds_the_noise_of_each_pixel():
  """With a large sample; the likelihood is that of an optimum, whose gradient vanishes."""
  family = distributions.family('low_rank', rank=1, learn_diag=True)
  variances = jnp.asarray([0.1, 0.5, 1.0, 2.0, 0.3, 0.05]).reshape(2, 3, 1)
  factor = jnp.asarray([1.0, -0.5, 0.7, 1.2, 0.2, 0.9]).reshape(2, 3, 1, 1)
  truth = low_rank.LowRank(jnp.zeros((2, 3, 1)), factor, variances)
  images = _samples(family, truth, 20_000)
  found = distributions.fit(family, images)
  np.testing.assert_allclose(found.cov_diag, variances, rtol=0.08, atol=0.01)
  gradient = jax.grad(lambda p: fitting._mean_log_prob(family)(p, images))(found)
  for leaf in gradient:
    np.testing.assert_allclose(leaf, 0, atol=1e-5)


def test_a_wrapper_without_a_fit_of_its_own_takes_the_way_of_all():
  family = cases.make_family('sparse_precision', ())._replace(fit=None)
  images = fitted.images(30, (2, 3, 1))
  best = distributions.fit(cases.make_family('sparse_precision', ()), images)
  found = distributions.fit(family, images)
  np.testing.assert_allclose(
    *(fitting.mean_log_prob(family, params, images) for params in (found, best)), atol=1e-6
  )


def test_an_update_of_no_columns_is_its_base():
  images, inner = fitted.images(COUNT), cases.make_family('diagonal', ())
  found = distributions.fit(low_rank_update.family(inner, rank=0), images)
  assert found.cov_factor.shape == (2, 3, 2, 0)
  np.testing.assert_allclose(found.base.log_scale, distributions.fit(inner, images).log_scale)


def test_fixed_options_and_bounds_are_kept():
  images = fitted.images(COUNT)
  images[:, 0, 0, 0] = 0.25  # a constant pixel
  diagonal = distributions.fit(distributions.family('diagonal', min_scale=0.01, max_scale=1.0), images)
  assert diagonal.log_scale[0, 0, 0] == pytest.approx(np.log(0.01), abs=1e-5)
  assert jnp.max(diagonal.log_scale) <= 0
  fixed = distributions.fit(distributions.family('diagonal', learn_scale=False), images)
  np.testing.assert_allclose(jnp.exp(fixed.log_scale), 0.5)
  assert distributions.fit(distributions.family('low_rank'), images).cov_diag == pytest.approx(1e-5)
  for name in ('sparse_precision', 'dense_precision'):
    family = distributions.family(name, min_scale=0.01)
    found = distributions.fit(family, images)
    assert family.gaussian is not None
    assert family.gaussian.innovation_variance is not None
    assert family.gaussian.innovation_variance(found)[0, 0, 0] == pytest.approx(1e-4, rel=1e-4)
    assert np.isfinite(fitting.mean_log_prob(family, found, images))


def test_images_of_float32_give_float32_and_residuals_have_a_mean_of_0():
  family, images = distributions.family('diagonal'), fitted.images(COUNT).astype(np.float32)
  found = distributions.fit(family, images, mean=0.0)
  assert {leaf.dtype for leaf in found} == {np.dtype(np.float32)}
  np.testing.assert_array_equal(found.mean, 0)
  np.testing.assert_allclose(jnp.exp(2 * found.log_scale), np.mean(np.square(images), axis=0), rtol=1e-5)


@pytest.mark.parametrize(('images', 'mean', 'error', 'message'), [
  (np.zeros((3, 2, 2, 1), np.uint8), None, TypeError, 'must be floating-point numbers; got uint8'),
  (np.zeros((2, 2, 1)), None, ValueError, 'must be at least 2, in one array of shape'),
  (np.zeros((1, 2, 2, 1)), None, ValueError, r'at least 2, .*got the shape \(1, 2, 2, 1\)'),
  (np.zeros((0, 2, 2, 1)), 0.0, ValueError, 'at least 1'),
  (np.full((3, 2, 2, 1), np.nan), None, ValueError, '3 of 3 images have others'),
  (np.zeros((3, 2, 2, 1)), np.zeros(2), ValueError, r'the shape \(2, 2, 1\) of one image'),
  (np.zeros((3, 2, 2, 1)), np.nan, ValueError, 'mean must be finite'),
])  # fmt: skip
def test_bad_input_is_refused(images: Any, mean: Any, error: type[Exception], message: str):
  with pytest.raises(error, match=message):
    distributions.fit(distributions.family('diagonal'), images, mean)


def test_too_few_images_and_images_off_the_grid_are_refused():
  with pytest.raises(ValueError, match='dense_precision needs at least 13 images to fit 12 pixels'):
    distributions.fit(distributions.family('dense_precision'), fitted.images(12))
  family = distributions.family('discretized_logistic_mixture', levels=5)
  with pytest.raises(ValueError, match='on the grid of 5 gray levels'):
    distributions.fit(family, fitted.images(COUNT))
  with pytest.raises(ValueError, match='has no mean apart'):
    distributions.fit(family, np.zeros((3, 2, 2, 1)), 0.0)
  with pytest.raises(TypeError, match=re.escape('max_iterations must be a whole number')):
    distributions.fit(family, np.zeros((3, 2, 2, 1)), max_iterations=1.5)  # pyright: ignore
