"""What every family keeps: shapes, dtypes, transformations, refusals."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import base
from structured_obs.distributions.base import ImageShape
from tests.distributions import cases, operations
from tests.distributions.cases import Case, each

pytestmark = pytest.mark.x64  # other tests compare float32 with dense algebra

MAIN = cases.main_cases()
GENERIC = cases.gaussian_only(cases.generic_cases())
DEFAULTS = [case for case in MAIN if not case.options]  # for what options have no part in


def _assert_same(actual: Any, expected: Any) -> None:
  actual, expected = operations.as_leaves(actual), operations.as_leaves(expected)
  assert actual.keys() == expected.keys()
  for name, value in expected.items():
    if 'principal_components' in name and 'values' not in name:
      continue  # the sign of an eigenvector is nobody's promise
    assert value.dtype == actual[name].dtype, name
    scale = cases.tolerance(1e-9, 3e-3) * max(1, float(jnp.max(jnp.abs(value), initial=0)))
    np.testing.assert_allclose(actual[name], value, rtol=0, atol=scale, err_msg=name)


@each(MAIN + cases.shape_cases())
def test_shapes(case: Case):
  family, image = cases.family_of(case), ImageShape(*case.image)
  params = cases.random_params(case)
  sample = jax.eval_shape(family.sample, jax.random.key(0), params)
  assert family.mean(params).shape == sample.shape == tuple(image)
  assert jax.eval_shape(family.log_prob, params, sample).shape == ()
  if family.gaussian is not None:
    assert family.outputs(image)['mean'] == tuple(image)


@each(DEFAULTS)
@pytest.mark.slow
def test_jit_equals_eager(case: Case):
  params, x, key, *_ = cases.arguments(case)
  eager = operations.plain_operations(cases.family_of(case), params, x, key)
  compiled = {name: cases.results(case)[name] for name in eager}
  _assert_same(compiled, eager)


@each(MAIN + GENERIC)
@pytest.mark.slow
def test_vmap_equals_loop(case: Case):
  batch = [cases.arguments(case, seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
  together = cases.compiled(case, mapped=True)(*stacked)
  for i, arguments in enumerate(batch):
    one = jax.tree.map(lambda leaf, i=i: leaf[i], together)
    _assert_same(one, cases.compiled(case)(*arguments))


@each(DEFAULTS + GENERIC)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64], ids=['float32', 'float64'])
@pytest.mark.few(5)
def test_dtype_in_is_dtype_out(case: Case, dtype: Any):
  params = cases.random_params(case, dtype=dtype)
  _, x, key, mask, variance = cases.arguments(case)
  operation = functools.partial(operations.all_operations, cases.family_of(case))
  results = jax.eval_shape(operation, params, x.astype(dtype), key, mask, variance.astype(dtype))
  leaves, _ = jax.tree_util.tree_flatten_with_path((params, results))
  wrong = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in leaves if leaf.dtype != dtype}
  assert not wrong


@each(DEFAULTS)
@pytest.mark.few(2)
def test_shard_map_equals_one_device(case: Case):
  family = cases.family_of(case)
  params, x, key, *_ = cases.arguments(case)
  shifts = 0.1 * jnp.arange(8, dtype=x.dtype).reshape(8, 1, 1, 1)
  xs = base.round_to_levels(x[None] + shifts, family.levels)
  keys = jax.random.split(key, 8)

  def loss(params, xs):
    return jnp.mean(jax.vmap(family.log_prob, in_axes=(None, 0))(params, xs))

  def step(params, xs, keys):
    value, grads = jax.value_and_grad(loss)(params, xs)
    return value, grads, jax.vmap(family.sample, in_axes=(0, None))(keys, params)

  def mapped(params, xs, keys):
    params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, 'data', to='varying'), params)
    value, grads, samples = step(params, xs, keys)
    return *jax.lax.pmean((value, grads), 'data'), samples

  mesh = jax.make_mesh((4,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec
  sharded = jax.shard_map(
    mapped, mesh=mesh, in_specs=(spec(), spec('data'), spec('data')),
    out_specs=(spec(), spec(), spec('data')), check_vma=True,
  )  # fmt: skip
  _assert_same(jax.jit(sharded)(params, xs, keys), jax.jit(step)(params, xs, keys))


@each(MAIN + GENERIC)
@pytest.mark.slow
def test_matrix_products_are_at_the_highest_precision(case: Case):
  """The default of a GPU (TF32) or TPU (bfloat16) would cost hundreds of nats; a CPU cannot tell."""
  program = cases.compiled(case).lower(*cases.arguments(case)).as_text()
  products = [line for line in program.splitlines() if 'stablehlo.dot_general' in line]
  not_empty = [line for line in products if not re.search(r'[<x]0x', line)]
  assert not [line for line in not_empty if 'precision = [HIGHEST, HIGHEST]' not in line]


@each(MAIN)
def test_the_key_alone_decides_the_sample(case: Case):
  problem = cases.make_problem(case)
  draw = jax.jit(problem.family.sample)
  first, again, other = (draw(jax.random.key(seed), problem.params) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@each(MAIN)
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.few(2)
def test_bad_parameters_give_nan(case: Case, value: float):
  problem = cases.make_problem(case)
  log_prob = jax.jit(problem.family.log_prob)
  leaves, treedef = jax.tree.flatten(problem.params)
  for i, leaf in enumerate(leaves):
    if leaf.size == 0:
      continue
    bad = leaf.ravel().at[leaf.size // 2].set(value).reshape(leaf.shape)
    params = treedef.unflatten([*leaves[:i], bad, *leaves[i + 1 :]])
    result = log_prob(params, problem.x)
    assert np.isnan(result), f'{problem.params._fields[i]}: {result}'


@each(MAIN)
@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_bad_pixels_give_no_number(case: Case, value: float):
  problem = cases.make_problem(case)
  result = jax.jit(problem.family.log_prob)(problem.params, problem.x.at[0, 0, 0].set(value))
  assert np.isnan(result)


@each(MAIN)
def test_wrong_shapes_are_refused_when_traced(case: Case):
  problem = cases.make_problem(case)
  refused = pytest.raises(ValueError, match=r'[a-z_]+ must have shape .*got .*\.')
  for x in (problem.x[None], problem.x[:-1], problem.x[..., 0], problem.x[0, 0, 0]):
    with refused:
      jax.eval_shape(problem.family.log_prob, problem.params, x)
  leaves, treedef = jax.tree.flatten(problem.params)
  for i, leaf in enumerate(leaves):
    params = treedef.unflatten([*leaves[:i], leaf[None], *leaves[i + 1 :]])
    with refused:
      jax.eval_shape(problem.family.log_prob, params, problem.x)


@each(MAIN)
def test_integers_are_refused_when_traced(case: Case):
  problem = cases.make_problem(case)
  refused = pytest.raises(TypeError, match=r'must be a floating-point array; got .*\.')
  with refused:
    jax.eval_shape(problem.family.log_prob, problem.params, jnp.zeros_like(problem.x, jnp.uint8))
  leaves, treedef = jax.tree.flatten(problem.params)
  for i, leaf in enumerate(leaves):
    params = treedef.unflatten([*leaves[:i], leaf.astype(jnp.int32), *leaves[i + 1 :]])
    with refused:
      jax.eval_shape(problem.family.log_prob, params, problem.x)


@each(MAIN)
def test_outputs_are_checked_by_name(case: Case):
  family, image = cases.family_of(case), ImageShape(*case.image)
  outputs = {name: jnp.zeros(shape) for name, shape in family.outputs(image).items()}
  for name in outputs:
    with pytest.raises((KeyError, ValueError), match=name):
      family.from_outputs({key: value for key, value in outputs.items() if key != name})
  with pytest.raises(ValueError, match='surplus'):
    family.from_outputs(outputs | {'surplus': jnp.zeros(tuple(image))})


@each(MAIN)
@pytest.mark.few(2)
def test_zero_outputs_are_valid(case: Case):
  family, image = cases.family_of(case), ImageShape(*case.image)
  params = family.from_outputs({n: jnp.zeros(s) for n, s in family.outputs(image).items()})
  x = jax.jit(family.sample)(jax.random.key(0), params)
  value, grads = jax.jit(jax.value_and_grad(family.log_prob))(params, x)
  assert np.isfinite(value)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize('name', list(distributions.FAMILIES))
def test_options_are_the_constructors(name: str):
  options = distributions.options(name)
  assert isinstance(distributions.FAMILIES[name](**options), distributions.base.Family)
  with pytest.raises(ValueError, match='no_such_option'):
    distributions.options(name, no_such_option=1)


def test_a_misspelt_name_is_answered_with_the_nearest():
  with pytest.raises(ValueError, match="'low_rank'"):
    distributions.options('lowrank')
  with pytest.raises(ValueError, match='did you mean rank'):
    distributions.options('low_rank', rnak=3)
