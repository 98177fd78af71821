"""Discretised logistic mixtures against sums over all images, and differences in many digits."""

import itertools
import math
from decimal import Decimal, localcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from structured_obs.data import pixels
from structured_obs.distributions import base, kl
from structured_obs.distributions import discretized_logistic_mixture as dlm
from structured_obs.distributions.discretized_logistic_mixture import DiscretizedLogisticMixture
from tests.distributions.cases import assert_within, default_dtype, tolerance

_mean = jax.jit(dlm.mean)


def _params(channels: int, components: int, seed: int = 0) -> DiscretizedLogisticMixture:
  """Random parameters of one pixel: components of all widths, in and around [-1, 1]."""
  rng = np.random.default_rng(seed)
  pairs = channels * (channels - 1) // 2
  arrays = (
    rng.normal(size=(1, 1, components)),
    rng.normal(scale=0.8, size=(1, 1, channels, components)),
    rng.uniform(-6, 0, size=(1, 1, channels, components)),
    rng.uniform(-0.9, 0.9, size=(1, 1, pairs, components)),
  )
  return DiscretizedLogisticMixture(*(jnp.asarray(array, default_dtype()) for array in arrays))


def _colours(channels: int, levels: int) -> jax.Array:
  """Every image of one pixel. [levels^C, 1, 1, C]."""
  grid = np.asarray(pixels.to_unit(jnp.arange(levels), levels), np.float64)
  every = np.array(list(itertools.product(grid, repeat=channels)))
  return jnp.asarray(every[:, None, None], default_dtype())


def _log_probs(params: Any, x: jax.Array, levels: int) -> np.ndarray:
  found = jax.jit(jax.vmap(lambda x: dlm.log_prob(params, x, levels=levels)))(x)
  return np.asarray(found, np.float64)


@pytest.mark.parametrize(('channels', 'levels'), [(1, 2), (1, 256), (2, 33), (3, 17)])
def test_probabilities_of_all_images_sum_to_one(channels: int, levels: int):
  params, x = _params(channels, 4), _colours(channels, levels)
  assert abs(np.exp(_log_probs(params, x, levels)).sum() - 1) < tolerance(1e-12, 2e-6)


def test_probabilities_of_all_colours_of_256_levels_sum_to_one():
  """Two narrow components: nearly none of the 256^3 colours can be, and those that can are summed."""
  params, grid = _params(3, 2), np.asarray(_colours(1, 256)).ravel()
  params = params._replace(log_scales=jnp.full_like(params.log_scales, -6.0))
  params = params._replace(locs=jnp.clip(params.locs, -0.5, 0.5), coeffs=0.5 * params.coeffs)
  boxes = [_box(params, m, grid) for m in range(2)]
  seen = {tuple(colour) for box in boxes for colour in itertools.product(*box)}
  colours = jnp.asarray(np.array(sorted(seen))[:, None, None], default_dtype())
  total = np.exp(_log_probs(params, colours, 256)).sum()
  assert abs(total - 1) < 1e-4


def _box(params: Any, component: int, grid: np.ndarray) -> list[np.ndarray]:
  """Levels of each channel that hold all but 1e-5 of a component's probability."""
  locs = np.asarray(params.locs, np.float64)[0, 0, :, component]
  coeffs = np.asarray(params.coeffs, np.float64)[0, 0, :, component]
  reach = math.exp(-6.0) * 13
  low, high = [locs[0] - reach], [locs[0] + reach]
  for c, pairs in ((1, coeffs[:1]), (2, coeffs[1:])):
    ends = [sorted((k * low[j], k * high[j])) for j, k in enumerate(pairs)]
    low.append(locs[c] + sum(end[0] for end in ends) - reach)
    high.append(locs[c] + sum(end[1] for end in ends) + reach)
  step = 2 / 255
  return [grid[(grid > a - step) & (grid < b + step)] for a, b in zip(low, high, strict=True)]


