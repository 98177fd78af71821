"""Stages of training: which parameters learn when, how fast, and from which loss.

An entry of `optim.stages` is 'WHAT:STEPS', and may have options behind it, 'WHAT:STEPS:NAME=VALUE':

  learning_rate   of the stage, which then has a warm-up and a schedule of its own; see `schedule`
  loss            'density', log p(x|z); 'white', the density of independent pixels of one variance, the
                  best one for each batch; or a name of `objectives.reconstruction.LOSSES`
  weight          of such a reconstruction loss relative to the KL, 1 by default

What a stage does not say is the run's own, and so is everything after the last stage.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from structured_obs import names
from structured_obs.config import Config
from structured_obs.models import KINDS
from structured_obs.objectives import reconstruction
from structured_obs.option_values import Choice, Option, Positive, Where, checked_value, option_of

Array = jax.Array

LABELS = ('mean_head', 'other_heads', 'rest')  # of the network's parameters
LEARNERS = {
  'mean': ('mean_head', 'rest'),
  'covariance': ('other_heads',),
  'all_but_mean': ('other_heads', 'rest'),
  'all': LABELS,
}
DENSITY, WHITE = 'density', 'white'  # losses that are log densities
FLAG = '--config.optim.stages'
FORM = "'WHAT:STEPS', with a positive number of steps, such as 'mean:200' or 'mean:200:loss=l1'"
OPTIONS: Mapping[str, Option] = {
  'learning_rate': option_of(Positive),
  'loss': Option(str, (Choice((DENSITY, WHITE, *reconstruction.LOSSES)),), None),
  'weight': option_of(Positive),
}


class Stage(NamedTuple):
  """`steps` updates in which only the parameters labelled `learners` are trained."""

  learners: tuple[str, ...]  # of LABELS
  steps: int
  learning_rate: float | None = None  # None: the run's own
  loss: str | None = None  # 'density', 'white' or one of LOSSES; None: the run's own
  weight: float = 1.0  # of a reconstruction loss
  text: str = ''  # as typed


class Span(NamedTuple):
  """A stage and the updates during which it lasts."""

  begin: int  # updates made before its first one
  end: int  # updates made before the first one of the next stage
  stage: Stage

  def holds(self, count: Array) -> Array:
    """Returns whether the stage lasts after `count` updates. [] bool."""
    return (count >= self.begin) & (count < self.end)


def parse(entries: tuple[str, ...]) -> tuple[Stage, ...]:
  """Parses 'WHAT:STEPS[:NAME=VALUE...]' strings, such as 'mean:200:learning_rate=1e-3'.

  Raises:
    ValueError: naming `--config.optim.stages`: a string has another form, an unknown name or an invalid
      value, or its loss has no effect on what the stage trains.
  """
  return tuple(_parsed(entry) for entry in entries)


def _parsed(entry: str) -> Stage:
  what, _, rest = entry.partition(':')
  steps, *given = (part.strip() for part in rest.split(':'))
  if not (steps.isdecimal() and len(steps) < 10 and int(steps)):
    raise ValueError(f"{FLAG} has the invalid entry '{entry}'; entries have the form {FORM}.")
  names.check('optim.stages', what, LEARNERS)
  stage = Stage(LEARNERS[what], int(steps), text=entry)._replace(**_options(entry, given))
  if what == 'covariance' and stage.loss not in (None, DENSITY):
    raise ValueError(
      f"{FLAG} has the entry '{entry}', but loss={stage.loss} compares images with their means and "
      f'trains no covariance; use loss={DENSITY}, or omit the loss.'
    )
  return stage


def _options(entry: str, given: list[str]) -> dict[str, Any]:
  """Returns the options of an entry, checked."""
  found: dict[str, Any] = {}
  for text in given:
    name, equals, value = (part.strip() for part in text.partition('='))
    if not equals or name not in OPTIONS or name in found:
      near = names.nearest(name, OPTIONS)
      raise ValueError(
        f"{FLAG} has the invalid entry '{entry}': '{text}' is not one of "
        f'{", ".join(f"{option}=VALUE" for option in OPTIONS)}, each at most once.'
        + (f" Did you mean '{near}'?" if near and near != name else '')
      )
    found[name] = _value(entry, name, value)
  if 'weight' in found and found.get('loss', DENSITY) in (DENSITY, WHITE):
    raise ValueError(
      f"{FLAG} has the entry '{entry}', whose weight belongs to a reconstruction loss: one of "
      f'{", ".join(reconstruction.LOSSES)}.'
    )
  return found


def _value(entry: str, name: str, text: str) -> Any:
  """Returns the value of an option, checked."""
  option = OPTIONS[name]
  value: Any = text
  if option.kind is float:
    with contextlib.suppress(ValueError):  # the check below says what it must be
      value = float(text)
  try:
    return checked_value(Where(FLAG), name, option, value)
  except ValueError as error:
    reason = str(error).removeprefix(f'{FLAG}.')
    raise ValueError(f"{FLAG} has the invalid entry '{entry}': {reason}") from error


def spans(stages: tuple[Stage, ...]) -> tuple[Span, ...]:
  """Returns the stages with the updates during which they last."""
  found, end = [], 0
  for stage in stages:
    found.append(Span(end, end + stage.steps, stage))
    end += stage.steps
  return tuple(found)


def ever_learning(stages: tuple[Stage, ...], steps: int) -> set[str]:
  """Returns the labels of the parameters that are trained at any time in a run of `steps` steps."""
  found, end = set(), 0
  for span in spans(stages):
    found |= set(span.stage.learners) if span.begin < steps else set()
    end = span.end
  return found | (set(LABELS) if end < steps else set())


def learns(stages: tuple[Stage, ...], label: str) -> Callable[[Array], Array]:
  """Returns `updates made -> whether parameters of this label are trained`, [] int32 -> [] bool."""
  found = spans(stages)
  last = found[-1].end if found else 0

  def active(count: Array) -> Array:
    on = count >= last
    for span in found:
      on = on | (span.holds(count) & (label in span.stage.learners))
    return on

  return active


def losses(stages: tuple[Stage, ...]) -> dict[str, Stage]:
  """Returns the first stage with each loss that stages name, but for the density."""
  named = {stage.loss: stage for stage in reversed(stages) if stage.loss}
  return {loss: stage for loss, stage in named.items() if loss != DENSITY}


def check(config: Config) -> None:
  """Checks the losses of stages against the other fields of a configuration.

  Raises:
    ValueError: naming `--config.optim.stages` and what it conflicts with.
  """
  parsed, objective = parse(config.optim.stages), config.objective
  named, own = losses(parsed), objective.reconstruction
  for stage in parsed:
    if stage.learners == LEARNERS['covariance'] and not stage.loss and own in reconstruction.LOSSES:
      raise ValueError(
        f"{FLAG} has the entry '{stage.text}', but --config.objective.reconstruction={own} trains no "
        f"covariance; write '{stage.text}:loss={DENSITY}'."
      )
  if objective.white_steps and any(stage.loss for stage in parsed):
    raise ValueError(
      f'--config.objective.white_steps={objective.white_steps} and a loss in {FLAG} both choose the '
      "loss of the first steps; use the stages alone, such as 'all:500:loss=white'."
    )
  without = 'objective.reconstruction' in KINDS[config.model.kind].unused
  for loss, stage in named.items():
    if without:
      raise ValueError(
        f"{FLAG} has the entry '{stage.text}', but --config.model.kind={config.model.kind!r} has no "
        f'mean that loss={loss} could train; omit the loss.'
      )
    if config.data.mask != 'none' and loss not in (WHITE, *reconstruction.PIXELWISE):
      raise ValueError(
        f"{FLAG} has the entry '{stage.text}', whose loss measures whole images, but with "
        f'--config.data.mask={config.data.mask} only some pixels count; it may be '
        f'{", ".join((DENSITY, WHITE, *reconstruction.PIXELWISE))}.'
      )
