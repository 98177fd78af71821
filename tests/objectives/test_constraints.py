"""Constraints against problems whose multipliers are known, and against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs.objectives import constraints
from structured_obs.objectives.constraints import Constraint


def _solve(loss, stats, held, start, steps=4000, rate=0.02):
  """Descends on the parameters and ascends on the multipliers, as a training run does."""
  params = {'model': start, 'multipliers': constraints.initial_multipliers(held)}
  optimizer = optax.partition(
    {'model': optax.sgd(rate), 'multipliers': constraints.ascend(dict.fromkeys(held, 0.5))},
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
  held = {'plane': Constraint(1.0), 'first': Constraint(-5.0, sign=-1)}

  def stats(x):
    noise = jnp.asarray([-1.0, 0.0, 1.0])  # statistics of a batch, whose mean is what counts
    return {'plane': x @ a + noise, 'first': x[0] + 2 * noise, 'other': noise}

  found = _solve(lambda x: jnp.sum(jnp.square(x - c)), stats, held, jnp.zeros(2, jnp.float32))
  price = 2 * (a @ c - 1) / (a @ a)
  np.testing.assert_allclose(found['multipliers']['plane'], price, atol=1e-5)
  np.testing.assert_allclose(found['multipliers']['first'], 0, atol=1e-7)
  np.testing.assert_allclose(found['model'], c - price / 2 * a, atol=1e-5)


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


def test_sign_turns_a_bound_around():
  at_least = constraints.violations({'s': Constraint(2.0, sign=-1)}, {'s': jnp.asarray([1.0, 2.0])})
  np.testing.assert_allclose(at_least['s'], 0.5)


def test_devices_share_the_coefficient_of_the_whole_batch():
  held, stats = {'s': Constraint(1.0)}, jnp.asarray([0.0, 0.5, 2.0, 3.5])
  multipliers = {'s': jnp.float32(0.0)}

  def slope(stats, axis_name=None):
    return jax.grad(lambda s: constraints.penalty(held, multipliers, {'s': s}, axis_name))(stats)

  split = jax.vmap(lambda part: slope(part, 'devices'), axis_name='devices')(stats.reshape(2, 2))
  np.testing.assert_allclose(split.reshape(-1) / 2, slope(stats), rtol=1e-6)


def test_mistakes_are_told():
  with pytest.raises(ValueError, match='no statistic entropy to constrain; the model reports kl_z'):
    constraints.penalty(
      {'entropy': Constraint(1.0)}, {'entropy': jnp.float32(0)}, {'kl_z': jnp.zeros(2)}
    )
  for wrong, match in [
    (Constraint(np.inf), 'must be finite'), (Constraint(1.0, sign=2), 'must be 1'),
    (Constraint(1.0, damping=-1.0), 'damping'),
  ]:  # fmt: skip
    with pytest.raises(ValueError, match=match):
      constraints.check({'s': wrong})
