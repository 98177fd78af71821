"""Kinds of models as a run sees them: their options, how they are built, and what they do not use."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from structured_obs.distributions.base import Family, ImageShape
from structured_obs.option_records import Record


class Setting(NamedTuple):
  """What a model depends on besides its own options."""

  axis_name: str | None = None  # mapped axis over devices
  dtype: Any = None  # of the networks' products; None: that of the images
  frozen_mean: bool = False  # no step updates the mean, nor what it is made of
  white: bool = False  # no step updates anything but the mean
  kernel_gradient: str = 'held'  # whether latents learn from the kernels they give: 'latents'
  mean_gradient: float = 0.0  # share of the mean's derivative that is left to another loss


class Kind(NamedTuple):
  """One kind of model."""

  options: Record
  build: Callable[[Mapping[str, Any], Family, ImageShape, Setting], Any]  # filled options -> the model
  # Fields of a configuration, or groups of them, that mean nothing to it and must keep their default.
  unused: tuple[str, ...] = ()
  given_mean: bool = False  # whether it is given the mean of an image
  masks: bool = False  # whether its images may come with masks
  labels: tuple[bool, ...] = (False,)  # what data.labels may be: whether it is given classes


PRIOR = (  # of latents that have a prior
  'objective.beta',
  'objective.beta_warmup_steps',
  'objective.free_bits',
  'objective.constraints.kl',
)
IMAGES = (  # of a model that reports its images
  'objective.reconstruction',
  'objective.white_steps',
  'objective.kernel_gradient',
  'objective.mean_gradient',
  'objective.mean_loss',
)
