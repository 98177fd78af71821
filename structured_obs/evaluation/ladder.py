"""Originals with noise and blur, whose features show what a distance in these features sees.

Other originals, which a perfect model's samples would be like, get white noise of two levels, Gaussian
blur of two widths, and both. Noise and blur of a pair have the same mean squared error, after clipping
to [-1, 1]. In good features each step is farther from the originals than the one below it; in others,
such as those that cannot see noise, distances do not rank samples.

Letters: N images; H W C image height, width, channels; F features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.data import pixels
from structured_obs.evaluation import blur, passes
from structured_obs.evaluation.features import extractor as extractors

Array = jax.Array

NOISE = (0.1, 0.2)  # standard deviations, of pixels in [-1, 1]
SAMPLE = 256  # images that the widths of the blur are found on


class Rung(NamedTuple):
  """Images of one step: blurred first, then mixed with noise."""

  width: float = 0.0  # of the blur, pixels; 0 for none
  noise: float = 0.0  # standard deviation

  @property
  def name(self) -> str:
    """What was done to the images, for tables."""
    parts = [f'blur {self.width:.2f}'] if self.width else []
    return ', '.join([*parts, *([f'noise {self.noise:g}'] if self.noise else [])])


class Check(NamedTuple):
  """Two rungs, of which the first must be farther from the originals."""

  worse: int
  better: int


# Indices of `rungs_of`.
CHECKS = (Check(1, 0), Check(2, 1), Check(3, 0), Check(4, 3), Check(5, 3), Check(6, 4))
PAIRS = ((1, 3), (2, 4))  # noise and blur of the same squared error


class Wanted(NamedTuple):
  """What to measure of a batch; hashable."""

  extractor: extractors.Extractor  # without its weights
  rungs: tuple[Rung, ...]
  channels: int  # of an image, without those that a model is given about it


def rungs_of(images: np.ndarray, levels: int, seed: int = 0) -> tuple[Rung, ...]:
  """Returns the steps: nothing, noise, more noise, blur, more blur, and both of either pair.

  Args:
    images: [N, H, W, C], as stored, without further channels.
    levels: gray levels of the images.
    seed: of the noise.
  """
  x = np.asarray(pixels.to_unit(np.asarray(images[:SAMPLE]), levels))
  drawn = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
  widths = [
    blur.width_of_error(x, float(np.mean(np.square(np.clip(x + noise * drawn, -1, 1) - x))))
    for noise in NOISE
  ]
  return (
    Rung(),
    *(Rung(noise=noise) for noise in NOISE),
    *(Rung(width) for width in widths),
    *(Rung(width, noise) for width, noise in zip(widths, NOISE, strict=True)),
  )


def measure(job: passes.Pass, weights: Any, keys: Array, x: Array) -> dict[str, dict[str, Array]]:
  """Returns features [B, F] and squared errors [B] of every rung, by its index, of images [B, H, W, C].

  The noise of an image is the same in all of its rungs.
  """
  wanted: Wanted = job.options
  x = x[..., : wanted.channels]
  noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)
  rows, errors = {}, {}
  for index, rung in enumerate(wanted.rungs):
    y = blur.blurred(x, rung.width) if rung.width else x
    y = jnp.clip(y + rung.noise * noise, -1, 1) if rung.noise else y
    rows[str(index)] = extractors.rows(wanted.extractor, weights, y)
    errors[str(index)] = jnp.mean(jnp.square(y - x), axis=(1, 2, 3))
  return {'features': rows, 'errors': errors}


def indices(rungs: Sequence[Rung]) -> list[str]:
  """Returns the names of rungs in the result of `measure`."""
  return [str(index) for index in range(len(rungs))]
