"""Trained models: variables, data and compiled functions of a run.

Letters: N images; H W C image height, width, channels; h w c those of a small image; k size of a blur
kernel; F features.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.models.base import Bound, Latents, Model, Params, Variables
from structured_obs.objectives.terms import Terms

Array = jax.Array


class Trained(NamedTuple):
  """A trained model with its variables and the description of its data.

  Its functions take batches. They compile once per model and shapes of the arguments; the variables are
  an argument of the program. They raise a ValueError for what the model does not support;
  `model.traits` says what it supports. Larger programs are traced with `bound`, which has the same
  functions.
  """

  name: str  # in tables
  workdir: str
  config: Config
  spec: DataSpec
  model: Model
  variables: Variables
  step: int

  @property
  def about(self) -> str:
    """Name, step and data, for the titles of figures."""
    return f'{self.name}, step {self.step}, {self.spec.source}'

  @property
  def bound(self) -> Bound:
    """The model with its variables, for use inside compiled programs."""
    return Bound(self.model, self.variables)

  def terms(self, x: Array, keys: Array) -> Terms:
    """Returns the terms of images [N, H, W, C] in [-1, 1], with one key per image."""
    return _compiled(Bound.terms, self.bound, keys, x)

  def reconstruct(self, x: Array, keys: Array | None = None) -> Params:
    """Returns p(x|..) for images [N, H, W, C] in [-1, 1]: parameters of the model's family.

    Args:
      x: images; further channels hold what the model is given about them.
      keys: [N], to draw the latents; None uses the posterior mean.
    """
    return _compiled(Bound.reconstruct, self.bound, keys, x)

  def predict(self, x: Array, keys: Array) -> Params:
    """Returns p(x|..) for images as evaluations score it.

    Args:
      x: [N, H, W, C], as of `reconstruct`.
      keys: [N], of the noise that a denoiser sees; others do not use them.
    """
    return _compiled(Bound.predict, self.bound, keys, x)

  def generate(self, keys: Array, labels: Array | None = None) -> Params:
    """Returns p(x|..) of new images, one per key [N]; `labels` [N] are their classes, if given."""
    return _compiled(Bound.generate, self.bound, keys, labels)

  def infer(self, x: Array, keys: Array | None = None) -> Latents:
    """Returns latents of images [N, H, W, C]: posterior samples, or without keys the posterior mean."""
    return _compiled(Bound.infer, self.bound, keys, x)

  def decode(self, z: Latents) -> Params:
    """Returns p(x|z) at N latents, in the form that `infer` returns."""
    return _compiled(Bound.decode, self.bound, z)

  def blur_kernels(self, x: Array, keys: Array | None = None) -> Array:
    """Returns the covariances' blur kernels [N, k, k] or [N, k, k, C] for images [N, H, W, C]."""
    return _compiled(Bound.blur_kernels, self.bound, keys, x)

  def compress(self, x: Array) -> Array:
    """Returns the small images [N, h, w, c] of images [N, H, W, C]."""
    return _compiled(Bound.compress, self.bound, x)

  def super_resolve(self, y: Array, keys: Array | None = None) -> Params:
    """Returns p(x|y, ..) of small images [N, h, w, c]: latents drawn, or without keys their means."""
    return _compiled(Bound.super_resolve, self.bound, keys, y)

  def regenerate(self, x: Array, keys: Array) -> Params:
    """Returns p(x|..) of images generated from the first level's posterior of images [N, H, W, C]."""
    return _compiled(Bound.regenerate, self.bound, keys, x)

  def embed(self, x: Array) -> Array:
    """Returns a classifier's features [N, F] of images [N, H, W, C]."""
    return _compiled(Bound.embed, self.bound, x)


def is_discrete(trained: Trained) -> bool:
  """Returns whether the model is discrete: probabilities of gray levels rather than densities."""
  return trained.model.family.levels > 0


@functools.partial(jax.jit, static_argnums=0)
def _compiled(method: Callable[..., Any], bound: Bound, *arguments: Any) -> Any:
  return method(bound, *arguments)
