"""What the conformance tests run on: every registered family, on images of several shapes.

A family added to `structured_obs.distributions.FAMILIES` is picked up with its default options.
Parameters are `from_outputs` of random outputs, so nothing here knows a family's parameters; sets of
options worth testing beside the defaults stand in OPTIONS. A *generic* case is a family
without its own closed forms, so that the operations written once for all families are tested too.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from structured_obs.distributions import FAMILIES
from structured_obs.distributions.base import Family, Gaussian, ImageShape
from tests.distributions import operations

OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
  'low_rank': ({'rank': 0}, {'rank': 3, 'learn_diag': True}),
  'sparse_precision': ({'filter_size': 3, 'channels': 'full', 'parametrization': 'raw'},),
  'circulant': ({'reflect': True, 'per_channel': True},),
  'discretized_logistic_mixture': ({'components': 1, 'levels': 5},),
}
# Size of random outputs where 1 is too much: a pixel's many links would make the covariance singular.
OUTPUT_SCALES = {'dense_precision': 0.3, 'sparse_precision': 0.5}
IMAGES = ((4, 4, 1), (3, 5, 2), (4, 3, 3), (1, 6, 1), (5, 1, 3))
# Of families that take long to compile, and whose grids have tests of every shape of their own.
FEWER_IMAGES = {
  'sparse_precision': ((1, 6, 1),),
  'dense_precision': ((4, 3, 3),),
  'circulant': ((5, 1, 3),),
  'low_rank': ((5, 1, 3),),
}
# A family in a wrapper: test_scaled and test_wrappers have it.
COMPOSED = ('scaled_circulant',)
MAIN_IMAGE = (3, 4, 2)


class Case(NamedTuple):
  """One family with its options on one image shape."""

  name: str
  options: tuple[tuple[str, Any], ...]
  image: tuple[int, int, int]
  generic: bool = False  # take the family's optional closed forms away

  def __str__(self) -> str:
    options = ','.join(f'{key}={value}' for key, value in self.options)
    kind = 'generic-' if self.generic else ''
    return f'{kind}{self.name}({options})-' + 'x'.join(map(str, self.image))


class Problem(NamedTuple):
  """A case with valid random parameters and, where it is Gaussian, its dense float64 counterpart."""

  family: Family[Any]
  image: ImageShape
  params: Any
  x: jax.Array  # [H, W, C], drawn from the distribution
  mean: NDArray[np.float64]  # [D]
  factor: NDArray[np.float64]  # [D, N] with factor factor^T = covariance; empty if not Gaussian

  @property
  def cov(self) -> NDArray[np.float64]:
    return self.factor @ self.factor.T

  @property
  def size(self) -> int:
    return self.mean.size


def main_cases() -> list[Case]:
  """Each family with each set of options, on one image."""
  return [
    Case(name, tuple(options.items()), MAIN_IMAGE)
    for name in FAMILIES
    for options in ({}, *OPTIONS.get(name, ()))
    if name not in COMPOSED
  ]


def shape_cases() -> list[Case]:
  """Each family's defaults on odd, even and one-pixel-thin images."""
  families = [name for name in FAMILIES if name not in COMPOSED]
  return [Case(name, (), image) for name in families for image in FEWER_IMAGES.get(name, IMAGES)]


def generic_cases() -> list[Case]:
  """One family without its own closed forms."""
  options = (('rank', 3), ('learn_diag', True))
  return [Case('low_rank', options, MAIN_IMAGE, generic=True)]


def gaussian_only(cases: list[Case]) -> list[Case]:
  return [case for case in cases if family_of(case).gaussian is not None]


def each(cases: list[Case], argument: str = 'case') -> pytest.MarkDecorator:
  """Parametrises a test over cases; in float32 over the main ones, as shapes do not change rounding.

  Of a family that is the same on many shapes the quick run takes the main one and the thin ones.
  """
  marked = [pytest.param(case, id=str(case), marks=_marks(case)) for case in cases]
  return pytest.mark.parametrize(argument, marked)


def _marks(case: Case) -> list[pytest.MarkDecorator]:
  if case.image == MAIN_IMAGE and not case.generic:
    return []
  wide = case.image in IMAGES and 1 not in case.image[:2]
  return [pytest.mark.x64, *([pytest.mark.slow] if wide and case.name not in FEWER_IMAGES else [])]


@functools.cache
def make_family(name: str, options: tuple[tuple[str, Any], ...], generic: bool = False) -> Family[Any]:
  """One record per family and options: a second one would miss jit's cache."""
  family = FAMILIES[name](**dict(options))
  if not generic or family.gaussian is None:
    return family
  closed_forms = dict.fromkeys(set(Gaussian._field_defaults) - {'excess_entropy'})
  return family._replace(gaussian=family.gaussian._replace(**closed_forms))


def family_of(case: Case) -> Family[Any]:
  return make_family(case.name, case.options, case.generic)


def default_dtype() -> Any:
  return jnp.zeros(()).dtype


