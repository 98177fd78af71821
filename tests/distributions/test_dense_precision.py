"""The dense precision: its layout and density by loops, and its sparse twin."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from structured_obs.distributions import dense_precision, sparse_precision
from structured_obs.distributions.base import ImageShape
from tests.distributions import cases

IMAGE = ImageShape(2, 3, 1)


def _outputs(family, image: ImageShape, seed: int = 0) -> dict[str, jax.Array]:
  rng = np.random.default_rng(seed)
  dtype = cases.default_dtype()
  return {
    name: jnp.asarray(rng.normal(scale=0.5, size=shape), dtype)
    for name, shape in family.outputs(image).items()
  }


@pytest.mark.x64
def test_number_of_outputs():
  shapes = dense_precision.family().outputs(ImageShape(1, 50, 1))
  assert shapes == {'mean': (1, 50, 1), 'log_diag': (1, 50, 1), 'off_diag': (1225,)}


@pytest.mark.x64
@pytest.mark.parametrize('parametrization', ['autoregressive', 'raw'])
def test_columns_follow_each_other(parametrization: str):
  family = dense_precision.family(parametrization, initial_scale=0.3)
  outputs = _outputs(family, IMAGE)
  chol = np.asarray(family.from_outputs(outputs).chol)
  diag = np.exp(np.asarray(outputs['log_diag']).ravel()) / 0.3
  np.testing.assert_allclose(np.diag(chol), diag, rtol=0.05)  # of the soft clip
  flat, expected = iter(np.asarray(outputs['off_diag'])), np.diag(np.diag(chol))
  for column in range(6):
    for row in range(column + 1, 6):
      value = next(flat)
      raw = value if parametrization == 'raw' else -value * expected[column, column]
      expected[row, column] = raw
  np.testing.assert_allclose(chol, expected, rtol=1e-5)


def test_density_is_that_of_the_precision():
  family = dense_precision.family()
  params = family.from_outputs(_outputs(family, IMAGE))
  x = family.sample(jax.random.key(0), params)
  chol = np.asarray(params.chol, np.float64)
  normal: Any = scipy.stats.multivariate_normal
  expected = normal.logpdf(np.ravel(x), np.ravel(params.mean), np.linalg.inv(chol @ chol.T))
  cases.assert_close(family.log_prob(params, x), expected, 1e-9, 1e-4)


def test_a_pixel_given_the_later_ones():
  """Its regression on them, from the dense covariance."""
  family = dense_precision.family()
  params = family.from_outputs(_outputs(family, IMAGE))
  chol = np.asarray(params.chol, np.float64)
  covariance = np.linalg.inv(chol @ chol.T)
  assert family.gaussian is not None
  assert family.gaussian.innovation_variance is not None
  innovation = np.ravel(family.gaussian.innovation_variance(params))
  for pixel in range(5):
    later = slice(pixel + 1, None)
    weights = np.linalg.solve(covariance[later, later], covariance[later, pixel])
    np.testing.assert_allclose(weights, -chol[later, pixel] / chol[pixel, pixel], rtol=1e-4)
    left = covariance[pixel, pixel] - weights @ covariance[later, pixel]
    np.testing.assert_allclose(innovation[pixel], left, rtol=1e-3)


def test_it_is_the_sparse_one_without_zeros():
  """On a signal that no filter exceeds, the same numbers give the same distribution."""
  image = ImageShape(1, 4, 1)
  dense, sparse = dense_precision.family(), sparse_precision.family(filter_size=7)
  outputs = _outputs(dense, image)
  off_diag = jnp.zeros(sparse.outputs(image)['off_diag'], cases.default_dtype())
  pairs = [(column, step) for column in range(4) for step in range(3 - column)]
  for (column, step), value in zip(pairs, outputs['off_diag'], strict=True):
    off_diag = off_diag.at[0, column, 0, step].set(value)
  twin = sparse.from_outputs({**outputs, 'off_diag': off_diag})
  params = dense.from_outputs(outputs)
  x = dense.sample(jax.random.key(1), params)
  expected = jax.jit(sparse.log_prob)(twin, x)
  cases.assert_close(jax.jit(dense.log_prob)(params, x), expected, 1e-10, 1e-5)
  cases.assert_close(jax.jit(sparse.sample)(jax.random.key(1), twin), x, 1e-10, 1e-5)


@pytest.mark.x64
def test_one_pixel():
  family = dense_precision.family(initial_scale=2.0)
  params = family.from_outputs({'mean': jnp.ones((1, 1, 1)), 'log_diag': jnp.zeros((1, 1, 1))})
  assert params.chol.shape == (1, 1)
  expected = -0.5 * np.log(2 * np.pi * 4) - 1 / 8
  np.testing.assert_allclose(family.log_prob(params, jnp.zeros((1, 1, 1))), expected, rtol=1e-3)