def _exact(loc: float, log_scale: float, level: int, levels: int) -> float:
  """Log of the difference of two logistic functions, in as many digits as it takes."""
  with localcontext() as context:
    context.prec, context.Emin, context.Emax = 60, -(10**15), 10**15
    scale = Decimal(log_scale).exp()
    x = Decimal(2 * level - (levels - 1)) / (levels - 1)

    def cdf(edge: Decimal) -> Decimal:
      return 1 / (1 + (-(edge - Decimal(loc)) / scale).exp())

    half = Decimal(1) / (levels - 1)
    below = Decimal(0) if level == 0 else cdf(x - half)
    if level == levels - 1:  # 1 - cdf would lose the tail
      return float((1 / (1 + ((x - half - Decimal(loc)) / scale).exp())).ln())
    if x > Decimal(loc):  # mirrored, so that the difference is of small numbers
      return _exact(-loc, log_scale, levels - 1 - level, levels)
    return float((cdf(x + half) - below).ln())


@pytest.mark.parametrize('log_scale', [-9.0, -7.0, -6.307, -3.0, 0.0, 4.0, 12.0])
@pytest.mark.few(3)
def test_bins_against_differences_in_sixty_digits(log_scale: float):
  """Of one component, at locations inside, on and far beyond the grid's ends."""
  for loc in (-3.0, -1.0, -0.26171875, 0.5, 1.25):
    levels = (0, 1, 93, 94, 127, 254, 255)
    params = _one(loc, log_scale)
    x = jnp.asarray([2 * k / 255 - 1 for k in levels], default_dtype()).reshape(-1, 1, 1, 1)
    found = _log_probs(params, x, 256)
    exact = np.array([_exact(loc, float(params.log_scales[0, 0, 0, 0]), k, 256) for k in levels])
    # The location and the edges have a few ulps; a narrow component feels them, in float32.
    ulp = np.finfo(np.dtype(default_dtype())).eps
    slack = 8 * ulp * (1 + abs(loc)) * math.exp(-log_scale)
    assert_within(found, exact, np.maximum(np.abs(exact), 1e-3) + slack / 1e-6, 1e-12, 2e-6)


def _one(loc: float, log_scale: float) -> DiscretizedLogisticMixture:
  number = lambda value: jnp.full((1, 1, 1, 1), value, default_dtype())  # noqa: E731
  empty = jnp.zeros((1, 1, 0, 1), default_dtype())
  return DiscretizedLogisticMixture(number(0.0)[0], number(loc), number(log_scale), empty)


def test_values_and_gradients_are_finite_for_extreme_parameters():
  """In float32 too: locations in +-50, log scales in +-20, on every kind of bin."""
  rng = np.random.default_rng(3)
  shape = (40, 40, 3, 2)
  extreme = lambda size: rng.choice([-1.0, 0.0, 1.0, 0.3], shape) * size  # noqa: E731
  params = DiscretizedLogisticMixture(
    *(
      jnp.asarray(array, jnp.float32)
      for array in (extreme(30)[:, :, 0], extreme(50), extreme(20), np.tanh(extreme(5)))
    )
  )
  x = pixels.to_unit(jnp.asarray(rng.choice([0, 1, 128, 254, 255], shape[:3])), 256)
  value, gradient = jax.jit(jax.value_and_grad(dlm.log_prob))(params, x)
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(leaf)) for leaf in gradient)
  assert all(np.any(leaf != 0) for leaf in gradient)
  assert np.all(np.abs(_mean(params)) <= 1 + 1e-5)


