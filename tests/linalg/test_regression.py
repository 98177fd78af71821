"""Regressions on neighbours from samples; those from covariances have tests with `sparse_precision`."""

import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import regression

pytestmark = pytest.mark.x64  # NumPy, beside float64 of jax


def _problem(count: int = 9, size: int = 6, links: int = 3):
  rng = np.random.default_rng(0)
  samples = rng.normal(size=(count, size))
  neighbours = np.array([rng.choice(np.delete(np.arange(size), j), links, False) for j in range(size)])
  return samples, neighbours, rng.random((size, links)) < 0.7


def test_it_is_the_regression_by_the_covariance(monkeypatch):
  samples, neighbours, present = _problem()
  covariance = jnp.asarray(samples.T @ samples / len(samples))
  expected = regression.on_neighbours(covariance, jnp.asarray(neighbours), jnp.asarray(present))
  for entries in (regression.ENTRIES, 1, 100):
    monkeypatch.setattr(regression, 'ENTRIES', entries)  # one variable at a time, or two
    found = regression.of_samples(samples, neighbours, present)
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one, other, atol=1e-12)


def test_what_is_constant_or_determined_takes_no_part():
  samples, neighbours, present = _problem()
  present[:] = True
  samples[:, 0] = 0
  samples[:, 1] = samples[:, 2] - samples[:, 3]
  coefficients, left = regression.of_samples(samples, neighbours, present)
  assert np.all(coefficients[neighbours == 0] == 0)
  for j in range(6):
    design = samples[:, neighbours[j]]
    least = np.linalg.lstsq(design, samples[:, j])[0]
    np.testing.assert_allclose(left[j], np.mean((samples[:, j] - design @ least) ** 2), atol=1e-12)


def test_fewer_samples_than_neighbours_leave_nothing():
  samples, neighbours, present = _problem(count=2)
  present[:] = True
  assert np.all(regression.of_samples(samples, neighbours, present)[1] < 1e-20)
