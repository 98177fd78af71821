"""What a network learns without labels: how an image was turned, blurred and mixed with white noise.

Half of the images have no noise, and half no blur; the others have amounts that are uniform in their
logarithms. The network tells the grade of each, not the amount. Where the data have labels, it also
learns the class of the image.

Letters: B images; H W C image height, width, channels; F features; K classes; G grades of a corruption.

References: Gidaris et al., "Unsupervised representation learning by predicting image rotations", 2018,
for turned images.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from structured_obs.evaluation import blur

Array = jax.Array

NOISE = (0.02, 0.4)  # smallest and largest standard deviation, of pixels in [-1, 1]
BLUR = (0.3, 3.0)  # smallest and largest width, pixels
GRADES = 5  # G: none, and 4 of equal size in the logarithm
TURNS = 4


def tasks(features: int, classes: int) -> dict[str, dict[str, Array]]:
  """Returns the last layers: for each task a kernel [F, answers] and a bias, all 0.

  Args:
    features: F.
    classes: K, of the images; there is no such task for 0 or 1.
  """
  answers = {'noise': GRADES, 'blur': GRADES, 'turn': TURNS}
  answers |= {'class': classes} if classes > 1 else {}
  return {
    name: {
      'kernel': jnp.zeros((features, count), jnp.float32),
      'bias': jnp.zeros(count, jnp.float32),
    }
    for name, count in answers.items()
  }


def corrupted(key: Array, images: Array) -> tuple[Array, dict[str, Array]]:
  """Returns images [B, H, W, C] after random corruptions, and the right answer [B] of each task."""
  keys = jax.random.split(key, 4)
  count = len(images)
  turn = jax.random.randint(keys[0], (count,), 0, TURNS, jnp.int32)
  width, blur_grade = _amounts(keys[1], count, BLUR)
  deviation, noise_grade = _amounts(keys[2], count, NOISE)
  x = blur.blurred(_turned(images, turn), width)
  noise = jax.random.normal(keys[3], x.shape, x.dtype)
  x = jnp.clip(x + deviation[:, None, None, None] * noise, -1, 1)
  return x, {'noise': noise_grade, 'blur': blur_grade, 'turn': turn}


def _amounts(key: Array, count: int, ends: tuple[float, float]) -> tuple[Array, Array]:
  """Returns random amounts [B], half of them 0, and their grades [B]."""
  first, second = jax.random.split(key)
  share = jax.random.uniform(first, (count,), jnp.float32)
  amount = ends[0] * jnp.exp(share * math.log(ends[1] / ends[0]))
  some = jax.random.bernoulli(second, 0.5, (count,))
  grade = 1 + jnp.floor(share * (GRADES - 1)).astype(jnp.int32)
  return jnp.where(some, amount, 0.0), jnp.where(some, grade, 0)


def _turned(images: Array, turn: Array) -> Array:
  """Returns images turned by quarters; those that are not square, flipped across, down or both."""
  square = images.shape[1] == images.shape[2]
  views = [
    jnp.rot90(images, k, (1, 2)) if square else jnp.flip(images, [axis for axis in (1, 2) if k & axis])
    for k in range(TURNS)
  ]
  return jnp.stack(views)[turn, jnp.arange(len(images), dtype=jnp.int32)]


def losses(
  layers: Mapping[str, Any], features: Array, answers: Mapping[str, Array]
) -> tuple[Array, dict[str, Array]]:
  """Returns the cross-entropy [] of all tasks together, in nats, and the accuracy of each.

  Args:
    layers: of `tasks`.
    features: [B, F].
    answers: [B] integers, the right answer of each task.
  """
  total, right = jnp.zeros((), features.dtype), {}
  for name, layer in layers.items():
    answer = jnp.asarray(answers[name], jnp.int32)
    logits = features @ layer['kernel'] + layer['bias'][None]
    log_p = jax.nn.log_softmax(logits)
    total = total - jnp.mean(jnp.take_along_axis(log_p, answer[:, None], axis=1))
    right[name] = jnp.mean((jax.lax.argmax(logits, 1, jnp.int32) == answer).astype(features.dtype))
  return total, right
