"""The optimizer: who learns when, what decays, and how fast."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from structured_obs.config import OptimConfig
from structured_obs.runs import optimizers, schedule

HEAD = {'kernel': jnp.full((2, 3), 0.5, jnp.float32), 'bias': jnp.ones(3, jnp.float32)}
PARAMS = {
  'model': {
    'encoder': {'kernel': jnp.ones((4, 2), jnp.float32), 'bias': jnp.ones(2, jnp.float32)},
    'decoder': {'heads': {'mean': HEAD, 'cov_factor': HEAD}},
  },
  'multipliers': {'entropy': jnp.zeros((), jnp.float32)},
}
KERNEL = 'kernel_generator'
CONFIG = OptimConfig(learning_rate=0.1, warmup_steps=0)


def gradients(seed: int) -> Any:
  """Normal draws in the shape of PARAMS."""
  leaves, tree = jax.tree.flatten(PARAMS)
  rng = np.random.default_rng(seed)
  return tree.unflatten([jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def descend(config: OptimConfig, steps: int, first: int = 0) -> tuple[Any, Any]:
  """Returns parameters and optimizer state after some steps on fixed gradients."""
  optimizer = optimizers.make_optimizer(config, 100)
  params, state = PARAMS, optimizer.init(PARAMS)
  update = jax.jit(optimizer.update)
  for step in range(first, first + steps):
    updates, state = update(gradients(step), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_multipliers_have_a_transform_of_their_own():
  ascent = optax.scale(2.0)
  optimizer = optimizers.make_optimizer(CONFIG, 100, multipliers=ascent)
  updates: Any = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)[0]
  plain, _ = descend(CONFIG, 1)
  np.testing.assert_allclose(
    updates['multipliers']['entropy'], 2 * gradients(0)['multipliers']['entropy'], rtol=1e-6
  )
  np.testing.assert_allclose(
    1 + updates['model']['encoder']['bias'],
    plain['model']['encoder']['bias'],
    rtol=1e-6,
  )


def heads(params: Any) -> tuple[np.ndarray, np.ndarray]:
  """Kernels of the mean's and of the other head."""
  both = params['model']['decoder']['heads']
  return np.asarray(both['mean']['kernel']), np.asarray(both['cov_factor']['kernel'])


def test_every_leaf_has_its_label():
  found = optimizers.labels({'model': PARAMS['model']})['model']
  assert set(jax.tree.leaves(found['encoder'])) == {'rest'}
  assert set(jax.tree.leaves(found['decoder']['heads']['mean'])) == {'mean_head'}
  assert set(jax.tree.leaves(found['decoder']['heads']['cov_factor'])) == {'other_heads'}


def test_adam_is_the_papers_formula_and_leaves_multipliers_alone():
  params, _ = descend(CONFIG, 2)
  mean, square, expected = 0.0, 0.0, np.float64(1.0)
  for t in (1, 2):
    grad = np.asarray(gradients(t - 1)['model']['encoder']['kernel'], np.float64)
    mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
    expected = expected - 0.1 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
  np.testing.assert_allclose(params['model']['encoder']['kernel'], expected, rtol=1e-5)
  assert params['multipliers']['entropy'] == 0


def test_adamax_is_the_papers_formula():
  params, _ = descend(dataclasses.replace(CONFIG, optimizer='adamax'), 3)
  mean, largest, expected = 0.0, 0.0, np.float64(1.0)
  for t in (1, 2, 3):
    grad = np.asarray(gradients(t - 1)['model']['encoder']['kernel'], np.float64)
    mean, largest = 0.9 * mean + 0.1 * grad, np.maximum(0.999 * largest, np.abs(grad) + 1e-8)
    expected = expected - 0.1 / (1 - 0.9**t) * mean / largest
  np.testing.assert_allclose(params['model']['encoder']['kernel'], expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('stage', 'moves'),
  [
    ('mean:3', (True, False)),
    ('covariance:3', (False, True)),
    ('all_but_mean:3', (False, True)),
    ('all:3', (True, True)),
  ],
)
@pytest.mark.parametrize('optimizer', ['adam', 'adamax'])
def test_a_stage_freezes_the_other_parameters(stage: str, moves: tuple[bool, bool], optimizer: str):
  params, _ = descend(dataclasses.replace(CONFIG, stages=(stage,), optimizer=optimizer), 3)
  moved = tuple(
    not np.array_equal(new, old) for new, old in zip(heads(params), heads(PARAMS), strict=True)
  )
  assert moved == moves
  encoder = params['model']['encoder']['bias']
  assert np.array_equal(encoder, PARAMS['model']['encoder']['bias']) == (stage == 'covariance:3')


