"""Features without training or files: statistics of Haar bands beside random convolutions.

A Haar coefficient w of an image, at every pixel and several scales, becomes |w| / (|w| + t) for a few
thresholds t, averaged over the image. A mean of such saturating functions knows how many coefficients
are as small as t, so that noise in flat regions counts, which a mean of |w| or of w^2 hides behind the
edges: those hardly tell a blurred image with noise from the original, because the noise restores what
the blur took. The random convolutions know, beside textures, where in the image things are.

Letters: B images; H W C image height, width, channels; F features; h w those of a band.

Reference: Mallat, "Group invariant scattering", 2012, for averaged moduli of wavelet coefficients. These
are of the first order, with a saturating function in place of the modulus.
"""

import functools

import jax
import jax.numpy as jnp

from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.features import random_conv
from structured_obs.evaluation.features.extractor import Extractor

Array = jax.Array

NAME = 'bands'
SCALES = 3  # of the bands: differences of means over 1, 2 and 4 pixels
THRESHOLDS = (1 / 16, 1 / 4, 1.0)  # t, of pixels in [-1, 1]


@functools.lru_cache
def bands(image: ImageShape) -> Extractor:
  """Returns the extractor 'bands' for images of this shape; the same on every machine."""
  kernels = random_conv.kernels_of(image)
  mark = random_conv.fingerprint_of(kernels, (SCALES, *THRESHOLDS))
  return Extractor(NAME, mark, _features, _maps, kernels)


def _features(kernels: tuple[Array, ...], images: Array) -> Array:
  means = [y.mean((1, 2)) for y in saturated(images)]
  return jnp.concatenate([*means, random_conv.features(kernels, images)], axis=-1)


def _maps(kernels: tuple[Array, ...], images: Array) -> tuple[Array, ...]:
  return (*saturated(images), *random_conv.maps(kernels, images))


def saturated(images: Array) -> list[Array]:
  """Returns |w| / (|w| + t) of images [B, H, W, C], [B, h, w, 9 C] for every scale.

  Scales whose differences reach over more than the image are left out; the first one needs 2 x 2 pixels.
  """
  found = []
  for band in haar_bands(_opponent(images)):
    size = jnp.abs(band)
    found.append(jnp.concatenate([size / (size + threshold) for threshold in THRESHOLDS], axis=-1))
  return found


def haar_bands(images: Array) -> list[Array]:
  """Returns Haar coefficients [B, h, w, 3 C] at every pixel of images [B, H, W, C], finest scale first.

  Those of differences across, down and of both, of means over 1, 2, 4, .. pixels: h = H - 1, H - 3, ...
  """
  low, found = images, []
  for scale in range(SCALES):
    step = 2**scale
    if min(low.shape[1:3]) <= step:
      break
    a, b = low[:, :-step, :-step], low[:, :-step, step:]
    c, d = low[:, step:, :-step], low[:, step:, step:]
    found.append(jnp.concatenate([a - b + c - d, a + b - c - d, a - b - c + d], axis=-1) / 2)
    low = (a + b + c + d) / 4
  return found


def _opponent(images: Array) -> Array:
  """Returns brightness and two differences of colours [B, H, W, 3] of RGB images; others unchanged."""
  if images.shape[-1] != 3:
    return images
  red, green, blue = (images[..., channel] for channel in range(3))
  return jnp.stack([(red + green + blue) / 3, (red - blue) / 2, (2 * green - red - blue) / 4], axis=-1)