@pytest.mark.x64
@pytest.mark.parametrize('channels', [1, 3])
def test_gradients_against_differences(channels: int):
  params = _params(channels, 3, seed=1)
  x = _colours(channels, 5)[7]
  flat, unravel = ravel_pytree(params)
  log_prob = lambda flat: dlm.log_prob(unravel(flat), x, levels=5)  # noqa: E731
  steps = 1e-6 * jnp.eye(flat.size, dtype=flat.dtype)
  above, below = (jax.jit(jax.vmap(log_prob))(flat[None] + h * steps) for h in (1, -1))
  slopes = (above - below) / 2e-6
  np.testing.assert_allclose(jax.jit(jax.grad(log_prob))(flat), slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.x64
@pytest.mark.parametrize('channels', [1, 3])
def test_samples_have_the_probabilities(channels: int):
  """How often each image is drawn, in standard deviations of a count."""
  levels, count = 3, 20_000
  params, x = _params(channels, 2, seed=4), _colours(channels, levels)
  draw = jax.jit(jax.vmap(lambda key: dlm.sample(key, params, levels)))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(0), count)))[:, 0, 0]
  index = np.rint((drawn + 1) / 2 * (levels - 1)).astype(int) @ levels ** np.arange(channels)[::-1]
  frequency = np.bincount(index, minlength=len(x)) / count
  probability = np.exp(_log_probs(params, x, levels))
  deviation = np.sqrt(probability * (1 - probability) / count) + 1 / count
  assert np.max(np.abs(frequency - probability) / deviation) < 4.5


@pytest.mark.x64
def test_samples_are_on_the_grid_and_published_ones_are_not():
  params, key = _params(3, 4), jax.random.key(2)
  draw = jax.jit(dlm.sample, static_argnames='exact')
  exact = draw(key, params)
  level = pixels.from_unit(exact)
  np.testing.assert_allclose(exact, pixels.to_unit(level), rtol=2e-7)
  assert np.isfinite(_log_probs(params, exact[None], 256))
  published = draw(key, params, exact=False)
  assert np.max(np.abs(published)) <= 1
  assert np.isnan(_log_probs(params, published[None], 256))
  # The first channel has seen no other: its rounded value is the exact sample's.
  assert pixels.from_unit(published)[0, 0, 0] == level[0, 0, 0]


@pytest.mark.x64
def test_mode_is_the_likeliest_component_channel_after_channel():
  shape = (1, 1, 1)
  locs = np.array([[0.21, 0.9], [0.4, -0.9], [-0.3, 0.9]])[None, None]
  coeffs = np.array([[0.5, 0.0], [-0.5, 0.0], [0.25, 0.0]])[None, None]
  arrays = (np.array([1.0, 0.5]).reshape(1, 1, 2), locs, np.full_like(locs, -1.0), coeffs)
  params = DiscretizedLogisticMixture(*(jnp.asarray(a, default_dtype()) for a in arrays))
  grid = np.linspace(-1, 1, 17)
  nearest = lambda value: grid[np.abs(grid - value).argmin()]  # noqa: E731
  red = nearest(0.21)
  green = nearest(0.4 + 0.5 * red)
  blue = nearest(-0.3 - 0.5 * red + 0.25 * green)
  np.testing.assert_allclose(dlm.mode(params, 17), np.array([red, green, blue]).reshape(*shape, 3)[0])


@pytest.mark.x64
@pytest.mark.parametrize('levels', [2, 17, 256])
def test_mean_is_within_half_a_level_of_the_exact_one(levels: int):
  for seed in range(5):
    params, x = _params(1, 4, seed), _colours(1, levels)
    exact = np.sum(np.exp(_log_probs(params, x, levels)) * np.asarray(x).ravel())
    assert abs(float(_mean(params)[0, 0, 0]) - exact) < 1 / (levels - 1) + 1e-5
  # Clipping pulls a mean near white inwards.
  np.testing.assert_allclose(_mean(_one(0.95, math.log(0.135)))[0, 0, 0], 0.879, atol=5e-4)


def test_mean_of_a_wide_component_keeps_its_decimals():
  """Clipped at -1 and 1 with almost equal odds: tanh of half the location over the scale."""
  for log_scale in (2.0, 8.0, 16.0):
    found = float(_mean(_one(50.0, log_scale))[0, 0, 0])
    np.testing.assert_allclose(found, math.tanh(25 * math.exp(-log_scale)), rtol=0.02, atol=3e-7)


@pytest.mark.x64
def test_means_of_coupled_channels():
  """Exact where nothing is clipped."""
  logits, locs, log_scales, coeffs = _params(3, 2, seed=2)
  params = DiscretizedLogisticMixture(logits, 0.2 * locs, 0 * log_scales - 4, 0.5 * coeffs)
  x = _colours(3, 33)
  exact = np.exp(_log_probs(params, x, 33)) @ np.asarray(x)[:, 0, 0]
  np.testing.assert_allclose(_mean(params)[0, 0], exact, atol=2e-3)


