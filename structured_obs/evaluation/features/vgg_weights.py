"""VGG-16 as an extractor, with weights from a file: the features of LPIPS.

The file is that of the perceptual loss, `objectives.perceptual.load_vgg`. With LPIPS's own weights of
the layers in it, distances of reconstructions are LPIPS.
"""

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.objectives import perceptual

Array = jax.Array

NAME = 'vgg'


def extractor(path: str, image: ImageShape) -> extractors.Extractor:
  """Returns VGG-16 with the weights of an npz file.

  The features are means over the image of the outputs of its five blocks, 1472 in all; these outputs are
  its maps.

  Args:
    path: of the file.
    image: shape of the images: 1 or 3 channels, at least 16 pixels along each side.

  Raises:
    FileNotFoundError: the file is missing.
    ValueError: it is not of this layout, or VGG-16 cannot see such images.
  """
  if image.channels not in (1, 3) or min(image[:2]) < perceptual.MIN_SIDE:
    raise ValueError(
      f'--features={NAME}:{path} needs images of 1 or 3 channels and at least {perceptual.MIN_SIDE} '
      f'pixels along each side; they are {" x ".join(map(str, image))}.'
    )
  weights = {name: np.asarray(array, np.float32) for name, array in perceptual.read_vgg(path).items()}
  calibrate = _calibration if 'lin1' in weights else None
  mark = extractors.fingerprint(weights[name] for name in sorted(weights))
  return extractors.Extractor(NAME, mark, _features, _maps, weights, calibrate)


def _maps(weights: dict[str, Array], images: Array) -> tuple[Array, ...]:
  arrays = {name: jnp.asarray(array, images.dtype) for name, array in weights.items()}
  return tuple(jax.vmap(lambda image: tuple(perceptual.vgg_features(arrays, image)))(images))


def _features(weights: dict[str, Array], images: Array) -> Array:
  return jnp.concatenate([y.mean((1, 2)) for y in _maps(weights, images)], axis=-1)


def _calibration(weights: dict[str, Array]) -> list[Array]:
  return [jnp.asarray(weights[f'lin{i}'], jnp.float32) for i in range(1, 6)]
