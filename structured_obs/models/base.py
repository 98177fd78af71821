"""The interface of a model to the rest of the library, and a model bound to its variables.

A model is a Flax module of p(x|..) in some family. All of them report `Terms`; what else one can do is
declared in its `traits`, which is all that code may ask about the kind of a model. `Bound` is a model
with its variables: a typed function for everything that a model can do, for use inside compiled
programs. `runs.trained.Trained` has the same functions, compiled.

Letters: B batch; H W C image height, width, channels; h w c those of a small image; k size of a blur
kernel; F features.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self

import jax

from structured_obs.distributions.base import Family, ImageShape
from structured_obs.models.classes import Classes
from structured_obs.objectives.terms import Terms

Array = jax.Array
Variables = Mapping[str, Any]  # collections of arrays by name, 'params' among them
Params = Any  # of distributions: the record of a model's family, each field with a leading B
Latents = Any  # an array [B, ...], or a record of such


class Traits(NamedTuple):
  """Capabilities of a kind of model besides its Terms, and what it needs."""

  reconstructs: bool = True  # gives p(x|..) for images: `reconstruct`
  generates: bool = False  # gives p(x|..) of new images: `generate`
  has_prior: bool = False  # latents have a prior: its Terms are those of a bound, and new images differ
  has_latents: bool = False  # `infer` and `decode`
  has_blur_kernels: bool = False  # its covariances are made of one: `blur_kernels`
  families: tuple[str, ...] = ('family',)  # fields of the model with what it draws images from
  two_levels: bool = False  # a small image y first: `compress`, `upscale`, `super_resolve`, `regenerate`
  classifies: bool = False  # predicts the class of an image: `embed` and `maps`
  denoises: bool = False  # its images are noisy ones, and p(x|..) is that of the clean image
  data_dependent: bool = False  # `init` needs a batch of images, at least two


class Model(Protocol):
  """A kind of model: a Linen module, bound to no variables, with these attributes and methods.

  Inside, it has a method for every trait, with the arguments of the method of `Bound` of that name.
  """

  @property
  def family(self) -> Family:
    """Family of p(x|..)."""
    ...

  @property
  def image(self) -> ImageShape:
    """Shape of x, without channels about the image."""
    ...

  @property
  def traits(self) -> Traits:
    """Capabilities."""
    ...

  @property
  def label_classes(self) -> Classes | None:
    """Classes of images that come with their class; None otherwise."""
    ...

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Returns the terms of a batch; inside `apply`, as all methods are."""
    ...

  @property
  def masked(self) -> bool:
    """Whether images come with a mask of the pixels that count; see `models.masks`."""
    ...

  def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns new variables, from a key and the arguments of `__call__`."""
    ...

  def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a method, `__call__` unless `method` names another one, with these variables."""
    ...

  def clone(self, **updates: Any) -> Self:
    """Returns the module with other fields."""
    ...


