"""Feature networks that compare images, each with a name and a fingerprint of its weights.

A distance between features is meaningless without their network. Every extractor therefore has a name
and a fingerprint, the beginning of the SHA-256 of its weights, and reports show both beside every
number.

Letters: N images; B of them at a time; H W C image height, width, channels; F features; h w c height,
width and channels of a layer.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from structured_obs.objectives import perceptual

Array = jax.Array


class Extractor(NamedTuple):
  """A network whose features compare images; build it once, because jit recompiles for a new one."""

  name: str
  fingerprint: str  # of its weights
  apply: Callable[[Any, Array], Array]  # (weights, images [B, H, W, C] in [-1, 1]) -> [B, F]
  # (weights, images) -> [B, h, w, c] of its layers; None if it does not return layers.
  maps: Callable[[Any, Array], tuple[Array, ...]] | None = None
  weights: Any = ()  # pytree of NumPy arrays
  # weights -> [c] for each layer, which weigh its squared differences by people's judgements; None if
  # the network has none.
  calibration: Callable[[Any], Sequence[Array]] | None = None

  def __repr__(self) -> str:
    """Returns what reports show beside a number, and all that the number depends on."""
    return f'{self.name} ({self.fingerprint})'

  @property
  def static(self) -> 'Extractor':
    """The extractor without its weights: hashable, so that it can be static under jit."""
    return self._replace(weights=())


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
  """Returns the first 12 hexadecimal digits of the SHA-256 of arrays, as float32."""
  digest = hashlib.sha256()
  for array in arrays:
    digest.update(np.ascontiguousarray(array, np.float32).tobytes())
  return digest.hexdigest()[:12]


def of_user(
  apply: Callable[[Array], Array],
  name: str,
  weights: Iterable[np.ndarray] = (),
  maps: Callable[[Array], tuple[Array, ...]] | None = None,
) -> Extractor:
  """Returns an extractor with a user's network, for `compare.Request.features`.

  Args:
    apply: images [B, H, W, C] in [-1, 1] -> features [B, F]; it is compiled.
    name: shown beside every number.
    weights: arrays that identify it.
    maps: images -> features [B, h, w, c] of its layers, if available.
  """
  layers = None if maps is None else functools.partial(_of_images, maps)
  return Extractor(name, fingerprint(weights), functools.partial(_of_images, apply), layers)


def _of_images(function: Callable[[Array], Any], weights: Any, images: Array) -> Any:
  del weights
  return function(images)


def rows(extractor: Extractor, weights: Any, images: Array) -> Array:
  """Returns features [B, F] of images [B, H, W, C]; for use under jit.

  Args:
    extractor: of the features.
    weights: of the extractor.
    images: in [-1, 1].

  Raises:
    ValueError: the extractor does not return one row of numbers per image.
  """
  found = extractor.apply(weights, images)
  if found.ndim != 2 or len(found) != len(images):
    raise ValueError(
      f"The extractor '{extractor.name}' must return one row of features per image, [{len(images)}, F]; "
      f'it returned {found.shape}.'
    )
  return found


def perceptual_distance(extractor: Extractor, weights: Any, first: Array, second: Array) -> Array:
  """Returns distances between images [B, H, W, C] in the features of every layer. [B]; under jit.

  The features of a pixel are scaled to unit length. Their squared differences are summed over channels
  and averaged over pixels. With an extractor's calibration they are weighted and summed over layers,
  which is LPIPS. Otherwise all channels have equal weight, and the mean over layers is uncalibrated: it
  has not learnt people's judgements.

  Args:
    extractor: with maps.
    weights: of the extractor.
    first: [B, H, W, C] in [-1, 1].
    second: the same shape.

  Reference: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
  2018, equation 1.
  """
  assert extractor.maps is not None
  layers, others = (extractor.maps(weights, images) for images in (first, second))
  if extractor.calibration is None:
    return jax.vmap(perceptual.distance)(layers, others) / len(layers)
  factors = extractor.calibration(weights)
  return jax.vmap(lambda one, other: perceptual.distance(one, other, factors))(layers, others)


def extract(extractor: Extractor, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
  """Returns the features [N, F] float64 of images [N, H, W, C] in [-1, 1].

  Args:
    extractor: of the features.
    images: [N, H, W, C].
    batch_size: images at a time.

  Raises:
    ValueError: the extractor does not return one row of numbers per image.
  """
  images = np.asarray(images, np.float32)
  starts = range(0, len(images), batch_size)
  parts = [_rows(extractor.static, extractor.weights, images[i : i + batch_size]) for i in starts]
  return np.concatenate([np.asarray(part, np.float64) for part in parts])


@functools.partial(jax.jit, static_argnums=0)
def _rows(extractor: Extractor, weights: Any, images: Array) -> Array:
  return rows(extractor, weights, images)
