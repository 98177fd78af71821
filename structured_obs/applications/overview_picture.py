"""One picture of what a covariance buys: a block of images for each model, the same test images in all.

Letters: n images in a block; H W C image height, width, channels.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import plotting
from structured_obs.applications import completion, overview
from structured_obs.data import pixels
from structured_obs.evaluation.figures import views
from structured_obs.runs.trained import Trained

SHOWN = 4  # n
CHAINS = 2  # completions of each image


def draw(path: Path, models: Sequence[Trained], images: np.ndarray, seed: int = 0) -> Path:
  """Draws means, samples, completions of a hidden half and correlations of every model, side by side.

  Args:
    path: of the PNG file.
    models: VAEs of the same images, with a covariance.
    images: uint8 [N, H, W, C]; the first ones are shown.
    seed: of all that is drawn; every model has the same noise.
  """
  first = models[0]
  title = f'{first.spec.source}: test images, and what {len(models)} models make of them'
  rows = overview.of_each(lambda one: _block(one, images[:SHOWN], seed), models)
  blocks = {f'{one.name}, step {one.step}': rows[one.name] for one in models}
  return plotting.image_blocks(path, blocks, title)


def _block(trained: Trained, images: np.ndarray, seed: int) -> list[plotting.Row]:
  x = pixels.to_unit(np.asarray(images), trained.spec.levels)
  row, column, channel = _marked(np.asarray(x))
  request = views.Request((row, column, channel), samples=2, components=0)
  found = views.of_reconstructions(trained.bound, x, jax.random.key(seed), request)
  assert found.correlation is not None
  observed = np.ones(x.shape[1:], bool)
  observed[x.shape[1] // 2 :] = False
  keys = jax.random.split(jax.random.key(seed + 1), len(x))
  completed = [
    jax.device_get(completion.complete(trained.bound, one, jnp.asarray(observed), key, CHAINS))
    for one, key in zip(x, keys, strict=True)
  ]
  means = np.stack([one.mean[0] for one in completed])
  samples = np.stack([one.sample for one in completed], axis=1)
  hidden = np.broadcast_to(~observed[..., 0], x.shape[:3])
  return [
    plotting.Row('test image', np.asarray(x)),
    plotting.Row('mean of p(x|z)', found.mean),
    *(plotting.Row(f'sample {i + 1}', sample) for i, sample in enumerate(found.samples)),
    plotting.Row('half hidden', np.where(observed, x, 0), outline=hidden),
    plotting.Row('completed:\nmean', means),
    *(plotting.Row(f'completed:\nsample {i + 1}', sample) for i, sample in enumerate(samples)),
    plotting.Row(
      f'correlation with\npixel ({row}, {column})',
      found.correlation[..., channel : channel + 1], 'signed', (row, column), 1.0,
    ),
  ]  # fmt: skip


def _marked(x: np.ndarray) -> tuple[int, int, int]:
  """Returns row, column and channel of the pixel that differs most between images, not at a border."""
  spread = np.std(x, axis=0)
  inner = np.zeros_like(spread)
  height, width = spread.shape[:2]
  kept = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
  inner[kept] = spread[kept]
  row, column, channel = np.unravel_index(int(np.argmax(inner)), inner.shape)
  return int(row), int(column), int(channel)
