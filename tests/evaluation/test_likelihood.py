"""Scores of a split against a model whose likelihood is known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.data import pixels
from structured_obs.distributions import base
from structured_obs.evaluation import likelihood
from structured_obs.evaluation.likelihood import Scores, Settings
from structured_obs.evaluation.passes import Where
from structured_obs.models import vae
from structured_obs.models.base import Bound
from structured_obs.objectives import bounds, terms
from tests.evaluation import linear_gaussian

LEVELS = 17
IMAGE = base.ImageShape(3, 2, 1)
MODEL = linear_gaussian.LinearGaussian(IMAGE)
PLAIN = Settings(LEVELS, dequantize=False)
KEY = jax.random.key(7)


def _images(count: int = 11, image: base.ImageShape = IMAGE) -> np.ndarray:
  return np.random.default_rng(1).integers(0, LEVELS, (count, *image)).astype(np.uint8)


def _x() -> np.ndarray:
  return np.asarray(pixels.to_unit(jnp.asarray(_images()), LEVELS))


def _mesh(devices: int) -> jax.sharding.Mesh:
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((devices,), ('batch',), axis_types=auto, devices=jax.devices()[:devices])


def _score(tree, settings: Settings, model=MODEL, **options) -> Scores:
  return likelihood.split_scores(linear_gaussian.bound(model, tree), _images(), KEY, settings, **options)


def _arrays(scores: Scores) -> dict[str, np.ndarray]:
  return scores.by_name() | dict(scores.parts)


def _assert_equal(first: Scores, second: Scores) -> None:
  expected = _arrays(second)
  for name, values in _arrays(first).items():
    np.testing.assert_allclose(values, expected[name], rtol=2e-6, atol=2e-5, err_msg=name)


@pytest.mark.parametrize('samples', [3, 1])
@pytest.mark.few(2)
def test_bounds_are_tight_for_the_exact_posterior(samples: int):
  """Every weight is then p(x) itself. The single-sample ELBO has noise, the importance weights none."""
  tree = linear_gaussian.variables(IMAGE)
  exact = linear_gaussian.log_evidence(tree, _x())
  scores = _score(tree, PLAIN._replace(importance_samples=samples))
  np.testing.assert_allclose(scores.iwae, exact, rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(scores.effective_samples, samples, rtol=1e-6)
  np.testing.assert_allclose(scores.iwae_error, 0 if samples > 1 else math.nan, atol=1e-4)


def test_bounds_of_many_samples():
  """q twice 1.5 times as wide: each log weight has a known mean and relative variance."""
  tree = linear_gaussian.variables(IMAGE, widen=1.5)
  exact = linear_gaussian.log_evidence(tree, _x())
  scores = _score(tree, PLAIN)
  gap = 2 * (0.5 * (1.5**2 - 1) - math.log(1.5))  # KL(q || posterior) in two dimensions
  deviation = math.sqrt(1.5**4 / (2 * 1.5**2 - 1) - 1)  # of a weight, in units of p(x)
  error = scores.iwae - exact
  assert np.abs(error).max() < 5 * deviation / math.sqrt(500)
  assert abs(error.mean()) < 4 * deviation / math.sqrt(500 * len(error))
  assert abs(np.mean(scores.elbo - exact + gap)) < 4 * 1.5 / math.sqrt(500 * len(error))
  assert np.all(scores.iwae > scores.elbo)


def test_one_sample_is_one_weight():
  tree = linear_gaussian.variables(IMAGE, widen=1.5)
  keys = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(KEY, row)))(jnp.arange(11))
  x = jnp.asarray(_x())
  noisy = jax.vmap(functools.partial(pixels.dequantize, levels=LEVELS))(keys[:, 0], x)
  first = jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], 0)
  expected = linear_gaussian.bound(MODEL, tree).terms(first, noisy)
  scores = _score(tree, Settings(LEVELS, importance_samples=1))
  np.testing.assert_allclose(scores.iwae, terms.log_weight(expected), rtol=1e-6)
  np.testing.assert_allclose(scores.elbo, bounds.elbo(expected), rtol=1e-6)
  np.testing.assert_allclose(scores.kl, expected.stats['kl_z'], rtol=1e-6)


def test_error_and_effective_samples_of_the_same_weights_as_the_bound():
  tree, samples = linear_gaussian.variables(IMAGE, widen=1.5), 20
  scores = _score(tree, Settings(LEVELS, importance_samples=samples, chunk=7))
  keys = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(KEY, row)))(jnp.arange(11))
  noisy = jax.vmap(functools.partial(pixels.dequantize, levels=LEVELS))(keys[:, 0], jnp.asarray(_x()))
  drawn = [jax.vmap(jax.random.fold_in, (0, None))(keys[:, 1], sample) for sample in range(samples)]
  logs = [terms.log_weight(linear_gaussian.bound(MODEL, tree).terms(one, noisy)) for one in drawn]
  w = np.exp(np.asarray(logs, np.float64))  # [20, 11]
  np.testing.assert_allclose(scores.iwae, np.log(w.mean(axis=0)), rtol=1e-5)
  expected = w.sum(axis=0) ** 2 / (w**2).sum(axis=0)
  np.testing.assert_allclose(scores.effective_samples, expected, rtol=1e-4)
  error = w.std(axis=0, ddof=1) / w.mean(axis=0) / math.sqrt(samples)
  np.testing.assert_allclose(scores.iwae_error, error, rtol=1e-4)
  assert np.all((expected > 1) & (expected < samples))


@pytest.mark.parametrize(('batch_size', 'chunk', 'devices'), [(64, 7, 1), (4, 50, 1), (5, 3, 4)])
def test_scores_depend_on_neither_batch_chunk_nor_devices(batch_size, chunk, devices):
  tree = linear_gaussian.variables(IMAGE, widen=1.5)
  settings = Settings(LEVELS, importance_samples=20)
  expected = _score(tree, settings)
  found = _arrays(expected).values()
  assert all(values.shape == (11,) and values.dtype == np.float64 for values in found)
  other = settings._replace(batch_size=batch_size, chunk=chunk)
  _assert_equal(_score(tree, other, where=Where(_mesh(devices))), expected)


def test_large_log_densities_keep_their_decimals():
  """At 5e5 a float32 moves in steps of 1/32; averages over samples are finer than that."""
  offset = 2.0**19
  tree = linear_gaussian.variables(IMAGE, offset=offset)
  exact = linear_gaussian.log_evidence(tree, _x())
  scores = _score(tree, PLAIN)
  np.testing.assert_allclose(scores.iwae - offset, exact, rtol=0, atol=0.004)
  np.testing.assert_allclose(scores.elbo - offset, exact, rtol=0, atol=0.3)


def test_scores_at_the_mean_of_the_posterior():
  tree = linear_gaussian.variables(IMAGE)
  x = jnp.asarray(_x())
  mean = np.asarray(linear_gaussian.bound(MODEL, tree).reconstruct(None, x).mean, np.float64)
  q = np.sum((np.asarray(x, np.float64) - mean) ** 2, axis=(1, 2, 3)) / linear_gaussian.SCALE**2
  scores = _score(tree, PLAIN._replace(importance_samples=1))
  np.testing.assert_allclose(scores.mahalanobis, q / IMAGE.size, rtol=1e-5)
  constant = IMAGE.size * math.log(2 * math.pi * linear_gaussian.SCALE**2)
  np.testing.assert_allclose(scores.log_prob, -0.5 * (q + constant), rtol=1e-5)


def test_a_kl_without_closed_form_is_sampled():
  tree = linear_gaussian.variables(IMAGE, widen=1.5)
  expected = _score(tree, PLAIN)
  sampled = _score(tree, PLAIN, MODEL.clone(closed_form=False))
  np.testing.assert_allclose(sampled.kl, expected.kl, atol=5 / math.sqrt(500) * 1.5)
  np.testing.assert_allclose(sampled.iwae, expected.iwae, rtol=1e-6)


def test_a_family_that_is_not_gaussian_has_no_distance():
  model = MODEL.clone(family=linear_gaussian.FAMILY._replace(gaussian=None))
  scores = _score(linear_gaussian.variables(IMAGE), PLAIN._replace(importance_samples=1), model)
  assert np.isnan(scores.mahalanobis).all()
  assert np.isfinite(scores.elbo).all()


def test_what_is_not_finite_stays():
  scores = _score(linear_gaussian.variables(IMAGE, offset=math.nan), PLAIN)
  assert np.isnan(scores.elbo).all()
  assert np.isnan(scores.iwae).all()
  assert math.isnan(likelihood.summarize(np.array([1.0, math.nan])).mean)


@pytest.mark.parametrize('family', sorted(distributions.FAMILIES))
@pytest.mark.slow
def test_scores_of_the_real_model(family: str):
  image = base.ImageShape(4, 3, 3)
  discrete = distributions.family(family).levels > 0
  made = distributions.family(family, **({'levels': LEVELS} if discrete else {}))
  model = vae.VAE(made, image, latents=2, features=(4,), blocks=0)
  x = jnp.zeros((1, *image), jnp.float32)
  bound = Bound(model, model.init(jax.random.key(0), jax.random.key(0)[None], x))
  images = _images(5, image)
  settings = Settings(LEVELS, importance_samples=4, chunk=3, batch_size=2, dequantize=not discrete)
  scores = likelihood.split_scores(bound, images, KEY, settings, Where(_mesh(2)))
  found = _arrays(scores)
  assert np.isnan(found.pop('mahalanobis')).all() == discrete
  assert np.isfinite(np.stack(list(found.values()))).all()
  assert np.all(scores.kl > 0)
  elbo = functools.partial(likelihood.split_elbo, bound, images, KEY, LEVELS, dequantize=not discrete)
  quick = elbo(batch_size=3)
  assert quick.shape == (5,)
  same = elbo(batch_size=8, mesh=_mesh(4))
  np.testing.assert_allclose(quick, same, rtol=1e-5)


def test_summaries_and_paired_differences():
  first, second = np.array([1.0, 2.0, 4.0]), np.array([0.0, 2.0, 2.0])
  summary = likelihood.paired_difference(first, second)
  assert summary.num_images == 3
  np.testing.assert_allclose(summary[:2], (1.0, 1 / math.sqrt(3)))
  assert math.isnan(likelihood.summarize(first[:1]).standard_error)
  with pytest.raises(ValueError, match='same images'):
    likelihood.paired_difference(first, second[:2])


@pytest.mark.parametrize('name', ['importance_samples', 'chunk', 'batch_size'])
def test_settings_must_be_positive(name: str):
  with pytest.raises(ValueError, match=f'{name}=0 is out of range; it must be positive'):
    _score(linear_gaussian.variables(IMAGE), PLAIN._replace(**{name: 0}))


def test_an_empty_split_is_refused_or_empty():
  empty, bound = _images(0), linear_gaussian.bound(MODEL, linear_gaussian.variables(IMAGE))
  with pytest.raises(ValueError, match='no images to score'):
    likelihood.split_scores(bound, empty, KEY, PLAIN)
  assert likelihood.split_elbo(bound, empty, KEY, LEVELS).shape == (0,)
