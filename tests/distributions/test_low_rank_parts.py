"""Low-rank log densities added up in float64 from float32 parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import low_rank_parts
from structured_obs.distributions.low_rank import LowRank
from structured_obs.linalg import dense
from tests.distributions import low_rank_reference as reference


@pytest.mark.float32
def test_float32_parts_of_a_large_misfit():
  """The sum itself is off by the spacing of float32 at -5e7 nats, which is 4."""
  image = (218, 178, 3)
  factor = reference.independent_columns(int(np.prod(image)), 25)
  params, x = reference.well_specified(factor, image)
  misfit = 0.1 * np.random.default_rng(0).normal(size=image)
  x = x + jnp.asarray(misfit, jnp.float32)
  terms = low_rank_parts.add_up(jax.jit(low_rank_parts.log_prob_parts)(params, x))
  assert terms.log_prob == pytest.approx(reference.evaluate(params, x).log_prob, abs=0.2)


@pytest.mark.parametrize('by_pixel', [False, True], ids=['scalar', 'by pixel'])
def test_terms_of_a_batch(by_pixel: bool):
  rng, image, batch = np.random.default_rng(0), (2, 3, 2), 3
  mean, x = rng.normal(size=(2, batch, *image))
  factor = rng.normal(size=(batch, *image, 4))
  diag = rng.uniform(0.1, 1, size=(batch, *image) if by_pixel else (batch,))
  params = LowRank(*(jnp.asarray(part) for part in (mean, factor, diag)))
  parts = jax.jit(jax.vmap(low_rank_parts.log_prob_parts))(params, jnp.asarray(x))
  terms = low_rank_parts.add_up(parts)
  for i in range(batch):
    rows = factor[i].reshape(-1, 4)
    cov = rows @ rows.T + np.diag(np.broadcast_to(diag[i], image).ravel())
    expected = dense.log_prob(mean[i].ravel(), cov, x[i].ravel())
    assert terms.log_prob[i] == pytest.approx(expected, rel=1e-5)
    assert terms.log_det[i] == pytest.approx(-0.5 * dense.log_det(cov), rel=1e-4)
