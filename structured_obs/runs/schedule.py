"""Learning rate and stages: what is learnt when, as functions of the number of updates made."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import names
from structured_obs.config import OptimConfig

Array = jax.Array
Schedule = Callable[[Array], Array]  # [] int32 -> [] float32

SCHEDULES = ('constant', 'cosine', 'exponential')
LABELS = ('mean_head', 'other_heads', 'rest')  # of the network's parameters
LEARNERS = {
  'mean': ('mean_head', 'rest'),
  'covariance': ('other_heads',),
  'all_but_mean': ('other_heads', 'rest'),
  'all': LABELS,
}


class Stage(NamedTuple):
  """`steps` updates of which only the parameters labelled `learners` take part."""

  learners: tuple[str, ...]  # of LABELS
  steps: int


def learning_rate(config: OptimConfig, steps: int) -> Schedule:
  """Returns the learning rate as a function of the updates made: linear warm-up, then the schedule.

  The rate of the first update is learning_rate / warmup_steps, not 0, and with 'cosine' that of the
  update after the last one is 0. With 'exponential' it is learning_rate decay^n, n updates after the
  warm-up, and at least min_learning_rate from there on.
  """
  names.check('optim.schedule', config.schedule, SCHEDULES)
  warmup = max(config.warmup_steps, 1)
  rest = max(steps - config.warmup_steps, 1)

  def rate(count: Array) -> Array:
    done = jnp.asarray(count, jnp.float32)
    factor = jnp.minimum((done + 1) / warmup, 1.0)
    if config.schedule == 'cosine':
      progress = jnp.clip((done - config.warmup_steps) / rest, 0.0, 1.0)
      factor = factor * (1 + jnp.cos(math.pi * progress)) / 2
    if config.schedule == 'exponential':
      # The logarithm is taken here: in float32, 0.999999 itself would be off by 1 % of what it decays.
      exponent = math.log(config.decay) * jnp.maximum(done - config.warmup_steps, 0.0)
      floor = config.min_learning_rate / config.learning_rate
      factor = factor * jnp.maximum(jnp.exp(exponent), floor)
    return config.learning_rate * factor

  return rate


def parse_stages(stages: tuple[str, ...]) -> tuple[Stage, ...]:
  """Reads 'WHAT:STEPS' strings, such as 'mean:200'.

  Raises:
    ValueError: if one is not of that form, names no known part, or lasts no step.
  """
  return tuple(_parse_stage(stage) for stage in stages)


def _parse_stage(stage: str) -> Stage:
  what, colon, steps = stage.partition(':')
  number = steps.strip()
  if not (colon and number.isdecimal() and len(number) < 10 and int(number)):
    raise ValueError(
      f"--config.optim.stages has the entry '{stage}', which is not of the form 'WHAT:STEPS' with a "
      "positive number of steps, such as 'mean:200'."
    )
  names.check('optim.stages', what, LEARNERS)
  return Stage(LEARNERS[what], int(number))


def ever_learning(stages: tuple[Stage, ...], steps: int) -> set[str]:
  """Returns the labels of what learns at any time in a run of so many steps."""
  found, end = set(), 0
  for stage in stages:
    found |= set(stage.learners) if end < steps else set()
    end += stage.steps
  return found | (set(LABELS) if end < steps else set())


def learns(stages: tuple[Stage, ...], label: str) -> Callable[[Array], Array]:
  """Returns `updates made -> whether the parameters of this label learn`, [] int32 -> [] bool."""

  def active(count: Array) -> Array:
    on, end = jnp.zeros_like(count, dtype=bool), 0
    for stage in stages:
      begin, end = end, end + stage.steps
      on = jnp.where((count >= begin) & (count < end), label in stage.learners, on)
    return on | (count >= end)

  return active
