"""Decompositions of matrices with and without numbers that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.linalg import decompositions

MATRIX = np.random.default_rng(0).normal(size=(25, 25))


@pytest.mark.x64
def test_finite_matrices_are_decomposed():
  u, values, vt = map(np.asarray, jax.jit(decompositions.svd)(MATRIX[:, :4]))
  np.testing.assert_allclose((u * values) @ vt, MATRIX[:, :4], atol=1e-12)
  symmetric = MATRIX + MATRIX.T
  values, vectors = map(np.asarray, jax.jit(decompositions.eigh)(symmetric))
  np.testing.assert_allclose((vectors * values) @ vectors.T, symmetric, atol=1e-12)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('function', [decompositions.svd, decompositions.eigh])
def test_others_end_in_no_number(function, value: float):
  """LAPACK's own iteration may not end: the test's process would have to be killed."""
  good = jnp.asarray(MATRIX)
  found = jax.jit(jax.vmap(function))(jnp.stack([good, good.at[3, 5].set(value)]))
  for part in found:
    assert np.isfinite(part[0]).all()
    assert np.isnan(part[1]).all()