def test_moments_of_a_waiting_head_do_not_move():
  config = dataclasses.replace(CONFIG, stages=('mean:3',))
  staged, fresh = heads(descend(config, 5)[0])[1], heads(descend(CONFIG, 2, first=3)[0])[1]
  np.testing.assert_array_equal(staged, fresh)


def test_the_clipped_norm_is_of_the_learning_parameters():
  config = dataclasses.replace(CONFIG, stages=('mean:1',), clip_norm=1e-9)
  # Adam's step hides the scale of its gradient, except where that is comparable to its 1e-8.
  moved = jax.tree.map(lambda a, b: np.asarray(a - b), descend(config, 1)[0], PARAMS)['model']
  grads = gradients(0)['model']
  grads['decoder']['heads']['cov_factor'] = jax.tree.map(
    jnp.zeros_like, grads['decoder']['heads']['cov_factor']
  )
  clipped = jax.tree.map(lambda grad: grad * (1e-9 / float(optax.tree.norm(grads))), grads)
  expected = jax.tree.map(lambda grad: -0.1 * grad / (jnp.abs(grad) + 1e-8), clipped)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=1e-6), moved, expected)


@pytest.mark.parametrize('optimizer', ['adam', 'adamax'])
def test_decay_is_decoupled_and_on_kernels_only(optimizer: str):
  config = dataclasses.replace(CONFIG, optimizer=optimizer)
  plain, _ = descend(config, 1)
  decayed, _ = descend(dataclasses.replace(config, weight_decay=0.3), 1)
  old, new = plain['model']['encoder'], decayed['model']['encoder']
  np.testing.assert_allclose(old['kernel'] - new['kernel'], 0.1 * 0.3, rtol=1e-4)
  np.testing.assert_array_equal(old['bias'], new['bias'])


@pytest.mark.parametrize(
  ('name', 'counts', 'expected'),
  [
    ('constant', (0, 4, 9, 10, 59), (0.1, 0.5, 1.0, 1.0, 1.0)),
    ('cosine', (0, 9, 10, 60, 85, 110), (0.1, 1.0, 1.0, 0.5, 0.5 - 0.5 * 2**-0.5, 0.0)),
  ],
)
def test_learning_rate(name: str, counts: tuple[int, ...], expected: tuple[float, ...]):
  config = OptimConfig(learning_rate=2.0, warmup_steps=10, schedule=name)
  rate = schedule.learning_rate(config, 110)
  found = [rate(jnp.int32(count)) for count in counts]
  assert all(value.dtype == jnp.float32 for value in found)
  np.testing.assert_allclose(np.asarray(found) / 2, expected, atol=1e-6)


def test_an_exponential_rate_decays_after_the_warm_up_down_to_its_floor():
  config = OptimConfig(learning_rate=2e-3, warmup_steps=10, schedule='exponential')
  options = {'decay': 0.999999, 'min_learning_rate': 1e-4}
  config = dataclasses.replace(config, schedule_options=options)
  rate = schedule.learning_rate(config, 100)
  counts = np.array([0, 9, 10, 1_000_010, 2_990_000, 2_999_000, 9_000_000])
  found = np.asarray([rate(jnp.int32(count)) for count in counts])
  expected = np.maximum(2e-3 * np.float64(0.999999) ** np.maximum(counts - 10, 0), 1e-4)
  expected[0] = 2e-4  # the warm-up
  assert expected[-3] > expected[-1] == 1e-4
  np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_an_unknown_schedule_is_answered_with_the_nearest():
  with pytest.raises(ValueError, match="Did you mean 'cosine'"):
    schedule.learning_rate(OptimConfig(schedule='cosin'), 10)


def test_a_stage_has_a_rate_of_its_own_and_the_kernels_only_without_one():
  config = dataclasses.replace(CONFIG, stages=('mean:2:learning_rate=0.02', 'all:1'))
  params = {**PARAMS, 'model': {**PARAMS['model'], 'kernel_generator': HEAD}}
  moved = {}
  for kernel in (0.0, 0.5):
    optimizer = optimizers.make_optimizer(config, 100, kernel=kernel)
    state, moved[kernel] = optimizer.init(params), []
    for _ in range(4):  # of constant gradients, where an update of Adam is the learning rate
      updates: Any
      updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
      moved[kernel].append([-float(updates['model'][name]['bias'][0]) for name in ('encoder', KERNEL)])
  rates = np.array([0.02, 0.02, 0.1, 0.1])
  np.testing.assert_allclose(moved[0.0], np.stack([rates, rates], 1), rtol=1e-5)
  np.testing.assert_allclose(moved[0.5], np.stack([rates, np.full(4, 0.5)], 1), rtol=1e-5)
