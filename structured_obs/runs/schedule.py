"""Learning rates as functions of the number of updates made: of a run, and of its stages.

A stage with a learning rate of its own has a warm-up and a schedule of its own too, over its own steps,
as if it were a run that begins there. The other stages, and the steps after the last one, have the rate
that the run's schedule has at that number of updates.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.config import OptimConfig
from structured_obs.option_records import OneOf, Record, fill
from structured_obs.option_values import NotNegative, Range, Where
from structured_obs.runs import stages

Array = jax.Array
Schedule = Callable[[Array], Array]  # [] int32 -> [] float32


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


def learning_rate(config: OptimConfig, steps: int) -> Schedule:
  """Returns the learning rate as a function of the updates made: linear warm-up, then the schedule.

  The rate of the first update is learning_rate / warmup_steps, not 0. With 'cosine' the rate reaches 0
  one update after the last. With 'exponential' it is learning_rate decay^n, n updates after the warm-up,
  and never below min_learning_rate. A stage with a learning rate of its own counts its updates from its
  first one, and 'cosine' ends with it.

  Args:
    config: learning rate, warm-up, schedule and stages.
    steps: of the run.
  """
  filled = fill(OptimConfig, vars(config), Where('--config.optim'), {'schedule': RULE})
  form, options = SCHEDULES[config.schedule], filled['schedule_options']

  def scheduled(learning_rate: float, steps: int, done: Array) -> Array:
    course = Course(learning_rate, config.warmup_steps, max(steps - config.warmup_steps, 1))
    factor = jnp.minimum((done + 1) / max(course.warmup, 1), 1.0)
    return learning_rate * form.factor(factor, done, course, options)

  own = [span for span in stages.spans(stages.parse(config.stages)) if span.stage.learning_rate]

  def rate(count: Array) -> Array:
    done = jnp.asarray(count, jnp.float32)
    found = scheduled(config.learning_rate, steps, done)
    for begin, end, stage in own:
      assert stage.learning_rate is not None
      of_stage = scheduled(stage.learning_rate, stage.steps, jnp.maximum(done - begin, 0.0))
      found = jnp.where((done >= begin) & (done < end), of_stage, found)
    return found

  return rate


def smallest(config: OptimConfig) -> float:
  """Returns the smallest learning rate of the run and its stages, before any schedule."""
  rates = [stage.learning_rate for stage in stages.parse(config.stages) if stage.learning_rate]
  return min([config.learning_rate, *rates])
