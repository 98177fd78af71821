"""Constraints against problems whose multipliers are known, and against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs.distributions import low_rank, low_rank_update
from structured_obs.models import observation
from structured_obs.objectives import constraints
from structured_obs.objectives.constraints import Constraint


def _ascend(held, rate=0.5):
  free = [name for name, one in held.items() if one.kind == 'equal']
  return constraints.ascend(dict.fromkeys(held, rate), free)


def _solve(loss, stats, held, start, steps=4000, rate=0.02):
  """Descends on the parameters and ascends on the multipliers, as a training run does."""
  params = {'model': start, 'multipliers': constraints.initial_multipliers(held)}
  optimizer = optax.partition(
    {'model': optax.sgd(rate), 'multipliers': _ascend(held)},
    {'model': 'model', 'multipliers': 'multipliers'},
  )

  def total(params):
    penalty = constraints.penalty(held, params['multipliers'], stats(params['model']))
    return loss(params['model']) + penalty

  def step(carry, _):
    params, state = carry
    updates, state = optimizer.update(jax.grad(total)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  with jax.numpy_dtype_promotion('standard'):
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps))(
      (params, optimizer.init(params))
    )
  return params


def test_multipliers_are_those_of_karush_kuhn_and_tucker():
  # min |x - c|^2 with mean statistics a.x <= 1 (binds), x_0 >= -5 (does not): x = c - lambda a / 2.
  c, a = np.array([2.0, 1.0], np.float32), np.array([1.0, 2.0], np.float32)
  held = {'plane': Constraint(1.0), 'first': Constraint(-5.0, 'at_least')}

  def stats(x):
    noise = jnp.asarray([-1.0, 0.0, 1.0])  # statistics of a batch, whose mean is what counts
    return {'plane': x @ a + noise, 'first': x[0] + 2 * noise, 'other': noise}

  found = _solve(lambda x: jnp.sum(jnp.square(x - c)), stats, held, jnp.zeros(2, jnp.float32))
  price = 2 * (a @ c - 1) / (a @ a)
  np.testing.assert_allclose(found['multipliers']['plane'], price, atol=1e-5)
  np.testing.assert_allclose(found['multipliers']['first'], 0, atol=1e-7)
  np.testing.assert_allclose(found['model'], c - price / 2 * a, atol=1e-5)


@pytest.mark.parametrize('bound', [1.0, 6.0])
@pytest.mark.parametrize('kind', constraints.KINDS)
def test_kinds_settle_where_karush_kuhn_and_tucker_say(kind: str, bound: float):
  # min |x - c|^2 with a.x against b; without a constraint a.x = a.c = 4. In units of u the price is u
  # times that of a.x, 2 (a.c - b) / (a.a), which is negative where a.x has to grow.
  c, a, zero = np.array([2.0, 1.0], np.float32), np.array([1.0, 2.0], np.float32), 0.5
  unit = 4.0
  held = {'s': Constraint(bound, kind, zero=zero, unit=unit)}
  price = 2 * (a @ c - bound - zero) / (a @ a)
  binds = {'at_most': price > 0, 'at_least': price < 0, 'equal': True}[kind]
  found = _solve(
    lambda x: jnp.sum(jnp.square(x - c)),
    lambda x: {'s': x @ a + jnp.asarray([-1.0, 1.0])},
    held,
    jnp.zeros(2, jnp.float32),
  )
  price = price if binds else 0.0
  multiplier = unit * (price if kind == 'equal' else abs(price))
  np.testing.assert_allclose(found['multipliers']['s'], multiplier, atol=1e-4)
  np.testing.assert_allclose(found['model'], c - price / 2 * a, atol=1e-4)


def test_multiplier_of_a_bounded_variance_is_its_share_of_the_likelihood():
  # -log N(r; 0, v) with the entropy of v at most that of variance s^2: lambda = r^2 / s^2 - 1.
  residual, bound = 1.5, 0.5
  held = {'entropy': Constraint(0.5 * np.log(bound))}

  def loss(log_v):
    return 0.5 * (log_v + residual**2 * jnp.exp(-log_v))

  stats = lambda log_v: {'entropy': 0.5 * log_v[None]}  # noqa: E731
  found = _solve(loss, stats, held, jnp.zeros((), jnp.float32))
  np.testing.assert_allclose(found['multipliers']['entropy'], residual**2 / bound - 1, rtol=1e-5)
  np.testing.assert_allclose(jnp.exp(found['model']), bound, rtol=1e-5)


@pytest.mark.parametrize(('mean', 'coefficient'), [(3.0, 0.5 + 10 * 1.0), (1.99, 0.4), (0.0, 0.0)])
def test_penalty_never_pushes_a_statistic_that_keeps_its_bound_back_to_it(mean, coefficient):
  held = {'s': Constraint(2.0)}
  stats = jnp.asarray([mean - 1, mean + 1])
  multipliers = {'s': jnp.float32(0.5)}
  value, slopes = jax.value_and_grad(
    lambda m, s: constraints.penalty(held, m, {'s': s}), argnums=(0, 1)
  )(multipliers, stats)
  np.testing.assert_allclose(value, coefficient * (mean - 2), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(slopes[0]['s'], mean - 2, rtol=1e-4)
  np.testing.assert_allclose(slopes[1], np.full(2, coefficient / 2), rtol=1e-4)


def test_at_least_turns_a_bound_around():
  at_least = constraints.violations({'s': Constraint(2.0, 'at_least')}, {'s': jnp.asarray([1.0, 2.0])})
  np.testing.assert_allclose(at_least['s'], 0.5)


@pytest.mark.parametrize(('kind', 'bound'), [('at_most', 1.0), ('at_least', 2.0), ('equal', 2.0)])
def test_devices_share_the_coefficient_of_the_whole_batch(kind: str, bound: float):
  held, stats = {'s': Constraint(bound, kind)}, jnp.asarray([0.0, 0.5, 2.0, 3.5])
  multipliers = {'s': jnp.float32(0.0)}

  def slope(stats, axis_name=None):
    return jax.grad(lambda s: constraints.penalty(held, multipliers, {'s': s}, axis_name))(stats)

  split = jax.vmap(lambda part: slope(part, 'devices'), axis_name='devices')(stats.reshape(2, 2))
  np.testing.assert_allclose(split.reshape(-1) / 2, slope(stats), rtol=1e-6)
  assert np.all(np.asarray(slope(stats)) != 0)


def test_a_statistic_below_its_value_is_pushed_up_by_equal_alone():
  def coefficient(kind: str) -> float:
    held, price = {'s': Constraint(2.0, kind)}, {'s': jnp.float32(0.0)}
    return float(jax.grad(lambda s: constraints.penalty(held, price, {'s': s[None]}))(jnp.float32(1.0)))

  assert [coefficient(kind) for kind in ('at_most', 'at_least', 'equal')] == [0, -10, -10]


def test_the_entropy_above_a_fixed_floor_and_the_trace_are_those_of_dense_covariances():
  rng, size, rank, floor = np.random.default_rng(0), 12, 3, 0.02
  factor, diag = rng.normal(size=(2, size, rank)), rng.uniform(0.01, 0.1, (2, size))
  params = low_rank.LowRank(
    jnp.zeros((2, 4, 3, 1)), jnp.asarray(factor).reshape(2, 4, 3, 1, rank),
    jnp.asarray(diag).reshape(2, 4, 3, 1),
  )  # fmt: skip
  family = low_rank.family(rank, learn_diag=True)
  stats = jax.jit(functools.partial(observation.stats, family))(params)
  dense = factor @ factor.transpose(0, 2, 1)
  options = {'bound': 0.5, 'damping': 10.0, 'kind': 'at_most', 'floor': floor}
  made = constraints.make('entropy', options, rank, size)
  covariances = dense + np.stack([np.diag(one) for one in diag])
  above = 0.5 * np.mean(np.linalg.slogdet(covariances)[1]) - size / 2 * np.log(floor) - 0.5 * rank
  assert constraints.statistic_of('entropy', options) == 'entropy'
  found = constraints.violations({'entropy': made}, stats)['entropy']
  np.testing.assert_allclose(found, above, rtol=1e-10)
  bound = 0.7
  made = constraints.make('trace', {**options, 'bound': bound, 'floor': 0.0}, rank, size)
  mean = np.mean(np.trace(dense, axis1=1, axis2=2)) / size
  found = constraints.violations({'factor_variance': made}, stats)['factor_variance']
  np.testing.assert_allclose(found, (mean - bound) / bound, rtol=1e-10)


def test_a_base_and_its_update_are_one_factor():
  inner = low_rank.family(2)
  family, outputs = low_rank_update.family(inner, 3, 0.5), {}
  for name, shape in family.outputs((2, 2, 1)).items():
    outputs[name] = jax.random.normal(jax.random.key(len(outputs)), (1, *shape))
  stats = jax.jit(lambda o: observation.stats(family, jax.vmap(family.from_outputs)(o)))(outputs)
  trace = 0.1**2 * jnp.sum(outputs['cov_factor'] ** 2) + 0.5**2 * jnp.sum(outputs['update_factor'] ** 2)
  np.testing.assert_allclose(stats['factor_variance'], trace[None] / 4, rtol=1e-10)


def test_mistakes_are_told():
  with pytest.raises(ValueError, match='no statistic entropy to constrain; the model reports kl_z'):
    constraints.penalty(
      {'entropy': Constraint(1.0)}, {'entropy': jnp.float32(0)}, {'kl_z': jnp.zeros(2)}
    )
  for wrong, match in [
    (Constraint(np.inf), 'must be finite'), (Constraint(1.0, 'at'), 'must be one of at_most, at_least'),
    (Constraint(1.0, damping=-1.0), 'damping'), (Constraint(1.0, unit=0.0), 'unit .* above 0'),
  ]:  # fmt: skip
    with pytest.raises(ValueError, match=match):
      constraints.check({'s': wrong})
