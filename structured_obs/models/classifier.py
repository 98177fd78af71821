"""Convolutional classifier of images, whose features serve to compare images.

It does not model images: it is trained on log p(y|x), where y is the class in the channel behind an
image's own. Images of one data set are compared in the features before its last layer, which know
what matters in these images; `evaluation.features` makes an extractor of a run.

Letters: B batch; H W C image height, width, channels; K classes; F features; h w height and width at a
resolution.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base
from structured_obs.models import classes, vae
from structured_obs.models.base import Traits
from structured_obs.models.kind import IMAGES, PRIOR, Kind, Setting
from structured_obs.models.networks import convolutions, layers
from structured_obs.models.networks.options import Norm
from structured_obs.objectives.terms import Terms
from structured_obs.option_values import CountOrNone, Widths

Array = jax.Array


class Options(NamedTuple):
  """Size of the network."""

  features: Widths = (32, 64)  # channels at each resolution, finest first, then halved
  blocks: CountOrNone = 1  # residual blocks at each resolution
  norm: Norm = 'none'


class Classifier(nn.Module):
  """A convolution and residual blocks at every resolution, halved in between; then one dense layer."""

  family: base.Family  # of the configuration, as every model has one; not used
  image: base.ImageShape
  features: tuple[int, ...] = (32, 64)  # at each resolution, finest first
  blocks: int = 1  # residual blocks at each resolution
  norm: str = 'none'  # 'none', 'group' or 'batch'
  axis_name: str | None = None  # mapped axis over which batch norm averages
  label_classes: classes.Classes | None = None
  masked = False
  dtype: Any = None  # of the products, but those of the last layer; None: that of the images
  traits = Traits(reconstructs=False, classifies=True)

  def setup(self) -> None:
    """Makes the network and its last layer."""
    if self.label_classes is None:
      raise ValueError('A classifier needs the classes of its images, label_classes.')
    self.network = Network(self.features, self.blocks, self.norm, self.axis_name, self.dtype)
    self.head = nn.Dense(len(self.label_classes.counts))

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Reports the log probability of each image's class.

    Args:
      keys: [B], not used: nothing is drawn.
      x: [B, H, W, C + 1], floats: images with their class.
      train: whether batch norm uses the batch's statistics and updates its running ones.

    Returns:
      Terms with 'y', and in the stats 'accuracy', 1 where the most probable class is the right one.
    """
    del keys
    vae.check_images(x, self.image, with_class=True)
    assert self.label_classes is not None
    y = classes.of_images(self.label_classes, x, self.image)
    logits = self.head(_pooled(self.network(x[..., : self.image.channels], train)[-1]))
    right = jnp.argmax(logits, axis=-1) == jnp.argmax(y, axis=-1)
    return Terms(
      log_p={'y': jnp.sum(y * jax.nn.log_softmax(logits), axis=-1)},
      log_q={},
      stats={'accuracy': right.astype(logits.dtype)},
    )

  def maps(self, x: Array) -> tuple[Array, ...]:
    """Returns features [B, h, w, F] of images [B, H, W, C] at every resolution, finest first."""
    vae.check_images(x, self.image)
    return self.network(x, train=False)

  def embed(self, x: Array) -> Array:
    """Returns features [B, F] before the last layer of images [B, H, W, C]."""
    return _pooled(self.maps(x)[-1])


class Network(nn.Module):
  """All layers but the last."""

  features: tuple[int, ...]
  blocks: int
  norm: str
  axis_name: str | None
  dtype: Any

  @nn.compact
  def __call__(self, x: Array, train: bool) -> tuple[Array, ...]:
    """Maps images [B, H, W, C] to [B, h, w, F] at every resolution."""
    normalise = layers.norm_layer(self.norm, train, self.axis_name, self.dtype)
    found = []
    for level, width in enumerate(self.features):
      x = convolutions.Conv(width, (3, 3), strides=1 if level == 0 else 2, dtype=self.dtype)(x)
      for _ in range(self.blocks):
        x = layers.ResidualBlock(self.norm, self.axis_name, self.dtype)(x, train)
      x = nn.silu(normalise(x))
      found.append(x)
    return tuple(layers.full(y) for y in found)


def _pooled(x: Array) -> Array:
  """Returns the means over the image [B, F]."""
  return x.mean(axis=(1, 2))


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> Classifier:
  return Classifier(family, image, **options, axis_name=setting.axis_name, dtype=setting.dtype)


KIND = Kind(
  Options,
  _build,
  unused=('likelihood', 'optim.stages', 'objective.constraints', *PRIOR, *IMAGES),
  labels=(True,),
)
