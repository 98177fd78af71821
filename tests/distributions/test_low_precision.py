"""Floats of 16 bits give float32 results in every operation of every family."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import base, gaussian, low_rank, low_rank_parts
from structured_obs.distributions.base import ImageShape
from tests.distributions import cases, operations
from tests.distributions.cases import Case, each

pytestmark = pytest.mark.x64  # the types are the same in both runs

CASES = cases.main_cases()
DEFAULTS = [case for case in CASES if not case.options]
LOW = (jnp.bfloat16, jnp.float16)


def _low(tree: Any, dtype: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _assert_all_float32(tree: Any) -> None:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  floats = [(path, leaf.dtype) for path, leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
  assert floats
  assert not [(jax.tree_util.keystr(path), dtype) for path, dtype in floats if dtype != jnp.float32]


@each(CASES + cases.gaussian_only(cases.generic_cases()))
@pytest.mark.slow
def test_every_result_is_float32(case: Case):
  params, x, key, mask, variance = cases.arguments(case)
  params, x, variance = _low((params, x, variance), jnp.bfloat16)
  operation = functools.partial(operations.all_operations, cases.family_of(case))
  _assert_all_float32(jax.eval_shape(operation, params, x, key, mask, variance))
  _assert_all_float32(jax.eval_shape(cases.family_of(case).log_prob, params, x, mask))


@each(DEFAULTS)
def test_nothing_is_computed_before_the_conversion(case: Case):
  params, x, key, *_ = cases.arguments(case)
  operation = functools.partial(operations.plain_operations, cases.family_of(case))
  program = str(jax.make_jaxpr(operation)(*_low((params, x), jnp.bfloat16), key))
  assert re.search(r'\w+:bf16\[3,4,', program)
  assert not re.findall(r':bf16\[[^]]*\] = .*', program)


@each(DEFAULTS)
def test_noise_and_images_alone_are_upcast(case: Case):
  """Beside float32 parameters."""
  family, dtype = cases.family_of(case), jnp.float16
  params, x, key, *_ = cases.arguments(case)
  params, x = _low(params, jnp.float32), x.astype(dtype)
  results = [jax.eval_shape(family.log_prob, params, x)]
  if (primitives := family.gaussian) is not None:
    noise = _low(primitives.noise(key, params), dtype)
    results += [jax.eval_shape(primitives.reparameterize, params, noise)]
    results += [jax.eval_shape(primitives.whiten, params, x)]
    results += [jax.eval_shape(primitives.covariance_matvec, params, x)]
  _assert_all_float32(results)


@each(CASES)
@pytest.mark.parametrize('dtype', LOW, ids=['bfloat16', 'float16'])
@pytest.mark.few(3)
def test_outputs_of_a_network_give_float32_parameters(case: Case, dtype: Any):
  family = cases.family_of(case)
  shapes = family.outputs(ImageShape(*case.image))
  outputs = {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}
  params = family.from_outputs(outputs)
  _assert_all_float32(params)
  if family.log_prior is not None:
    _assert_all_float32(family.log_prior(_low(params, dtype)))
  if family.kernel is not None:
    _assert_all_float32(family.kernel(outputs))


@each(DEFAULTS)
def test_values_are_those_of_the_same_numbers_in_float32(case: Case):
  family = cases.family_of(case)
  params, x, key, *_ = cases.arguments(case)
  low = _low((params, x), jnp.bfloat16)

  @jax.jit
  def both(params, x):
    return family.log_prob(params, x), family.sample(key, params), family.mean(params)

  for found, expected in zip(both(*low), both(*_low(low, jnp.float32)), strict=True):
    assert np.isfinite(found).all()
    if not family.levels or found.ndim:  # pixels of gray levels are rounded to the nearest level
      np.testing.assert_array_equal(found, expected)
  # Derivatives keep the type of what they are by.
  gradient = jax.eval_shape(jax.grad(family.log_prob), *low)
  assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('dtype', LOW, ids=['bfloat16', 'float16'])
def test_gray_levels_in_low_precision_are_those_levels(dtype: Any):
  case = next(case for case in DEFAULTS if case.name == 'discretized_logistic_mixture')
  family, params = cases.family_of(case), _low(cases.random_params(case), jnp.float32)
  size = ImageShape(*case.image).size
  images = jnp.linspace(-1, 1, 256, dtype=jnp.float32)
  images = jnp.resize(images, (-(-256 // size), *case.image))
  log_prob = jax.jit(jax.vmap(family.log_prob, in_axes=(None, 0)))
  np.testing.assert_array_equal(log_prob(params, images.astype(dtype)), log_prob(params, images))
  between = jnp.zeros_like(images, dtype)  # 0 is the middle of two of 256 levels
  assert np.isnan(log_prob(params, between)).all()


@each(CASES)
def test_complex_numbers_are_refused(case: Case):
  family = cases.family_of(case)
  params, x, *_ = cases.arguments(case)
  refused = pytest.raises(TypeError, match=r'must be a floating-point array; got complex')
  with refused:
    jax.eval_shape(family.log_prob, params, x.astype(complex))
  leaves, treedef = jax.tree.flatten(params)
  for i, leaf in enumerate(leaves):
    wrong = treedef.unflatten([*leaves[:i], leaf.astype(complex), *leaves[i + 1 :]])
    for operation in (family.log_prob, lambda params, _: family.mean(params)):
      with refused:
        jax.eval_shape(operation, wrong, x)
  if family.gaussian is not None:
    with pytest.raises(TypeError, match='temperature must be real'):
      gaussian.temper(family, params, jnp.asarray(1j))
    with pytest.raises(TypeError, match='noise_variance must be real'):
      gaussian.posterior_mean(family, params, x, jnp.asarray(1j))


def test_parts_of_a_large_density_are_float32():
  params = low_rank.LowRank(jnp.zeros((3, 2, 1)), jnp.ones((3, 2, 1, 2)), jnp.ones(()))
  x = jnp.ones((3, 2, 1), jnp.bfloat16)
  parts = jax.eval_shape(low_rank_parts.log_prob_parts, _low(params, jnp.float16), x)
  _assert_all_float32(parts)


def test_what_is_no_array_is_refused_in_a_sentence():
  wrong: tuple[Any, ...] = ([[1.0]], None, 'x', (1.0,), {'x': 1.0})
  for value in wrong:
    with pytest.raises(TypeError, match='x must be an array; got'):
      base.check_shape('x', value, (1, 1))