@functools.partial(jax.tree_util.register_dataclass, data_fields=['variables'], meta_fields=['model'])
@dataclasses.dataclass(frozen=True)
class Bound:
  """A model and its variables; a pytree of the variables, so that it can be an argument under jit.

  Nothing is compiled here. What a model cannot do raises a ValueError that says so.
  """

  model: Model
  variables: Variables

  def terms(self, keys: Array, x: Array) -> Terms:
    """Returns the terms of images.

    Args:
      keys: [B], one per image.
      x: [B, H, W, C], floats in [-1, 1]; behind their channels, what the model is given about them.
    """
    return self.model.apply(self.variables, keys, x)

  def training_terms(self, keys: Array, x: Array) -> tuple[Terms, Variables]:
    """Returns the terms in training, and the new values of all collections but 'params'."""
    state = [name for name in self.variables if name != 'params']
    return self.model.apply(self.variables, keys, x, train=True, mutable=state)

  def reconstruct(self, keys: Array | None, x: Array) -> Params:
    """Returns p(x|..) for images.

    Args:
      keys: [B], of the latents; None takes the mean of their posterior.
      x: as of `terms`.
    """
    self._need(self.model.traits.reconstructs, 'gives no distribution of images')
    return self._apply('reconstruct', keys, x)

  def predict(self, keys: Array, x: Array) -> Params:
    """Returns p(x|..) for images as evaluations score it.

    At the mean of the latents' posterior; a denoiser sees each image with noise drawn by its key.

    Args:
      keys: [B], one per image.
      x: as of `terms`.
    """
    return self.reconstruct(keys if self.model.traits.denoises else None, x)

  def generate(self, keys: Array, labels: Array | None = None) -> Params:
    """Returns p(x|..) of new images.

    Args:
      keys: [B], one per image.
      labels: [B] integers, classes of a label-conditional model; None leaves them to the model.

    Raises:
      ValueError: the model cannot generate, or labels are given to one without classes.
    """
    self._need(self.model.traits.generates, 'cannot generate images: it has no prior of latents')
    if labels is None:
      return self._apply('generate', keys)
    self._need(self.model.label_classes is not None, 'has no classes of images')
    return self._apply('generate', keys, labels)

  def infer(self, keys: Array | None, x: Array) -> Latents:
    """Returns latents of images, drawn from their posterior, or its mean where keys is None."""
    self._need(self.model.traits.has_latents, 'has no latents')
    return self._apply('infer', keys, x)

  def decode(self, z: Latents) -> Params:
    """Returns p(x|z) at latents as `infer` returns them."""
    self._need(self.model.traits.has_latents, 'has no latents')
    return self._apply('decode', z)

  def blur_kernels(self, keys: Array | None, x: Array) -> Array:
    """Returns blur kernels [B, k, k], or [B, k, k, C], of the covariances at the latents of `infer`."""
    self._need(self.model.traits.has_blur_kernels, 'has covariances that are not made of a blur kernel')
    return self._apply('blur_kernels', keys, x)

  def compress(self, x: Array) -> Array:
    """Returns the small images y = d(x), [B, h, w, c]; they depend on no variables."""
    return self._of_two_levels('compress', x)

  def upscale(self, y: Array, method: str = 'bilinear') -> Array:
    """Returns small images in the shape of x, interpolated: 'nearest', 'bilinear' or 'cubic'."""
    return self._of_two_levels('upscale', y, method)

  def super_resolve(self, keys: Array | None, y: Array) -> Params:
    """Returns p(x|y, ..) of small images, with drawn latents, or their means where keys is None."""
    return self._of_two_levels('super_resolve', keys, y)

  def regenerate(self, keys: Array, x: Array) -> Params:
    """Returns p(x|..) of images generated from what the first level knows of each image."""
    return self._of_two_levels('regenerate', keys, x)

  def embed(self, x: Array) -> Array:
    """Returns features [B, F] of images [B, H, W, C]."""
    self._need(self.model.traits.classifies, 'is not a classifier')
    return self._apply('embed', x)

  def maps(self, x: Array) -> tuple[Array, ...]:
    """Returns features [B, h, w, F] of images at every resolution, finest first."""
    self._need(self.model.traits.classifies, 'is not a classifier')
    return self._apply('maps', x)

  def _of_two_levels(self, method: str, *arguments: Any) -> Any:
    self._need(self.model.traits.two_levels, 'has no small image between its latents and its images')
    return self._apply(method, *arguments)

  def _apply(self, method: str, *arguments: Any) -> Any:
    return self.model.apply(self.variables, *arguments, method=method)

  def _need(self, trait: bool, lack: str) -> None:
    if not trait:
      raise ValueError(f'A model of the kind {type(self.model).__name__} {lack}.')


def classes_of(model: Model) -> int:
  """Returns the number of classes of a model, or 0."""
  return 0 if model.label_classes is None else len(model.label_classes.counts)
