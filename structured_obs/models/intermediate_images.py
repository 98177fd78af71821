"""Images that a model draws on the way to an image, told to those who ask and to no one else.

A model that first draws a small image, say, tells of it with `show` in any of its methods; `watched`
runs a method and returns what was shown beside its result. A model without stages shows nothing, so
that who draws pictures treats all models alike.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from structured_obs.distributions.base import Family

Array = jax.Array

COLLECTION = 'stages'
SAMPLE_MODES = ('sample', 'mode')


def show(module: nn.Module, name: str, images: Array) -> None:
  """Tell of images [B, h, w, c] that were drawn, by a name for people."""
  module.sow(COLLECTION, name, images, lambda _, new: new, lambda: images)


def watched(model: Any, method: str) -> Callable[..., tuple[Any, dict[str, Array]]]:
  """A method as `(variables, *arguments) -> (its result, images [B, h, w, c] by name)`; not compiled."""

  def run(variables: Any, *arguments: Any) -> tuple[Any, dict[str, Array]]:
    found, shown = model.apply(variables, *arguments, method=method, mutable=[COLLECTION])
    return found, dict(shown.get(COLLECTION, {}))

  return run


def by_mode(model: Any, sample_mode: str) -> Any:
  """The model as it is ('sample'), or one that takes the mode of an image where it would draw one.

  That goes for the stages too: such a model is the same with a family whose `sample` is its `mode`.

  Raises:
    ValueError: the sample mode is unknown, or the family has no mode.
  """
  if sample_mode not in SAMPLE_MODES:
    raise ValueError(f'sample_mode must be one of {", ".join(SAMPLE_MODES)}; got {sample_mode!r}.')
  if sample_mode == 'sample':
    return model
  mode = model.family.mode
  if mode is None:
    raise ValueError(
      "sample_mode 'mode' is of a family that is a mixture, such as discretized_logistic_mixture; "
      "with this model's family, take the mean."
    )
  family: Family = model.family._replace(sample=lambda key, params: mode(params))
  return model.clone(family=family)