def random_params(case: Case, seed: int = 0, dtype: Any = None) -> Any:
  """Parameters of a case from random network outputs."""
  family = family_of(case)
  rng = np.random.default_rng(seed)
  dtype = dtype or default_dtype()
  shapes = family.outputs(ImageShape(*case.image))
  scale = OUTPUT_SCALES.get(case.name, 1.0)
  outputs = {name: jnp.asarray(rng.normal(scale=scale, size=s), dtype) for name, s in shapes.items()}
  return jax.jit(family.from_outputs)(outputs)


def noise_factor(family: Family[Any], params: Any) -> NDArray[np.float64]:
  """F [D, N] of the affine map x = mean + F noise: its Jacobian, evaluated in float64."""
  assert family.gaussian is not None
  gaussian = family.gaussian

  @jax.jit
  def factor(params: Any) -> jax.Array:
    flat, unravel = ravel_pytree(gaussian.noise(jax.random.key(0), params))
    image_of = lambda noise: gaussian.reparameterize(params, unravel(noise)).ravel()  # noqa: E731
    return jax.jacfwd(image_of)(jnp.zeros_like(flat))

  with jax.enable_x64(True):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    return np.asarray(factor(params))


@functools.cache
def make_problem(case: Case, seed: int = 0) -> Problem:
  """A case's problem; cached, as every test of the case starts from it."""
  family = family_of(case)
  params = random_params(case, seed)
  mean = np.asarray(family.mean(params), np.float64).ravel()
  image = ImageShape(*case.image)
  if family.gaussian is None:
    x = jax.jit(family.sample)(jax.random.key(seed), params)
    return Problem(family, image, params, x, mean, np.zeros((mean.size, 0)))
  factor = noise_factor(family, params)
  x = mean + factor @ np.random.default_rng(seed + 1).normal(size=factor.shape[1])
  return Problem(family, image, params, as_image(x, image), mean, factor)


def as_image(values: Any, image: ImageShape) -> jax.Array:
  """A flat vector as an image of the run's precision."""
  return jnp.asarray(np.reshape(values, tuple(image)), default_dtype())


def random_mask(image: ImageShape, seed: int = 0) -> NDArray[np.bool_]:
  return np.random.default_rng(seed).random(tuple(image)) < 0.5


@functools.cache
def _jitted(function: Callable[..., Any], family: Family[Any], static: tuple[Any, ...]) -> Any:
  return jax.jit(functools.partial(function, family, **dict(static)))


def run(function: Callable[..., Any], problem: Problem, *args: Any, **static: Any) -> Any:
  """`function(family, params, *args, **static)`, compiled once per family."""
  return _jitted(function, problem.family, tuple(static.items()))(problem.params, *args)


@functools.cache
def compiled(
  case: Case, operation: Callable[..., Any] = operations.all_operations, mapped: bool = False
) -> Any:
  """One function of `operations` for a case, or its map over a batch of all arguments."""
  operation = functools.partial(operation, family_of(case))
  return jax.jit(jax.vmap(operation) if mapped else operation)


def arguments(
  case: Case,
  seed: int = 0,
  x: Any = None,
  observed: Any = None,
  noise_variance: float = 0.1,
) -> tuple[Any, ...]:
  """Arguments of `operations.all_operations` behind the family."""
  problem = make_problem(case, seed)
  x = problem.x if x is None else x
  mask = random_mask(problem.image, seed) if observed is None else observed
  variance = jnp.asarray(noise_variance, default_dtype())
  return problem.params, x, jax.random.key(seed), jnp.asarray(mask), variance


@functools.cache
def results(case: Case) -> dict[str, Any]:
  """`operations.dense_operations` of a case, with the default arguments."""
  return compiled(case, operations.dense_operations)(*arguments(case)[:3])


def tolerance(float64: float, float32: float) -> float:
  """The bound that belongs to the run's precision."""
  return float64 if default_dtype() == jnp.float64 else float32


def assert_close(actual: Any, expected: Any, float64: float, float32: float) -> None:
  """Bounds the largest difference of two arrays, relative to the largest expected entry."""
  largest = np.max(np.abs(np.asarray(expected, np.float64)), initial=1e-300)
  assert_within(actual, expected, largest, float64, float32)


def assert_within(actual: Any, expected: Any, unit: Any, float64: float, float32: float) -> None:
  """Bounds the largest difference of two arrays in a unit, or in units of each entry's own."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.shape == expected.shape, f'{actual.shape} != {expected.shape}'
  assert np.all(np.isfinite(actual)), actual
  error = np.max(np.abs(actual - expected) / unit, initial=0)
  assert error <= tolerance(float64, float32), f'error {error:.3g}'


def check_components(problem: Problem, found: Any, k: int | None = None) -> None:
  """Compares the k leading components, or all, with those of the dense covariance."""
  k = problem.size if k is None else k
  spectrum = np.linalg.eigvalsh(problem.cov)[::-1]
  values, vectors = np.asarray(found.values, np.float64), np.asarray(found.vectors, np.float64)
  assert vectors.shape == (k, *problem.image)
  rows = vectors.reshape(k, -1)
  assert np.max(np.abs(values - spectrum[:k])) <= tolerance(1e-12, 3e-6) * spectrum[0]
  assert_close(rows @ rows.T, np.eye(k), 1e-10, 1e-5)
  error = rows @ problem.cov - values[:, None] * rows
  assert np.max(np.abs(error)) <= tolerance(1e-10, 4e-6) * spectrum[0]
