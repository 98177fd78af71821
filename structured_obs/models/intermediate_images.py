"""Intermediate images that a model draws on the way to an image, reported only on request.

A model that first draws a small image, say, reports it with `show` in any of its methods; `watched`
runs a method and returns what was shown beside its result. A model without stages shows nothing, so
that plotting code treats all models alike.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from structured_obs.distributions import base
from structured_obs.models.base import Bound, Model

Array = jax.Array

COLLECTION = 'stages'
SAMPLE_MODES = ('sample', 'mode')


def show(module: nn.Module, name: str, images: Array) -> None:
  """Reports images [B, h, w, c] that were drawn, by a name for people.

  Args:
    module: the model, inside a method.
    name: for people.
    images: [B, h, w, c].
  """
  module.sow(COLLECTION, name, images, lambda _, new: new, lambda: images)


def watched(bound: Bound, method: Callable[..., Any], *arguments: Any) -> tuple[Any, dict[str, Array]]:
  """Runs a method of a model; for use under jit, as nothing is compiled.

  Args:
    bound: the model.
    method: of `Bound`, such as `Bound.generate`.
    *arguments: of that method.

  Returns:
    What the method returns, and the images [B, h, w, c] that were shown, by name.
  """
  return method(_Watched(bound.model, bound.variables), *arguments)


class _Watched(Bound):
  """A model whose methods return what was shown beside their results."""

  def _apply(self, method: str, *arguments: Any) -> Any:
    found, shown = self.model.apply(self.variables, *arguments, method=method, mutable=[COLLECTION])
    return found, dict(shown.get(COLLECTION, {}))


def by_mode(model: Model, sample_mode: str) -> Model:
  """Returns the model as it is ('sample'), or one that takes modes of images instead of samples.

  That goes for the stages too: such a model is the same with a family whose `sample` is its `mode`.

  Raises:
    ValueError: the sample mode is unknown, or the family has no mode.
  """
  if sample_mode not in SAMPLE_MODES:
    raise ValueError(f'sample_mode must be one of {", ".join(SAMPLE_MODES)}; got {sample_mode!r}.')
  if sample_mode == 'sample':
    return model
  if model.family.mode is None:
    raise ValueError(
      "sample_mode 'mode' needs a family that is a mixture, such as discretized_logistic_mixture; "
      "with this model's family, take the mean."
    )
  return _drawing(model, lambda family: lambda key, params: family.mode(params))


def by_pixel_noise(model: Model, pixel_noise: bool) -> Model:
  """Returns the model as it is, or one whose samples of images lack the floor of pixel noise.

  Raises:
    ValueError: without it, if the family has no floor of independent pixel noise.
  """
  if pixel_noise:
    return model
  return _drawing(model, lambda family: base.sampler(family, pixel_noise=False))


def _drawing(model: Model, sampler: Callable[[Any], Callable[[Array, Any], Array]]) -> Model:
  """Returns the model with another `sample` of each family that it draws images from."""
  families = {name: getattr(model, name) for name in model.traits.families}
  drawing = {
    name: family._replace(sample=sampler(family)) for name, family in families.items() if family
  }
  return model.clone(**drawing)
