"""The parts of the variance, of linear models whose parts are known in closed form."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import config, distributions
from structured_obs.distributions import base, diagonal, low_rank
from structured_obs.evaluation.sections import variance_parts
from structured_obs.models.base import Traits
from structured_obs.runs import trained as opened
from tests.evaluation import linear_gaussian
from tests.evaluation.test_report import SPEC

IMAGE = base.ImageShape(3, 2, 1)
W = np.random.default_rng(1).normal(size=(IMAGE.size, 2)) * [0.5, 0.2]
FACTOR = np.random.default_rng(2).normal(size=(*IMAGE, 2))
NOISE = np.random.default_rng(3).uniform(0.1, 0.5, IMAGE)


class Linear(linear_gaussian.LinearGaussian):
  """x = W z + P w + noise, in families that know the last two or only samples of them."""

  factor: Any = None
  traits = Traits(has_prior=True, generates=True)

  def generate(self, keys):
    """p(x|z) at z ~ N(0, I)."""
    z = jax.vmap(lambda key: jax.random.normal(key, (2,), jnp.float32))(keys)
    return jax.vmap(self._params)(z)

  def _params(self, z):
    mean = (jnp.asarray(W, jnp.float32) @ z).reshape(self.image)
    params: Any = low_rank.LowRank(
      mean, jnp.asarray(FACTOR, jnp.float32), jnp.asarray(NOISE, jnp.float32)
    )
    if self.factor == 'diagonal':
      params = diagonal.Diagonal(mean, 0.5 * jnp.log(jnp.asarray(NOISE, jnp.float32)))
    if self.factor == 'student':
      return distributions.student.Student(params, jnp.float32(6.0))
    return params


def _parts(kind: str, family: base.Family) -> variance_parts.Parts:
  model = Linear(IMAGE, family, factor=kind)
  run = dataclasses.replace(config.Config(), eval=config.EvalConfig(batch_size=100))
  trained = opened.Trained('x', 'x', run, SPEC, model, {'params': {}}, 1)
  return variance_parts.of_model(trained, np.zeros((1000, *IMAGE), np.uint8))


LOW_RANK = low_rank.family(2, learn_diag=True)
FACTOR_VARIANCE = np.mean(np.sum(FACTOR**2, axis=-1))


@pytest.mark.parametrize(
  ('kind', 'family', 'given_z', 'without'),
  [
    ('diagonal', linear_gaussian.FAMILY, np.mean(NOISE), 0.0),
    ('low_rank', LOW_RANK, FACTOR_VARIANCE + np.mean(NOISE), FACTOR_VARIANCE),
    (
      'student', distributions.student.family(LOW_RANK),
      1.5 * (FACTOR_VARIANCE + np.mean(NOISE)), 1.5 * FACTOR_VARIANCE,
    ),
  ],
)  # fmt: skip
def test_parts_are_those_of_the_closed_forms(kind, family, given_z, without):
  found = _parts(kind, family)
  assert len(found.of_means) == 1000
  np.testing.assert_allclose(found.given_z, given_z, rtol=1e-5)
  assert found.without_noise is not None
  np.testing.assert_allclose(found.without_noise, without, atol=1e-5 * given_z)
  of_means, known = np.mean(found.of_means), np.mean(np.sum(W**2, axis=1))
  error = np.std(found.of_means) / np.sqrt(len(found.of_means))
  assert abs(of_means - known) < 4 * error < 0.3 * known
  np.testing.assert_allclose(found.share_of_z, of_means / (of_means + given_z), rtol=1e-5)


def test_without_a_covariance_samples_measure_it():
  family = LOW_RANK._replace(
    gaussian=None,
    sample_without_pixel_noise=base.sampler(LOW_RANK, pixel_noise=False),
  )
  found = _parts('low_rank', family)
  assert found.without_noise is not None
  for values, known in (
    (found.given_z, FACTOR_VARIANCE + np.mean(NOISE)),
    (found.without_noise, FACTOR_VARIANCE),
  ):
    assert abs(np.mean(values) - known) < 4 * np.std(values) / np.sqrt(len(values)) < 0.3 * known


def test_the_section_tells_all_parts_and_the_images_own_variance():
  found = {'a': _parts('low_rank', LOW_RANK), 'b': _parts('diagonal', linear_gaussian.FAMILY)}
  images = np.random.default_rng(0).integers(0, 17, (50, *IMAGE)).astype(np.uint8)
  trained = opened.Trained('x', 'x', config.Config(), SPEC, Linear(IMAGE), {'params': {}}, 1)
  variance = variance_parts.variance_of_images(trained, images)
  np.testing.assert_allclose(variance, np.mean(np.var(images / 8 - 1, axis=0, ddof=1)), rtol=1e-6)
  text, tree = variance_parts.text(found, variance), variance_parts.as_json(found, variance)
  assert f'{1000 * FACTOR_VARIANCE:.2f} ± 0.00' in text
  total = np.mean(found['a'].of_means) + np.mean(found['a'].given_z)
  assert f'{1000 * total:.2f}' in text
  assert tree['models']['a']['given_z']['mean'] == np.mean(found['a'].given_z)
  assert variance_parts.applies(trained)
  still = trained._replace(model=linear_gaussian.LinearGaussian(IMAGE))
  assert not variance_parts.applies(still)
