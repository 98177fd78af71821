"""Images whose small version is given: probabilities against their definition, samples, and corners."""

import decimal
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import base, consistent_mixture
from structured_obs.models import compression

Dec = decimal.Decimal


@functools.cache
def family(levels: int, factor: int = 2, components: int = 2) -> Any:
  inner = distributions.family('discretized_logistic_mixture', components=components, levels=levels)
  return consistent_mixture.family(inner, factor)


def params_of(
  shape: tuple[int, int, int], y: np.ndarray, levels: int, factor: int = 2, log_scale: float = 0.0
) -> Any:
  made, draw = family(levels, factor), np.random.default_rng(3)
  outputs = {name: jnp.asarray(draw.normal(size=size)) for name, size in made.outputs(shape).items()}
  outputs['log_scales'] = outputs['log_scales'] * 0.3 + log_scale
  return made.from_outputs({**outputs, 'y': jnp.asarray(2 * y / (levels - 1) - 1.0)})


def all_images(shape: tuple[int, int, int], levels: int) -> np.ndarray:
  """Every image of a shape, in levels."""
  values = itertools.product(range(levels), repeat=int(np.prod(shape)))
  return np.array(list(values)).reshape(-1, *shape)


def unit(image: np.ndarray, levels: int) -> jax.Array:
  return jnp.asarray(2 * image / (levels - 1) - 1.0)


