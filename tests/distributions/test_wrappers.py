"""Every wrapper over every family, and every pair of wrappers, against dense float64 algebra.

A wrapper added to `structured_obs.distributions.WRAPPERS` is picked up with its default options. The
covariance, or scale matrix, of the reference comes from the samples' map, the density from SciPy.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from structured_obs import distributions
from structured_obs.distributions import FAMILIES, WRAPPERS, base, elliptical, gaussian
from tests.distributions import cases

STATS: Any = scipy.stats  # distributions, whose stubs are of other types
pytestmark = pytest.mark.x64

IMAGE = base.ImageShape(3, 2, 3)
NEEDS_GAUSSIAN = ('scaled', 'low_rank_update', 'student')  # as their base
SMALL = {'low_rank': {'rank': 2}, 'sparse_precision': {'filter_size': 3, 'channels': 'pixel'}}
OPTIONS = {'low_rank_update': {'rank': 2}, 'colour': {'rotation': 'learned'}, 'haar': {'levels': 2}}
DENSITIES = [name for name in FAMILIES if not FAMILIES[name]().levels]
TWICE = ('scaled_circulant', ('scaled',))
ONE = [(name, (wrapper,)) for name in DENSITIES for wrapper in WRAPPERS if (name, (wrapper,)) != TWICE]
PAIRS = [('diagonal', (a, b)) for a in WRAPPERS for b in WRAPPERS if a != b]
REFUSED = [
  (name, pair) for name, pair in PAIRS
  if pair[0] in ('student', 'mixture') and pair[1] in NEEDS_GAUSSIAN
]  # fmt: skip
BUILT = ONE + [case for case in PAIRS if case not in REFUSED]


def _each(built: list[tuple[str, tuple[str, ...]]]) -> pytest.MarkDecorator:
  names = ['+'.join((name, *wrappers)) for name, wrappers in built]
  return pytest.mark.parametrize(('name', 'wrappers'), built, ids=names)


class Problem(NamedTuple):
  family: base.Family[Any]
  params: Any
  x: jax.Array


@functools.cache
def _problem(name: str, wrappers: tuple[str, ...]) -> Problem:
  inner = distributions.family(name, **SMALL.get(name, {}))
  options = {wrapper: OPTIONS[wrapper] for wrapper in wrappers if wrapper in OPTIONS}
  family, rng = distributions.wrapped(inner, wrappers, options), np.random.default_rng(0)
  scale = cases.OUTPUT_SCALES.get(name, 1.0) / 2
  outputs = {
    key: jnp.asarray(rng.normal(scale=scale, size=s)) for key, s in family.outputs(IMAGE).items()
  }
  return Problem(family, family.from_outputs(outputs), jnp.asarray(rng.normal(size=IMAGE)))


@functools.cache
def _found(name: str, wrappers: tuple[str, ...]) -> dict[str, Any]:
  family, params, x = _problem(name, wrappers)

  def everything(params: Any, x: jax.Array) -> dict[str, Any]:
    found = {'mean': family.mean(params), 'log_prob': family.log_prob(params, x)}
    if not elliptical.has_covariance(family):
      return found
    primitives = elliptical.primitives(family)
    basis = jnp.eye(x.size).reshape(x.size, *x.shape)
    return found | {
      'factor': _factor(primitives, params),
      'variance': primitives.variance(params),
      'channels': gaussian.channel_covariance_of(primitives, params, family.mean(params)),
      'distance': gaussian.mahalanobis(family, params, x),
      'log_det': primitives.log_det(params),
      'products': jax.vmap(lambda v: primitives.covariance_matvec(params, v).ravel())(basis),
      'inverse': jax.vmap(lambda v: primitives.precision_matvec(params, v).ravel())(basis),
      'temper': gaussian.mahalanobis(family, gaussian.temper(family, params, 0.5), x),
    }

  return jax.tree.map(np.asarray, jax.jit(everything)(params, x))


def _factor(primitives: base.Gaussian[Any], params: Any) -> jax.Array:
  """F of the map mean + F noise. [D, N]."""
  flat, unravel = ravel_pytree(primitives.noise(jax.random.key(0), params))
  return jax.jacfwd(lambda noise: primitives.reparameterize(params, unravel(noise)).ravel())(flat)


@_each([case for case in BUILT if 'mixture' not in case[1]])
@pytest.mark.few(7)
def test_against_dense_algebra(name: str, wrappers: tuple[str, ...]):
  (family, params, x), found = _problem(name, wrappers), _found(name, wrappers)
  cov = found['factor'] @ found['factor'].T
  residual = np.ravel(x - found['mean'])
  expected = {
    'log_prob': _log_prob(family, params, found['mean'].ravel(), cov, x),
    'variance': np.diag(cov).reshape(IMAGE),
    'channels': _blocks(cov),
    'distance': residual @ np.linalg.solve(cov, residual),
    'log_det': np.linalg.slogdet(cov)[1],
    'products': cov,
    'inverse': np.linalg.inv(cov),
    'temper': 4 * residual @ np.linalg.solve(cov, residual),
  }
  for key, value in expected.items():
    unit = max(1e-300, float(np.max(np.abs(value))))
    assert np.max(np.abs(found[key] - value)) <= 1e-9 * unit, key


def _log_prob(family: Any, params: Any, mean: NDArray[Any], cov: NDArray[Any], x: Any) -> float:
  if family.student is None:
    return STATS.multivariate_normal(mean, cov).logpdf(np.ravel(x))
  dof = float(family.student.dof(params))
  return STATS.multivariate_t(mean, cov, dof).logpdf(np.ravel(x))


def _blocks(cov: NDArray[Any]) -> NDArray[Any]:
  pixels, channels = IMAGE.height * IMAGE.width, IMAGE.channels
  cells = cov.reshape(pixels, channels, pixels, channels)[np.arange(pixels), :, np.arange(pixels)]
  return cells.reshape(*IMAGE, channels)


@_each([case for case in BUILT if case[1][-1] == 'mixture'])
@pytest.mark.few(2)
def test_a_mixture_is_that_of_its_components(name: str, wrappers: tuple[str, ...]):
  (_, params, x), found = _problem(name, wrappers), _found(name, wrappers)
  inner = distributions.family(name, **SMALL.get(name, {}))
  inner = distributions.wrapped(
    inner, wrappers[:-1], {w: OPTIONS[w] for w in wrappers[:-1] if w in OPTIONS}
  )
  parts = [jax.tree.map(lambda leaf, k=k: leaf[k], params.base) for k in range(2)]
  weights = np.exp(params.logits) / np.sum(np.exp(params.logits))
  logs = [float(inner.log_prob(part, x)) for part in parts]
  assert found['log_prob'] == pytest.approx(np.logaddexp(*(np.log(weights) + logs)), abs=1e-9)
  assert abs(logs[0] - logs[1]) > 1e-3


@_each([case for case in ONE if case[0] in ('diagonal', 'circulant')])
@pytest.mark.slow
def test_batches_gradients_and_samples(name: str, wrappers: tuple[str, ...]):
  family, params, x = _problem(name, wrappers)

  def loss(params: Any, x: jax.Array) -> jax.Array:
    return family.log_prob(params, x)

  batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (params, x))
  values, (by_params, by_x) = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))(*batch)
  np.testing.assert_allclose(values, loss(params, x), rtol=1e-9)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(by_params))
  assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(by_params) if leaf.size)
  step = 1e-6
  direction = np.random.default_rng(1).normal(size=IMAGE)
  slope = (loss(params, x + step * direction) - loss(params, x - step * direction)) / (2 * step)
  np.testing.assert_allclose(np.sum(by_x[0] * direction), slope, rtol=1e-5)
  drawn = jax.eval_shape(family.sample, jax.random.key(0), params)
  assert drawn.shape == tuple(IMAGE)


@pytest.mark.parametrize(
  'wrappers', [('colour',), ('colour', 'student'), ('low_rank_update', 'colour'), ('colour', 'colour')]
)
def test_kernels_blur_the_channels_that_the_wrappers_leave_independent(wrappers: tuple[str, ...]):
  inner = distributions.family('circulant', kernel_size=3, taps='raw', per_channel=True, scale='fixed')
  fixed = {'rotation': 'learned', 'scale': 'fixed'}, {'rotation': 'fixed', 'scale': 'fixed'}
  given, family = iter(fixed), inner
  for wrapper in wrappers:
    options = next(given) if wrapper == 'colour' else {'rank': 1} if wrapper != 'student' else {}
    family = WRAPPERS[wrapper](family, **options)
  rng = np.random.default_rng(0)
  shapes = family.outputs(IMAGE).items()
  outputs = {key: jnp.asarray(rng.normal(scale=0.3, size=shape)) for key, shape in shapes}
  if 'update_factor' in outputs:
    outputs['update_factor'] = 0 * outputs['update_factor']
  assert family.kernel is not None
  assert family.kernel_axes is not None
  params = family.from_outputs(outputs)
  axes, x = family.kernel_axes(params), rng.normal(size=IMAGE)
  np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
  kernel, turned = np.asarray(family.kernel(outputs)), x @ np.asarray(axes)
  blur = lambda v, k: scipy.ndimage.convolve(v, k, mode='wrap')  # noqa: E731
  twice = [blur(blur(turned[..., c], kernel[..., c]), kernel[::-1, ::-1, c]) for c in range(3)]
  expected = 0.1**2 * (np.stack(twice, axis=-1) @ np.asarray(axes).T + 0.025 * x)
  found = elliptical.primitives(family).covariance_matvec(params, jnp.asarray(x))
  np.testing.assert_allclose(found, expected, rtol=1e-9)


@_each(REFUSED)
def test_a_base_that_is_not_gaussian_is_refused(name: str, wrappers: tuple[str, ...]):
  with pytest.raises(ValueError, match='Gaussian'):
    distributions.wrapped(distributions.family(name), wrappers)


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_a_wrapper_is_used_once_and_not_over_gray_levels(wrapper: str):
  with pytest.raises(ValueError, match='twice'):
    distributions.wrapped(distributions.family('diagonal'), (wrapper, wrapper))
  with pytest.raises(ValueError, match=r'Gaussian|gray levels|probabilities of'):
    distributions.wrapped(distributions.family('discretized_logistic_mixture'), (wrapper,))
