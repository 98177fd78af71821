"""Completions of half-seen images: against dense conditionals, for a model whose chain is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.applications import completion
from structured_obs.distributions import low_rank
from structured_obs.distributions.base import ImageShape
from structured_obs.models.base import Bound, Traits

IMAGE = ImageShape(4, 3, 1)
FAMILY = low_rank.family(rank=2, noise_variance=0.1)


class Known:
  """A model whose q(z|x) is a point, and whose p(x|z) is one of two known Gaussians."""

  family, image, masked, label_classes = FAMILY, IMAGE, False, None
  traits = Traits(generates=True, has_prior=True, has_latents=True)

  def apply(self, variables, *arguments, method):
    """z is 1 for images that are bright in their upper half, else 0."""
    if method == 'generate':
      z = jnp.arange(len(arguments[0])) % 2
    else:
      z = (jnp.mean(arguments[1][:, :2], axis=(1, 2, 3)) > 0).astype(jnp.int32)
    return low_rank.LowRank(*(jnp.stack([a, b])[z] for a, b in zip(*variables['two'], strict=True)))


def _params(seed, level):
  key = jax.random.split(jax.random.key(seed), 2)
  emitted = {
    'mean': level + 0.1 * jax.random.normal(key[0], tuple(IMAGE)),
    'cov_factor': 5 * jax.random.normal(key[1], (*IMAGE, 2)),
  }
  return FAMILY.from_outputs(emitted)


@pytest.fixture(name='bound')
def _bound():
  model: Any = Known()
  return Bound(model, {'two': (_params(0, -0.6), _params(1, 0.6))})


def _dense(params, x, observed):
  """The conditional mean and covariance of the hidden pixels, by dense float64 algebra."""
  factor = np.asarray(params.cov_factor, np.float64).reshape(IMAGE.size, -1)
  noise = np.broadcast_to(np.asarray(params.cov_diag, np.float64), tuple(IMAGE)).ravel()
  cov, mean = factor @ factor.T + np.diag(noise), np.asarray(params.mean, np.float64).ravel()
  seen, gain = observed.ravel(), None
  gain = cov[np.ix_(~seen, seen)] @ np.linalg.inv(cov[np.ix_(seen, seen)])
  return mean[~seen] + gain @ (np.asarray(x).ravel() - mean)[seen], cov[
    np.ix_(~seen, ~seen)
  ] - gain @ cov[np.ix_(seen, ~seen)]


@pytest.mark.parametrize('bright', [False, True])
def test_the_seen_half_chooses_the_latents_and_the_conditional_is_exact(bound, bright):
  observed = np.ones(tuple(IMAGE), bool)
  observed[2:] = False
  params = bound.variables['two'][int(bright)]
  x = np.where(observed, 0.7 if bright else -0.7, np.nan)  # hidden pixels are not read
  found = completion.complete(bound, jnp.asarray(x), jnp.asarray(observed), jax.random.key(3), 64, 2)
  mean, cov = _dense(params, np.where(observed, x, 0), observed)
  hidden = ~observed
  for one in np.asarray(found.mean):
    np.testing.assert_allclose(one[hidden], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one[observed], x[observed], rtol=1e-6)
  drawn = np.asarray(found.sample)[:, hidden]
  error = np.abs(drawn.mean(axis=0) - mean) / np.sqrt(np.diag(cov) / len(drawn))
  assert error.max() < 4.5
  np.testing.assert_allclose(np.asarray(found.sample)[:, observed], x[observed][None].repeat(64, 0))


@pytest.mark.parametrize('wrong', [{'chains': 0}, {'chains': 1000}, {'sweeps': 0}])
def test_numbers_out_of_range_are_refused(bound, wrong):
  x = jnp.zeros(tuple(IMAGE))
  with pytest.raises(ValueError, match='chains must be from 1 to 128 and sweeps at least 1'):
    completion.complete(bound, x, x > 1, jax.random.key(0), **wrong)


def test_a_model_without_a_prior_is_refused(bound):
  model: Any = bound.model
  model.traits = Traits()
  with pytest.raises(ValueError, match='a prior of latents and a family with a covariance'):
    completion.check(bound.model)
