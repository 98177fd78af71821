"""Stages: what they say, when they last, how fast they learn, and what is refused."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config, OptimConfig
from structured_obs.runs import configuration, schedule, stages
from tests.runs import small


def test_stages_follow_each_other_and_then_everything_learns():
  found = stages.parse(('mean:2', 'covariance:3'))
  table = {
    label: [bool(stages.learns(found, label)(jnp.int32(count))) for count in range(7)]
    for label in stages.LABELS
  }
  two, three, rest = [True] * 2, [True] * 3, [True] * 2
  assert table['mean_head'] == table['rest'] == two + [False] * 3 + rest
  assert table['other_heads'] == [False] * 2 + three + rest


def test_what_ever_learns_in_a_run():
  found = stages.parse(('mean:5', 'covariance:3'))
  assert stages.ever_learning(found, 5) == {'mean_head', 'rest'}
  assert stages.ever_learning(found, 6) == set(stages.LABELS)
  assert stages.ever_learning(found[1:], 3) == {'other_heads'}
  assert stages.ever_learning(found[1:], 4) == set(stages.LABELS)
  assert stages.ever_learning((), 1) == set(stages.LABELS)


@pytest.mark.parametrize('stage', ['mean', 'mean:', 'mean:0', 'mean:-3', 'mean:x', ':5'])
def test_malformed_stages_are_refused(stage: str):
  with pytest.raises(ValueError, match=r'optim\.stages'):
    stages.parse((stage,))


def test_unknown_names_are_answered_with_the_nearest():
  with pytest.raises(ValueError, match="Did you mean 'covariance'"):
    stages.parse(('covarianse:5',))
  with pytest.raises(ValueError, match=r"loss must be one of .* Did you mean 'focal_frequency'"):
    stages.parse(('mean:5:loss=focal_freqency',))
  with pytest.raises(ValueError, match=r"'mean:5:learning=1'.* Did you mean 'learning_rate'"):
    stages.parse(('mean:5:learning=1',))


def test_options_of_a_stage():
  one, two = stages.parse(('mean:20:learning_rate=1e-3:loss=l1:weight=5', 'all_but_mean:7'))
  assert (one.learners, one.steps) == (('mean_head', 'rest'), 20)
  assert (one.learning_rate, one.loss, one.weight) == (1e-3, 'l1', 5.0)
  assert (two.learning_rate, two.loss, two.weight) == (None, None, 1.0)


@pytest.mark.parametrize(
  ('entry', 'message'),
  [
    ('mean:5:', "'' is not one of learning_rate=VALUE, loss=VALUE, weight=VALUE"),
    ('mean:5:l1', "'l1' is not one of"),
    ('mean:5:loss=l1:loss=l2', "'loss=l2' is not one of .* each at most once"),
    ('mean:5:learning_rate=0', 'learning_rate must be a number above 0, but is 0.0'),
    ('mean:5:learning_rate=nan', 'learning_rate must be a number above 0, but is nan'),
    ('mean:5:learning_rate=1e-50', 'learning_rate must be a number above 0'),  # 0 in float32
    ('mean:5:learning_rate=fast', "must be a number above 0, but is 'fast'"),
    ('mean:5:loss=paper_loss', "loss must be one of 'density', 'white', 'l2'"),
    ('mean:5:weight=2', 'weight belongs to a reconstruction loss: one of l2, l1'),
    ('mean:5:loss=white:weight=2', 'weight belongs to a reconstruction loss'),
    ('covariance:5:loss=l1', 'loss=l1 compares images with their means and trains no covariance'),
    ('covariance:5:loss=white', 'trains no covariance; use loss=density'),
  ],
)
def test_invalid_options_are_refused_with_the_entry(entry: str, message: str):
  config = Config()
  config.optim.stages = ('mean:3', entry)
  with pytest.raises(ValueError, match=rf"^--config\.optim\.stages has .*'{entry}'.*{message}"):
    configuration.filled(config)


def test_a_stage_with_a_rate_has_a_warm_up_and_a_schedule_of_its_own():
  config = OptimConfig(learning_rate=2.0, warmup_steps=2, schedule='cosine')
  config.stages = ('mean:3', 'covariance:6:learning_rate=10', 'all:4:learning_rate=1')
  rate = schedule.learning_rate(config, 20)

  def expected(base: float, steps: int, done: int) -> float:
    warm = min((done + 1) / 2, 1.0)
    return base * warm * (1 + math.cos(math.pi * max(done - 2, 0) / (steps - 2))) / 2

  own = [expected(2.0, 20, count) for count in range(20)]
  staged = [expected(10.0, 6, count) for count in range(6)] + [expected(1.0, 4, n) for n in range(4)]
  found = [rate(jnp.int32(count)) for count in range(20)]
  assert all(value.dtype == jnp.float32 for value in found)
  np.testing.assert_allclose(found, own[:3] + staged + own[13:], rtol=1e-5, atol=1e-6)


def test_a_decaying_rate_begins_at_its_stage_and_ends_at_the_floor():
  config = OptimConfig(learning_rate=1.0, warmup_steps=0, schedule='exponential')
  config.schedule_options = {'decay': 0.5, 'min_learning_rate': 0.25}
  config.stages = ('mean:2', 'all:4:learning_rate=8')
  found = [schedule.learning_rate(config, 9)(jnp.int32(count)) for count in range(9)]
  np.testing.assert_allclose(found, [1, 0.5, 8, 4, 2, 1, 0.25, 0.25, 0.25], rtol=1e-5)
  assert schedule.smallest(config) == 1.0


def refused(message: str, kind: str = 'vae', **fields: Any) -> None:
  """Checks that a configuration with these fields, 'section__name', is refused with this message."""
  config = small.config_of(kind)
  for name, value in fields.items():
    section, _, field = name.partition('__')
    setattr(getattr(config, section), field, value)
  with pytest.raises(ValueError, match=message):
    configuration.resolve(config)


def test_losses_that_conflict_with_other_fields_are_refused():
  loss = ('mean:5:loss=l1',)
  refused(
    r"white_steps=3 and a loss in --config\.optim\.stages", optim__stages=loss, objective__white_steps=3
  )
  refused(r"kind='distribution' has no mean that loss=l1", 'distribution', optim__stages=loss)
  refused(r"may be density, white, l1, l2", optim__stages=('mean:5:loss=ssim',), data__mask='nonzero')
  refused(
    r"stages has .*covariance:5:loss=density'", optim__stages=('covariance:5',),
    objective__reconstruction='l1',
  )  # fmt: skip
  refused(
    r'accumulate=2 is invalid with --config\.optim\.stages', optim__stages=('mean:5:loss=white',),
    train__accumulate=2,
  )  # fmt: skip
  refused(
    r'min_learning_rate=0.01 .* at most 0.001', optim__stages=('mean:5:learning_rate=1e-3',),
    optim__learning_rate=1.0, optim__schedule='exponential',
    optim__schedule_options={'decay': 0.9, 'min_learning_rate': 0.01},
  )  # fmt: skip


def test_losses_that_suit_are_accepted():
  config = small.config_of('vae')
  config.optim.stages = ('mean:5:loss=l1:learning_rate=1e-2', 'covariance:5:loss=density')
  config.objective.reconstruction = 'ssim'
  configuration.resolve(config)
  config = small.config_of('covariance')
  config.optim.stages = ('all:5:learning_rate=1e-2:loss=density',)
  configuration.resolve(config)