@pytest.mark.x64
@pytest.mark.parametrize('x', [(-1, 0.25, 1), (1, -1, -0.5)])
def test_derivatives_in_closed_form_are_those_of_the_formula(x: tuple[float, ...]):
  """Of two orders, with bins inside and at both ends."""
  params, image = _params(3, 3), jnp.asarray(x, default_dtype()).reshape(1, 1, 3)
  direction = _params(3, 3, seed=1)

  def both(function: Any) -> Any:
    gradient = jax.grad(lambda params: jnp.sum(function(params, image, 9)))
    return jax.jit(lambda params: jax.jvp(gradient, (params,), (direction,)))(params)

  found, expected = both(dlm.log_prob), both(dlm.log_prob_by_pixel)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.x64
@pytest.mark.parametrize('shift', [0.02, -0.3, 0.5])
def test_images_off_the_grid_are_nan(shift: float):
  """In levels; an image a thousandth of a level away is taken for the level."""
  params, x = _params(1, 3), _colours(1, 9)[4]
  near = jax.jit(dlm.log_prob, static_argnums=2)
  assert near(params, x + 0.0005 / 4, 9) == near(params, x, 9)
  moved = x + shift / 4
  assert np.isnan(near(params, moved, 9))
  assert np.isnan(near(params, jnp.full_like(x, 1.25), 9))
  gradient = jax.jit(jax.grad(dlm.log_prob), static_argnums=2)
  assert np.all(np.isnan(gradient(params, moved, 9).locs))


@pytest.mark.x64
def test_entropy_by_monte_carlo():
  params, x = _params(1, 3), _colours(1, 17)
  log_probs = _log_probs(params, x, 17)
  exact = -np.sum(np.exp(log_probs) * log_probs)
  family = dlm.family(components=3, levels=17)
  found = kl.entropy_monte_carlo(jax.random.key(0), family, params, 2000)
  assert abs(float(found.value) - exact) < 4.5 * float(found.standard_error)
  assert float(found.standard_error) < 0.05
  with pytest.raises(ValueError, match='samples must be from 2'):
    kl.entropy_monte_carlo(jax.random.key(0), family, params, 1)


@pytest.mark.x64
def test_outputs_become_parameters():
  family = dlm.family(components=2, min_log_scale=-7, initial_log_scale=-1.5, max_log_scale=2)
  image = base.ImageShape(4, 5, 3)
  shapes = family.outputs(image)
  assert shapes == {
    'logits': (4, 5, 2), 'locs': (4, 5, 6), 'log_scales': (4, 5, 6), 'coeffs': (4, 5, 6)
  }  # fmt: skip
  assert 'coeffs' not in family.outputs(image._replace(channels=1))
  scales = jnp.asarray([-1e3, 0.0, 1e3], default_dtype())
  outputs = {name: jnp.zeros(shape, default_dtype()) for name, shape in shapes.items()}
  outputs['log_scales'] = jnp.broadcast_to(jnp.repeat(scales, 2), (4, 5, 6))
  outputs['coeffs'] = outputs['coeffs'] + 3
  params = family.from_outputs(outputs)
  np.testing.assert_allclose(params.log_scales[0, 0, :, 0], [-7, -1.5, 2], rtol=1e-5)
  np.testing.assert_allclose(params.coeffs, math.tanh(3), rtol=1e-6)
  assert family.levels == 256
  assert family.mode is not None
  assert family.gaussian is None


@pytest.mark.x64
def test_scalar_gaussian_operations_say_what_they_need():
  family = dlm.family(components=3, levels=17)
  params = _params(1, 3)
  other = dlm.family(components=3, levels=17)
  found = kl.kl_monte_carlo(jax.random.key(0), family, params, other, _params(1, 3, seed=5), 200)
  assert float(found.value) > -4 * float(found.standard_error)
  with pytest.raises(ValueError, match='kl_monte_carlo'):
    kl.kl_divergence(family, params, other, params)
