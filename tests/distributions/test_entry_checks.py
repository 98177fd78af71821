"""What every operation of every family checks at its entry, whichever way it is called.

Shapes are checked while tracing, so that most of these tests compile nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import (
  circulant,
  dense_precision,
  gaussian,
  kl,
  low_rank,
  probabilistic_pca,
)
from structured_obs.distributions.base import Family, Gaussian
from tests.distributions import cases
from tests.distributions.cases import Case, each

pytestmark = pytest.mark.x64  # checks are alike in both precisions

IMAGE = (2, 3, 1)
CASES = [case._replace(image=IMAGE) for case in cases.main_cases()]
GAUSSIAN = cases.gaussian_only(CASES)
KEY = jax.random.key(0)


def _image_operations(family: Family[Any]) -> dict[str, Callable[[Any, Any], Any]]:
  """(params, image) -> result, for each operation that takes an image."""
  found: dict[str, Callable[[Any, Any], Any]] = {'log_prob': family.log_prob}
  ops = family.gaussian
  if ops is None:
    return found
  observed = jnp.zeros(IMAGE, bool)
  found |= {
    'whiten': ops.whiten,
    'covariance_matvec': ops.covariance_matvec,
    'precision_matvec': ops.precision_matvec,
    'gaussian.mahalanobis': functools.partial(gaussian.mahalanobis, family),
    'gaussian.condition': lambda p, x: gaussian.condition(family, p, x, observed).mean,
    'gaussian.posterior_mean': lambda p, x: gaussian.posterior_mean(family, p, x, 0.1),
  }
  if ops.condition:
    condition = ops.condition
    found['condition'] = lambda p, x: condition(p, x, observed).mean
  if ops.posterior_mean:
    posterior_mean = ops.posterior_mean
    found['posterior_mean'] = lambda p, x: posterior_mean(p, x, jnp.asarray(0.1))
  if ops.white_image:
    found['white_image'] = ops.white_image
  found['gaussian.white_image'] = functools.partial(gaussian.white_image, family)
  return found


def _of_an_image(family: Family[Any], x: Any) -> dict[str, Callable[[Any], Any]]:
  """params -> result, for each operation on this image."""
  operations = _image_operations(family)
  return {name: lambda params, one=one: one(params, x) for name, one in operations.items()}


def _primitives(family: Family[Any]) -> Gaussian[Any]:
  assert family.gaussian is not None
  return family.gaussian


def _own_operations(family: Family[Any]) -> dict[str, Callable[[Any], Any]]:
  """params -> result, for each operation that takes nothing else."""
  found: dict[str, Callable[[Any], Any]] = {'sample': functools.partial(family.sample, KEY)}
  if family.mode:
    found['mode'] = family.mode
  ops = family.gaussian
  if ops is None:
    return found | {'mean': family.mean}
  found |= {
    'log_det': ops.log_det,
    'variance': ops.variance,
    'gaussian.entropy': functools.partial(gaussian.entropy, family),
    'gaussian.covariance': functools.partial(gaussian.covariance, family),
    'gaussian.correlation': lambda p: gaussian.correlation(family, p, (0, 1, 0)),
    'gaussian.principal_components': lambda p: gaussian.principal_components(family, p, 2).values,
    'kl_divergence': lambda p: kl.kl_divergence(family, p, family, p),
  }
  for name in ('excess_entropy', 'innovation_variance'):
    if operation := getattr(ops, name):
      found[name] = operation
  return found


@each(CASES)
@pytest.mark.few(2)
def test_images_of_another_shape_are_refused(case: Case):
  """Also of a shape that would broadcast to that of the image."""
  family, params = cases.family_of(case), cases.random_params(case)
  for operation in _image_operations(family).values():
    for shape in ((), (1,), (3, 1), (2, 1, 1), (1, 2, 3, 1), (2, 3, 3)):
      with pytest.raises(ValueError, match='must have shape'):
        jax.eval_shape(operation, params, jnp.zeros(shape))
    with pytest.raises(TypeError, match='must be a floating-point array'):
      jax.eval_shape(operation, params, jnp.zeros(IMAGE, jnp.int32))


@each(CASES)
def test_parameters_of_another_shape_are_refused(case: Case):
  family, params = cases.family_of(case), cases.random_params(case)
  leaves, tree = jax.tree.flatten(params)
  for i, leaf in enumerate(leaves):
    wrong = tree.unflatten([*leaves[:i], leaf[None, None], *leaves[i + 1 :]])
    for operation in (*_own_operations(family).values(), family.mean):
      with pytest.raises(ValueError, match=r'must have shape|must be over images'):
        jax.eval_shape(operation, wrong)


@each(GAUSSIAN)
def test_noise_and_temperature_of_another_shape_are_refused(case: Case):
  family, params = cases.family_of(case), cases.random_params(case)
  ops = _primitives(family)
  noise = ops.noise(KEY, params)
  for shape in ((1,), (3, 1), (2, 3, 3)):
    with pytest.raises(ValueError, match='must have shape'):
      jax.eval_shape(ops.reparameterize, params, jax.tree.map(lambda _, s=shape: jnp.zeros(s), noise))
    with pytest.raises(ValueError, match='noise_variance must have shape'):
      gaussian.posterior_mean(family, params, jnp.zeros(IMAGE), jnp.zeros(shape))
    for temper in (functools.partial(gaussian.temper, family), ops.temper):
      with pytest.raises(ValueError, match='temperature must have shape'):
        temper(params, jnp.ones(shape))


@each(GAUSSIAN)
def test_a_temperature_that_is_none_leaves_nothing(case: Case):
  family, params = cases.family_of(case), cases.random_params(case)
  ops = _primitives(family)
  for temperature in (0.0, -1.0, np.nan, np.inf):
    own: Any = ops.temper
    for temper in (functools.partial(gaussian.temper, family), own):
      assert np.isnan(ops.log_det(temper(params, temperature)))


@each(CASES)
def test_outputs_of_another_shape_are_refused(case: Case):
  """Also of one that would broadcast."""
  family = cases.family_of(case)
  shapes = family.outputs(cases.ImageShape(*IMAGE))
  outputs = {name: jnp.zeros(shape) for name, shape in shapes.items()}
  for name, shape in shapes.items():
    for wrong in ((*shape, 1), (7, *shape), (*shape[:-2], *(1 + size for size in shape[-2:]))):
      changed = shapes | {name: wrong}
      if wrong == shape or (len(wrong) == 3 and family.outputs(cases.ImageShape(*wrong)) == changed):
        continue  # that of another image, where the mean alone says how large an image is
      with pytest.raises((ValueError, TypeError), match='output'):
        jax.eval_shape(family.from_outputs, outputs | {name: jnp.zeros(wrong)})


@pytest.mark.parametrize(('pixel', 'error'), [
  ((2, 0, 0), ValueError), ((0, -4, 0), ValueError), ((0, 0, np.int64(1)), ValueError),
  ((0, 1), TypeError), ((0, 0, 0, 0), TypeError), ((0, 0, True), TypeError), ((0, 1.0, 0), TypeError),
  ((0, 0, jnp.zeros(1, int)), TypeError), ((slice(None), 0, 0), TypeError),
])  # fmt: skip
def test_a_pixel_is_three_integers_in_the_image(pixel: Any, error: type[Exception]):
  family, params = _low_rank()
  for operation in (gaussian.covariance_column, gaussian.correlation):
    with pytest.raises(error, match='pixel must'):
      operation(family, params, pixel)


def test_pixels_count_from_the_end_and_traced_ones_outside_give_nan():
  family, params = _low_rank()
  covariance = np.asarray(gaussian.covariance(family, params)).reshape(2, 3, 2, 3)
  for operation in (gaussian.covariance_column, gaussian.correlation):
    found = jax.jit(functools.partial(operation, family, params))
    for row, column in ((0, 1), (1, 2), (-1, -3), (-2, 0)):
      last = operation(family, params, (row, column, -1))
      np.testing.assert_array_equal(last, operation(family, params, (row % 2, column % 3, 0)))
      np.testing.assert_allclose(found((row, column, 0)), last, rtol=1e-6)
      if operation is gaussian.covariance_column:
        np.testing.assert_allclose(last[..., 0], covariance[row, column], rtol=1e-5)
    for outside in ((2, 0, 0), (0, -4, 0), (0, 0, 7)):
      assert np.isnan(found(outside)).all()


@each(GAUSSIAN)
def test_the_number_of_components_is_whole(case: Case):
  family, params = cases.family_of(case), cases.random_params(case)
  wrong: tuple[Any, ...] = (True, 1.0, '2', None)
  for k in wrong:
    with pytest.raises(TypeError, match='k must be a whole number'):
      gaussian.principal_components(family, params, k)


def _low_rank() -> tuple[Family[Any], low_rank.LowRank]:
  case = Case('low_rank', (), IMAGE)
  return cases.family_of(case), cases.random_params(case)


def _as(kind: Callable[[Any], Any], params: Any) -> Any:
  return jax.tree.map(kind, params)


@each(CASES)
@pytest.mark.slow
def test_arrays_of_numpy_are_parameters(case: Case):
  family, params = cases.family_of(case), cases.random_params(case)
  x: Any = -np.ones(IMAGE, cases.default_dtype())  # a gray level of any grid
  for name, operation in _own_operations(family).items():
    jax.tree.map(
      functools.partial(np.testing.assert_array_equal, err_msg=name),
      operation(_as(np.asarray, params)), operation(params),
    )  # fmt: skip
  assert family.log_prob(_as(np.asarray, params), x) == family.log_prob(params, jnp.asarray(x))


@pytest.mark.slow
def test_a_number_of_python_is_a_variance():
  """The same as an array of no axes, in every operation, and in its type."""
  family, params = _low_rank()
  x = jnp.full(IMAGE, 0.1, cases.default_dtype())
  expected = params._replace(cov_diag=jnp.asarray(1e-3, cases.default_dtype()))
  images = _of_an_image(family, x)
  ops = _primitives(family)
  others = {
    'temper': lambda p: ops.temper(p, jnp.asarray(0.5)).cov_diag,
    'kl': lambda p: kl.kl_divergence(family, p, family, expected._replace(mean=x)),
    'kl of': lambda p: kl.kl_divergence(family, expected._replace(mean=x), family, p),
  }
  for name, operation in (images | _own_operations(family) | others).items():
    for value in (1e-3, np.float64(1e-3)):
      found = operation(params._replace(cov_diag=value))
      for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(operation(expected)), strict=True):
        assert one.dtype == other.dtype, name
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8, err_msg=name)


def _invalid(params: Any) -> list[Any]:
  """Parameters with one entry that no distribution has; a mean is any finite number."""
  found = []
  for field in params._fields:
    leaf = getattr(params, field)
    if field == 'mean' or not isinstance(leaf, jax.Array):
      continue
    values = [np.nan, np.inf, -np.inf]
    place: Any = (0,) * leaf.ndim
    if isinstance(params, low_rank.LowRank) and field == 'cov_diag':
      values += [0, -1e-3]
    if isinstance(params, dense_precision.DensePrecision):
      place, values = (1, 1), [*values, 0, -1.0]
    if leaf.size:
      found += [params._replace(**{field: leaf.at[place].set(value)}) for value in values]
  return found


@each(CASES)
@pytest.mark.few(3)
def test_invalid_parameters_leave_no_number(case: Case):
  family, params = cases.family_of(case), cases.random_params(case)
  operations = dict(_own_operations(family))
  if family.gaussian is not None:
    operations |= _of_an_image(family, jnp.zeros(IMAGE))

  @jax.jit
  def every(params):
    return {name: operation(params) for name, operation in operations.items()}

  for bad in _invalid(params):
    for name, found in every(bad).items():
      for leaf in jax.tree.leaves(found):
        assert np.isnan(leaf).all(), f'{name} of {bad}: {leaf}'


def test_an_invalid_kernel_leaves_no_number():
  for bad in (np.nan, np.inf):
    kernel = jnp.ones((3, 3)).at[0, 1].set(bad)
    params = circulant.from_kernel(jnp.zeros(IMAGE), kernel, circulant.blur_kernels.Spectrum())
    assert np.isnan(circulant.variance(params)).all()
    assert np.isnan(circulant.sample(KEY, params)).all()


def test_counts_of_samples_and_ranks_are_whole():
  family, params = _low_rank()
  for samples in (True, 2.0, None):
    with pytest.raises(TypeError, match='samples must be a whole number'):
      kl.entropy_monte_carlo(KEY, family, params, samples)  # pyright: ignore[reportArgumentType]
  images = np.random.default_rng(0).normal(size=(9, *IMAGE))
  with pytest.raises(TypeError, match='k must be a whole number'):
    probabilistic_pca.moments(images, True)
  found = probabilistic_pca.moments(images, 2)
  with pytest.raises(TypeError, match='rank must be a whole number'):
    probabilistic_pca.optimum(found, 1.0)  # pyright: ignore[reportArgumentType]
  for variance in (-1.0, np.nan, np.inf):
    with pytest.raises(ValueError, match='at least 0 and finite'):
      probabilistic_pca.with_noise(found, variance)
  for value in (np.nan, np.inf, 1e200):
    images[3, 1, 1, 0] = value
    with pytest.raises(ValueError, match='finite'), np.errstate(all='ignore'):
      probabilistic_pca.moments(images, 2)
