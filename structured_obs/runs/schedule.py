"""Learning rates and stages, as functions of the number of updates made."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import names
from structured_obs.config import OptimConfig
from structured_obs.option_records import OneOf, Record, fill
from structured_obs.option_values import NotNegative, Range, Where

Array = jax.Array
Schedule = Callable[[Array], Array]  # [] int32 -> [] float32

LABELS = ('mean_head', 'other_heads', 'rest')  # of the network's parameters
LEARNERS = {
  'mean': ('mean_head', 'rest'),
  'covariance': ('other_heads',),
  'all_but_mean': ('other_heads', 'rest'),
  'all': LABELS,
}


class Course(NamedTuple):
  """What a schedule depends on besides the updates made and its own options."""

  learning_rate: float
  warmup: int  # updates
  rest: int  # updates after the warm-up, at least 1


class Form(NamedTuple):
  """A schedule after the warm-up, as a factor of the learning rate."""

  options: Record
  factor: Callable[[Array, Array, Course, Mapping[str, Any]], Array]  # (factor, done, ..) -> factor
  bound: bool = False  # whether it depends on how many steps the run has, which must then stay as it is


class Exponential(NamedTuple):
  """Options of 'exponential'."""

  decay: Annotated[float, Range(0, 1, above=True, below=True)] = 1.0  # factor per step; required
  min_learning_rate: NotNegative = 0.0


def _constant(factor: Array, done: Array, course: Course, options: Mapping[str, Any]) -> Array:
  del done, course, options
  return factor


def _cosine(factor: Array, done: Array, course: Course, options: Mapping[str, Any]) -> Array:
  del options
  progress = jnp.clip((done - course.warmup) / course.rest, 0.0, 1.0)
  return factor * (1 + jnp.cos(math.pi * progress)) / 2


def _exponential(factor: Array, done: Array, course: Course, options: Mapping[str, Any]) -> Array:
  # The logarithm is computed here: in float32, 0.999999 itself has an error of 1 % of what it decays.
  exponent = math.log(options['decay']) * jnp.maximum(done - course.warmup, 0.0)
  return factor * jnp.maximum(jnp.exp(exponent), options['min_learning_rate'] / course.learning_rate)


SCHEDULES = {
  'constant': Form(None, _constant),
  'cosine': Form(None, _cosine, bound=True),
  'exponential': Form(Exponential, _exponential),
}
RULE = OneOf({name: form.options for name, form in SCHEDULES.items()}, 'schedule_options')


class Stage(NamedTuple):
  """`steps` updates in which only the parameters labelled `learners` are trained."""

  learners: tuple[str, ...]  # of LABELS
  steps: int


def learning_rate(config: OptimConfig, steps: int) -> Schedule:
  """Returns the learning rate as a function of the updates made: linear warm-up, then the schedule.

  The rate of the first update is learning_rate / warmup_steps, not 0. With 'cosine' the rate reaches 0
  one update after the last. With 'exponential' it is learning_rate decay^n, n updates after the warm-up,
  and never below min_learning_rate.
  """
  filled = fill(OptimConfig, vars(config), Where('--config.optim'), {'schedule': RULE})
  form, options = SCHEDULES[config.schedule], filled['schedule_options']
  course = Course(config.learning_rate, config.warmup_steps, max(steps - config.warmup_steps, 1))

  def rate(count: Array) -> Array:
    done = jnp.asarray(count, jnp.float32)
    factor = jnp.minimum((done + 1) / max(course.warmup, 1), 1.0)
    return config.learning_rate * form.factor(factor, done, course, options)

  return rate


def parse_stages(stages: tuple[str, ...]) -> tuple[Stage, ...]:
  """Parses 'WHAT:STEPS' strings, such as 'mean:200'.

  Raises:
    ValueError: a string has another form, names an unknown part, or its number of steps is not positive.
  """
  return tuple(_parse_stage(stage) for stage in stages)


def _parse_stage(stage: str) -> Stage:
  what, colon, steps = stage.partition(':')
  number = steps.strip()
  if not (colon and number.isdecimal() and len(number) < 10 and int(number)):
    raise ValueError(
      f"--config.optim.stages has the invalid entry '{stage}'; entries have the form 'WHAT:STEPS' with "
      "a positive number of steps, such as 'mean:200'."
    )
  names.check('optim.stages', what, LEARNERS)
  return Stage(LEARNERS[what], int(number))


def ever_learning(stages: tuple[Stage, ...], steps: int) -> set[str]:
  """Returns the labels of the parameters that are trained at any time in a run of `steps` steps."""
  found, end = set(), 0
  for stage in stages:
    found |= set(stage.learners) if end < steps else set()
    end += stage.steps
  return found | (set(LABELS) if end < steps else set())


def learns(stages: tuple[Stage, ...], label: str) -> Callable[[Array], Array]:
  """Returns `updates made -> whether parameters of this label are trained`, [] int32 -> [] bool."""

  def active(count: Array) -> Array:
    on, end = jnp.zeros_like(count, dtype=bool), 0
    for stage in stages:
      begin, end = end, end + stage.steps
      on = jnp.where((count >= begin) & (count < end), label in stage.learners, on)
    return on | (count >= end)

  return active
