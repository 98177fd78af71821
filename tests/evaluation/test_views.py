"""What is drawn from a model, against the distribution's own dense covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.data import pixels
from structured_obs.distributions import base, gaussian
from structured_obs.evaluation.figures import views
from structured_obs.models import vae
from structured_obs.models.base import Bound

IMAGE = base.ImageShape(3, 4, 1)
KEYS = jax.random.split(jax.random.key(1), 2)
REQUEST = views.Request((1, 2, 0), samples=3, components=4)
FAMILY = distributions.family('low_rank', rank=3, noise_variance=0.1, learn_diag=True)


def _params():
  rng = np.random.default_rng(0)
  outputs = {name: rng.normal(size=(2, *shape)) for name, shape in FAMILY.outputs(IMAGE).items()}
  return jax.vmap(FAMILY.from_outputs)({k: jnp.asarray(10 * v) for k, v in outputs.items()})


def _covariance(params) -> np.ndarray:
  dense = jax.vmap(lambda p: gaussian.covariance(FAMILY, p))(params)
  return np.asarray(dense, np.float64)


def test_views_are_those_of_the_covariance():
  params = _params()
  found, dense = views.draw(FAMILY, params, KEYS, REQUEST), _covariance(params)
  deviation = np.sqrt(np.diagonal(dense, axis1=1, axis2=2))
  np.testing.assert_allclose(_flat(found.standard_deviation), deviation, rtol=1e-5)
  pixel = 1 * 4 + 2
  correlation = dense[:, pixel] / (deviation * deviation[:, pixel, None])
  np.testing.assert_allclose(_flat(found.correlation), correlation, atol=1e-5)
  values, vectors = np.linalg.eigh(dense)
  assert found.component_variances is not None
  np.testing.assert_allclose(found.component_variances, values[:, :-5:-1].T, rtol=1e-4)
  overlap = np.einsum('knd,ndk->kn', _flat(found.components), vectors[:, :, :-5:-1])
  np.testing.assert_allclose(np.abs(overlap), 1, rtol=1e-4)
  np.testing.assert_allclose(found.mean, params.mean)


def _flat(images: np.ndarray | None) -> np.ndarray:
  assert images is not None
  return images.reshape(*images.shape[:-3], -1)


def test_the_largest_entry_of_a_component_is_positive():
  components = _flat(views.draw(FAMILY, _params(), KEYS, REQUEST).components)
  assert np.all(components.max(axis=-1) == np.abs(components).max(axis=-1))


def test_temperature_scales_what_is_random():
  params = _params()
  found, cold = (views.draw(FAMILY, params, KEYS, REQUEST._replace(temperature=t)) for t in (1.0, 0.5))
  np.testing.assert_allclose(cold.samples - cold.mean, (found.samples - found.mean) / 2, rtol=1e-4)
  np.testing.assert_allclose(
    _flat(cold.standard_deviation), _flat(found.standard_deviation) / 2, rtol=1e-4
  )
  np.testing.assert_allclose(_flat(cold.correlation), _flat(found.correlation), atol=1e-5)


def test_samples_differ_and_do_not_depend_on_their_number():
  few, many = (views.draw(FAMILY, _params(), KEYS, REQUEST._replace(samples=s)) for s in (2, 4))
  np.testing.assert_allclose(few.samples, many.samples[:2], rtol=1e-6)
  assert np.abs(few.samples[0] - few.samples[1]).max() > 0.1


def test_other_families_have_means_and_samples():
  family = FAMILY._replace(gaussian=None)
  found = views.draw(family, _params(), KEYS, REQUEST)
  assert found.samples.shape == (3, 2, *IMAGE)
  assert found.standard_deviation is found.components is None
  assert [row.label for row in views.rows(found, REQUEST)][:2] == ['mean', 'sample 1']
  assert set(views.named(found, 'prior')) == {'prior_mean', 'prior_samples'}


@pytest.fixture(scope='module')
def model() -> Bound:
  module = vae.VAE(FAMILY, IMAGE, latents=2, features=(4,), blocks=0)
  x = jnp.zeros((1, *IMAGE), jnp.float32)
  return Bound(module, jax.jit(module.init)(jax.random.key(0), jax.random.key(0)[None], x))


def test_views_of_a_model(model: Bound):
  key, x = jax.random.key(0), pixels.to_unit(np.zeros((5, *IMAGE), np.uint8), 17)
  prior = views.of_prior(model, 2, key, REQUEST)
  longer = views.of_prior(model, 5, key, REQUEST)
  np.testing.assert_allclose(prior.mean, longer.mean[:2], atol=1e-6)
  found = views.of_reconstructions(model, x, key, REQUEST)
  assert found.samples.shape == (3, 5, *IMAGE)
  rows = views.rows(found, REQUEST, np.asarray(x))
  assert [row.label for row in rows][:2] == ['original', 'mean']
  assert len(rows) == 2 + 3 + 1 + 2 + 4  # one for the difference of a sample from the mean


@pytest.mark.parametrize(
  ('request_', 'message'),
  [
    (REQUEST._replace(pixel=(3, 0, 0)), 'pixel=3,0,0 is outside'),
    (REQUEST._replace(pixel=(0, 0, -1)), 'pixel=0,0,-1 is outside'),
    (REQUEST._replace(temperature=0.0), 'temperature=0.0 is out of range'),
    (REQUEST._replace(labels=(1,)), 'labels applies to label-conditional models'),
    (REQUEST._replace(components=13), 'is out of range; it must be from 0 to 12'),
    (REQUEST._replace(samples=-1), '--samples of at least 0'),
  ],
)
def test_requests_that_cannot_be(model, request_: views.Request, message: str):
  with pytest.raises(ValueError, match=message):
    views.of_prior(model, 2, jax.random.key(0), request_)


def test_pixels_as_text(model: Bound):
  assert views.parse_pixel([], model.model) == (1, 2, 0)
  assert views.parse_pixel(['0', '3'], model.model) == (0, 3, 0)
  assert views.parse_pixel(['0', '3', '2'], model.model) == (0, 3, 2)
  for text in (['1'], ['a', 'b'], ['1', '2', '3', '4'], ['-1', '0']):
    with pytest.raises(ValueError, match='it must be a row, a column'):
      views.parse_pixel(text, model.model)