@pytest.mark.parametrize(('factor', 'channels', 'levels'), [(2, 1, 4), (2, 2, 2), (3, 1, 2)])
@pytest.mark.x64
def test_probabilities_of_the_images_that_agree_with_y_sum_to_one(factor, channels, levels):
  shape = (factor, factor, channels)
  images = all_images(shape, levels)
  log_prob = jax.jit(jax.vmap(family(levels, factor).log_prob, (None, 0)))
  for y in range(levels):
    params = params_of(shape, np.full((1, 1, channels), y), levels, factor)
    found = np.asarray(log_prob(params, unit(images, levels)))
    number = factor**2
    agree = np.all((2 * images.sum(axis=(1, 2)) + number) // (2 * number) == y, axis=-1)
    assert np.all(found[~agree] == -np.inf)
    np.testing.assert_allclose(np.sum(np.exp(found)), 1, rtol=1e-9)


@pytest.mark.x64
def test_samples_have_these_probabilities():
  levels, number = 4, 20000
  params = params_of((2, 2, 1), np.full((1, 1, 1), 1), levels)
  images = all_images((2, 2, 1), levels)
  probability = jnp.exp(
    jax.jit(jax.vmap(family(levels).log_prob, (None, 0)))(params, unit(images, levels))
  )
  keys = jax.random.split(jax.random.key(0), number)
  drawn = np.asarray(jax.jit(jax.vmap(family(levels).sample, (0, None)))(keys, params))
  codes = np.round((drawn.reshape(number, -1) + 1) * (levels - 1) / 2).astype(int) @ [64, 16, 4, 1]
  counts = np.bincount(codes, minlength=len(images))
  expected = np.asarray(probability) * number
  likely = expected > 5
  score = np.sum((counts - expected)[likely] ** 2 / expected[likely])
  assert score < likely.sum() + 5 * np.sqrt(2 * likely.sum())  # chi squared
  assert counts[expected == 0].sum() == 0


@pytest.mark.x64
@pytest.mark.parametrize('factor', [2, 4])
@pytest.mark.few(2)
def test_samples_and_modes_shrink_to_y_exactly(factor):
  shape, draw = (8, 12, 3), np.random.default_rng(1)
  definition = compression.make(256, factor=factor)
  small = (8 // factor, 12 // factor, 3)
  y = draw.integers(0, 256, small)
  y[0, 0], y[0, 1] = 0, 255
  params = params_of(shape, y, 256, factor, log_scale=-1.0)
  made = family(256, factor)
  sample, log_prob = jax.jit(made.sample), jax.jit(made.log_prob)
  drawn = [sample(key, params) for key in jax.random.split(jax.random.key(2), 3)]
  for x in (*drawn, jax.jit(made.mode)(params)):
    np.testing.assert_array_equal(
      compression.compress(definition, x), base.round_to_levels(params.y, 256)
    )
    assert np.isfinite(log_prob(params, x))
  by_pixel = jax.jit(made.log_prob_by_pixel)(params, drawn[0])
  np.testing.assert_allclose(jnp.sum(by_pixel), log_prob(params, drawn[0]))


@pytest.mark.x64
def test_mean_is_that_of_samples_where_nothing_is_truncated():
  y = np.full((1, 2, 2), 128)
  params = params_of((2, 4, 2), y, 256, log_scale=-2.5)
  mixture = params.mixture._replace(locs=params.mixture.locs * 0.05)
  params = params._replace(mixture=mixture)
  keys = jax.random.split(jax.random.key(0), 20000)
  drawn = jax.jit(jax.vmap(family(256).sample, (0, None)))(keys, params)
  error = 5 * np.std(drawn, axis=0) / np.sqrt(len(keys)) + 2 / 255
  assert np.all(np.abs(np.mean(drawn, axis=0) - jax.jit(family(256).mean)(params)) < error)


@pytest.mark.x64
def test_mean_is_near_that_of_samples_where_much_is_truncated():
  y = np.array([[[0], [3], [15], [8]]])
  params = params_of((2, 8, 1), y, 16, log_scale=-1.0)
  mixture = params.mixture._replace(locs=5 * params.mixture.locs)  # far outside of [-1, 1]
  params = params._replace(mixture=mixture)
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = np.asarray(jax.jit(jax.vmap(family(16).sample, (0, None)))(keys, params))
  found = np.asarray(jax.jit(family(16).mean)(params))
  assert np.sqrt(np.mean(np.square(found - drawn.mean(axis=0)))) < 0.1 * np.std(drawn)
  blocks = found.reshape(1, 2, 4, 2).mean(axis=(1, 3))
  assert np.abs(blocks - np.asarray(params.y)[..., 0]).max() <= 1.01 / 15  # half a level


def oracle(params: Any, x: np.ndarray, levels: int, factor: int) -> Dec:
  """The definition, one pixel after the other, with 60 digits."""
  top, number = levels - 1, factor**2
  exact = [np.vectorize(lambda v: Dec(float(v)), otypes=[object])(part) for part in params.mixture]
  logits, locs, log_scales, coeffs = exact
  height, width, channels, components = locs.shape
  weights = np.vectorize(lambda v: v.exp(), otypes=[object])(logits)
  weights = weights / weights.sum(axis=-1, keepdims=True)
  stated = (weights[:, :, None] * locs).sum(axis=-1)
  cumulative = lambda v: 1 / (1 + (-v).exp())  # noqa: E731
  value = lambda level: Dec(2 * int(level)) / top - 1  # noqa: E731
  total = Dec(0)
  for row, column in itertools.product(range(height // factor), range(width // factor)):
    places = [
      (row * factor + i, column * factor + j) for i, j in itertools.product(range(factor), range(factor))
    ]
    y = np.round((np.asarray(params.y[row, column], np.float64) + 1) * top / 2).astype(int)
    before = np.zeros(channels, int)
    for index, place in enumerate(places):
      left = number - index
      likelihood = [weights[place][m] for m in range(components)]
      for m in range(components):
        off: list[Dec] = []
        for c in range(channels):
          ahead = sum((stated[p][c] for p in places[index:]), Dec(0)) / left
          rest = Dec(2 * int(number * y[c] - before[c])) / (left * top) - 1
          loc = locs[place][c, m] + rest - ahead
          first = c * (c - 1) // 2
          loc += sum((coeffs[place][first + j, m] * v for j, v in enumerate(off)), Dec(0))
          scale = log_scales[place][c, m].exp()
          least = max(0, number * y[c] - number // 2 - before[c] - (left - 1) * top)
          largest = min(top, number * y[c] + (number - 1) // 2 - before[c])

          def mass(low, high, loc=loc, scale=scale):
            upper = Dec(1) if high == top else cumulative((value(high) + Dec(1) / top - loc) / scale)
            lower = Dec(0) if low == 0 else cumulative((value(low) - Dec(1) / top - loc) / scale)
            return upper - lower

          level = int(x[place][c])
          likelihood[m] *= mass(level, level) / mass(least, largest)
          off.append(value(level) - loc)
      total += sum(likelihood, Dec(0)).ln()
      before += x[place]
  return total


@pytest.mark.parametrize('log_scale', [-5.0, -2.0, 1.0])
def test_float32_agrees_with_sixty_digits(log_scale):
  made, shape = family(256), (2, 4, 2)
  y = np.array([[[0, 255], [100, 131]]])
  params = params_of(shape, y, 256, log_scale=log_scale)
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
  x = np.asarray(jax.jit(made.sample)(jax.random.key(0), params))
  level = np.round((x + 1) * 127.5).astype(int)
  with decimal.localcontext() as context:
    context.prec = 60 + 400  # of differences in the far tails
    expected = float(oracle(params, level, 256, 2))
  found = jax.jit(made.log_prob)(params, jnp.asarray(x))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize('y', [0, 255])
def test_gradients_are_finite_at_the_corners(y):
  made, shape = family(256), (2, 2, 3)
  slopes = jax.jit(
    jax.value_and_grad(
      lambda mixture, y, x: made.log_prob(consistent_mixture.ConsistentMixture(mixture, y), x)
    )
  )
  for log_scale in (-6.0, 2.0):
    params = params_of(shape, np.full((1, 1, 3), y), 256, log_scale=log_scale)
    found = slopes(params.mixture, params.y, unit(np.full(shape, y), 256))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_gradients_agree_with_differences():
  made, shape = family(16), (2, 2, 2)
  params = params_of(shape, np.full((1, 1, 2), 7), 16, log_scale=-1.0)
  x = jax.jit(made.sample)(jax.random.key(1), params)
  log_prob = jax.jit(lambda mixture: made.log_prob(params._replace(mixture=mixture), x))
  jax.test_util.check_grads(log_prob, (params.mixture,), 1, ['fwd', 'rev'])


@pytest.mark.x64
def test_what_is_invalid_is_nan_or_refused():
  made, shape = family(256), (2, 2, 1)
  params = params_of(shape, np.full((1, 1, 1), 9), 256)
  sample, mean, log_prob = jax.jit(made.sample), jax.jit(made.mean), jax.jit(made.log_prob)
  x = sample(jax.random.key(0), params)
  assert np.isnan(log_prob(params, x + 0.3 / 255))
  for name in params.mixture._fields[:3]:
    bad = params.mixture._replace(**{name: getattr(params.mixture, name).at[0, 0, 0].set(jnp.nan)})
    bad = params._replace(mixture=bad)
    assert np.isnan(log_prob(bad, x))
    assert np.isnan(sample(jax.random.key(0), bad)).all()
    assert np.isnan(mean(bad)).all()
  assert np.isnan(log_prob(params._replace(y=params.y * jnp.nan), x))
  with pytest.raises(ValueError, match='mask'):
    made.log_prob(params, x, jnp.ones((2, 2, 1), bool))
  with pytest.raises(ValueError, match='divide by 2'):
    made.outputs((3, 4, 1))
  with pytest.raises(ValueError, match='at least 2'):
    consistent_mixture.family(distributions.family('discretized_logistic_mixture'), 1)
  with pytest.raises(ValueError, match='gray levels'):
    consistent_mixture.family(distributions.family('diagonal'), 2)
