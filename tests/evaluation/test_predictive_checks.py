"""Checks of predicted distributions: by hand, and of models that are right by construction."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from structured_obs import distributions
from structured_obs.config import Config, ObjectiveConfig
from structured_obs.distributions import discretized_logistic_mixture, gaussian
from structured_obs.distributions.base import Family, ImageShape
from structured_obs.evaluation import passes, residuals, results
from structured_obs.evaluation.likelihood import Scores, Settings
from structured_obs.evaluation.metrics import predictive_checks
from structured_obs.evaluation.sections import predicted_distributions
from structured_obs.linalg import dense
from structured_obs.models import vae
from tests.distributions import cases
from tests.evaluation.test_supn import IMAGE, trained

RIGHT = np.broadcast_to(np.arange(4)[None, :, None] >= 2, cases.MAIN_IMAGE)


def _params(name: str, image: ImageShape) -> tuple[Any, Any]:
  family = distributions.family(name)
  rng = np.random.default_rng(0)
  outputs = {key: jnp.asarray(0.3 * rng.normal(size=s)) for key, s in family.outputs(image).items()}
  return family, family.from_outputs(outputs)


def _draw(family: Family, params: Any, count: int) -> Any:
  keys = jax.random.split(jax.random.key(1), count)
  return jax.jit(jax.vmap(lambda key: family.sample(key, params)))(keys)


def _masked(family: Family) -> Any:
  return jax.jit(functools.partial(predictive_checks.masked_log_prob, family))


def test_the_right_half_given_the_left_one_is_that_of_the_dense_covariance():
  """Of one family: conditionals of all, this mask among others, have tests of their own."""
  problem = cases.make_problem(cases.Case('low_rank', (), cases.MAIN_IMAGE))
  mean, cov = dense.condition(problem.mean, problem.cov, np.ravel(problem.x), ~RIGHT)
  expected = dense.log_prob(mean, cov, np.asarray(problem.x)[RIGHT])
  found = _masked(problem.family)(problem.params, problem.x, jnp.asarray(RIGHT))
  assert float(found) == pytest.approx(expected, abs=cases.tolerance(1e-7, 5e-2))


def test_the_right_half_of_independent_pixels():
  """Summed over the levels of one hidden pixel with two channels, probabilities make 1."""
  family = distributions.family('discretized_logistic_mixture', levels=5, components=2)
  params: Any = cases.random_params(
    cases.Case('discretized_logistic_mixture', (('components', 2), ('levels', 5)), (1, 2, 2))
  )
  assert isinstance(params, discretized_logistic_mixture.DiscretizedLogisticMixture)
  grid = np.linspace(-1, 1, 5)
  seen = [[0.0, 0.5]]
  every = jnp.asarray([[[*seen, [a, b]]] for a in grid for b in grid]).reshape(25, 1, 2, 2)
  hidden = jnp.asarray([[[False, False], [True, True]]])
  masked = jax.jit(jax.vmap(functools.partial(
    predictive_checks.masked_log_prob, family, params), in_axes=(0, None)
  ))  # fmt: skip
  right, left = masked(every, hidden), masked(every, ~hidden)
  assert float(jnp.sum(jnp.exp(right))) == pytest.approx(1, abs=1e-5)
  whole = jax.jit(jax.vmap(functools.partial(family.log_prob, params)))(every)
  np.testing.assert_allclose(left + right, whole, rtol=1e-5)


def test_a_family_without_an_exact_conditional_has_no_hidden_half(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr('structured_obs.distributions.posterior.MAX_DENSE_SIZE', 10)
  family, params = _params('circulant', ImageShape(*cases.MAIN_IMAGE))
  x = family.mean(params)
  assert predictive_checks.masked_log_prob(family, params, x, jnp.asarray(RIGHT)) is None


def test_checks_of_images_that_are_as_the_model_says(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(predictive_checks, 'SAMPLES', 50)
  family, params = _params('low_rank', ImageShape(4, 4, 1))
  narrow = gaussian.temper(family, params, 0.5)
  x = _draw(family, params, 150)
  keys = jax.random.split(jax.random.key(2), 150)

  @jax.jit
  def checks(own: Any) -> dict[str, Any]:
    return jax.vmap(lambda key, image: predictive_checks.of_image(family, key, own, image))(keys, x)

  right, wrong = checks(params), checks(narrow)
  assert predictive_checks.uniform_distance(np.mean(right['pit'], axis=0)) < 0.06
  assert predictive_checks.uniform_distance(np.mean(wrong['pit'], axis=0)) > 0.1
  worse = wrong[predictive_checks.VARIOGRAM] - right[predictive_checks.VARIOGRAM]
  unlikelier = right[predictive_checks.HIDDEN] - wrong[predictive_checks.HIDDEN]
  for gap in map(np.asarray, (worse, unlikelier)):
    assert gap.mean() > 3 * gap.std() / np.sqrt(len(gap))


def test_variogram_tells_correlations_that_marginals_do_not_see():
  """Pixels that all move together, beside independent ones of the same variances."""
  family, params = _params('low_rank', ImageShape(4, 4, 1))
  params = params._replace(cov_factor=jnp.ones_like(params.cov_factor))
  deviations = jnp.sqrt(gaussian.variance(family, params))
  independent = distributions.diagonal.Diagonal(family.mean(params), jnp.log(deviations))
  keys, x = jax.random.split(jax.random.key(2), 40), _draw(family, params, 40)

  def scores(own_family: Any, own: Any) -> np.ndarray:
    score = lambda key, image: predictive_checks.variogram_score(own_family, key, own, image)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(score))(keys, x))

  gap = scores(distributions.family('diagonal'), independent) - scores(family, params)
  assert gap.mean() > 3 * gap.std() / np.sqrt(len(gap))


def test_variogram_by_hand():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
  found, pairs = predictive_checks.variogram(x), predictive_checks.neighbours(x.shape)
  lag = predictive_checks.LAGS.index((1, 1))
  np.testing.assert_allclose(found[lag, 1, 2, 1], abs(x[1, 2, 1] - x[2, 3, 1]) ** 0.5, rtol=1e-6)
  assert pairs.sum(axis=(1, 2, 3))[lag] == 2 * 4 * 2
  assert pairs[predictive_checks.LAGS.index((4, 0))].sum() == 0


def _result(family: str, count: int) -> results.Result:
  """Scores of an untrained model, made up but for their number, of images of 256 levels."""
  model = trained(vae.VAE, family)
  model = model._replace(spec=model.spec._replace(levels=256))
  made_up: Any = dict.fromkeys(set(Scores._fields) - {'parts'}, np.zeros(count))
  scores = Scores(**made_up | {'counted': None, 'mahalanobis': np.linspace(0.5, 1.5, count)})
  dequantize = model.model.family.gaussian is not None
  model = model._replace(config=Config(objective=ObjectiveConfig(dequantize=dequantize)))
  return results.Result(model, Settings(256, dequantize=dequantize), scores)


def _mesh(devices: int) -> jax.sharding.Mesh:
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((devices,), ('batch',), axis_types=auto, devices=jax.devices()[:devices])


def test_neither_batch_nor_devices_matter(monkeypatch: pytest.MonkeyPatch):
  """Of the family whose conditionals are iterative and dense."""
  monkeypatch.setattr(predictive_checks, 'SAMPLES', 3)
  images = np.random.default_rng(0).integers(0, 256, (5, *IMAGE)).astype(np.uint8)
  whole = residuals.checks([_result('circulant', 5)], images, 1)['circulant']
  monkeypatch.setattr(residuals, 'BATCH', 2)
  where = passes.Where(_mesh(4))
  mapped = residuals.checks([_result('circulant', 5)], images, 1, where)['circulant']
  assert whole.scores.keys() == {predictive_checks.VARIOGRAM, predictive_checks.HIDDEN}
  for score, values in whole.scores.items():
    assert values.shape == (5,)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, mapped.scores[score], rtol=2e-4)
  assert whole.pit is not None
  assert whole.pit.sum() == pytest.approx(1, rel=1e-5)
  assert mapped.pit is not None
  np.testing.assert_allclose(whole.pit, mapped.pit, atol=1e-6)


@pytest.mark.slow
def test_a_density_and_a_probability_side_by_side(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(predictive_checks, 'SAMPLES', 3)
  images = np.random.default_rng(0).integers(0, 256, (5, *IMAGE)).astype(np.uint8)
  both = [_result('diagonal', 5), _result('discretized_logistic_mixture', 5)]
  found = residuals.checks(both, images)
  density, discrete = found.values()
  assert discrete.pit is None
  rows = {
    line.split('|')[1].strip(): line.split('|')[2:-1]
    for line in predicted_distributions.text(found).splitlines()
    if line.startswith('|')
  }
  hidden = [float(cell.split()[0]) for cell in rows['right half given left half and z, bits / value']]
  assert hidden[2] == pytest.approx(hidden[1] - hidden[0], abs=0.0011)
  of_whole = _bits_of_right_half(both[0], images)
  np.testing.assert_allclose(density.scores[predictive_checks.HIDDEN], of_whole, rtol=1e-4)
  assert not rows['variogram score of neighbours, times 1000'][2].strip()
  assert not rows['KS distance of PIT from uniform'][1].strip()
  tree = predicted_distributions.as_json(found)
  exact = scipy.stats.kstest(12 * np.linspace(0.5, 1.5, 5), scipy.stats.chi2(12).cdf).statistic
  assert tree['diagonal']['distance_of_q'] == pytest.approx(exact, abs=0.02)
  assert 'distance_of_q' not in tree['discretized_logistic_mixture']
  assert set(predicted_distributions.per_image(found)) >= {'diagonal/variogram_score'}
  assert len(predicted_distributions.draw(tmp_path, found)) == 2
  assert predicted_distributions.draw(tmp_path, {'one': discrete}) == {}
  without = discrete._replace(scores={predictive_checks.VARIOGRAM: np.ones(5)})
  assert 'one: no exact conditional' in predicted_distributions.text({'one': without})


def _bits_of_right_half(result: results.Result, images: np.ndarray) -> np.ndarray:
  """Of independent pixels, by the formula, of the images that a likelihood of the same seed is of."""
  model, variables = result.trained.model, result.trained.variables
  keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(0), i))[0])(
    jnp.arange(len(images), dtype=jnp.int32)
  )
  noise = jax.vmap(lambda key: jax.random.uniform(key, IMAGE, jnp.float32))(keys)
  x = images / np.float32(127.5) - 1 + (np.asarray(noise) - np.float32(0.5)) * np.float32(2 / 255)
  params: Any = model.apply(variables, None, jnp.asarray(x), method='reconstruct')
  mean, scale = np.asarray(params.mean), np.exp(np.asarray(params.log_scale))
  log_p = scipy.stats.norm.logpdf(x, mean, scale)
  return -log_p[:, :, 2:].mean(axis=(1, 2, 3)) / np.log(2) - np.log2(2 / 255)


def test_large_images_are_few():
  assert predictive_checks.num_images(64) == 256
  assert predictive_checks.num_images(64 * 64) == 64
  assert predictive_checks.num_images(218 * 178 * 3) == 8


def test_bad_parameters_are_not_told_as_numbers():
  family, params = _params('low_rank', ImageShape(3, 4, 1))
  x = family.mean(params)
  bad = params._replace(mean=params.mean.at[0, 0, 0].set(jnp.nan))
  one = jax.jit(functools.partial(predictive_checks.of_image, family))
  found = one(jax.random.key(0), bad, x)
  assert all(np.isnan(np.asarray(value)).any() for value in found.values())
