"""A small picture of a training that runs: validation images, their means and samples, and new images.

Written at every validation, and when a signal stops the run; always of the same images and noise, so
that the pictures of two steps differ by the model alone. The newest is `figures/validation.png`.

Letters: n images in a row; H W C image height, width, channels.
"""

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from structured_obs import plotting
from structured_obs.data import pixels
from structured_obs.data.prepare import Prepared
from structured_obs.devices.keys import numbered_keys
from structured_obs.models import masks
from structured_obs.models.base import Bound, Variables
from structured_obs.runs.experiment import Experiment

Array = jax.Array

FILE = Path('figures') / 'validation.png'  # in the workdir
SHOWN = 8  # n


class Drawn(NamedTuple):
  """Images of a model, [n, H, W, C] each."""

  mean: np.ndarray
  sample: np.ndarray
  new: np.ndarray | None  # samples at latents of the prior, of a model that has one


def write(
  workdir: Path, experiment: Experiment, variables: Variables, prepared: Prepared, step: int
) -> np.ndarray | None:
  """Draws the picture; call it on one process of a run on several hosts.

  Args:
    workdir: of the run.
    experiment: its model and spec.
    variables: of the model, on any devices.
    prepared: whose first validation images are shown, or training images where there are none.
    step: for the title.

  Returns:
    The same images side by side, uint8 [height, width, 3]; None, without a picture, for a model that
    gives no images.
  """
  model, spec = experiment.model, experiment.spec
  if not model.traits.reconstructs or model.traits.classifies:
    return None
  split = 'validation' if len(prepared.images['validation']) else 'train'
  x = pixels.to_unit(np.asarray(prepared.images[split][:SHOWN]), spec.levels)
  local = jax.tree.map(lambda leaf: leaf.addressable_data(0), variables)
  drawn = Drawn(*jax.device_get(_draw(Bound(model, local), x)))
  shown = {
    f'{split} image': np.asarray(masks.pixels(model, x)),
    'mean': drawn.mean,
    'sample': drawn.sample,
    'new sample': drawn.new,
  }
  rows = [plotting.Row(name, images) for name, images in shown.items() if images is not None]
  likelihood = experiment.config.likelihood
  family = '+'.join((likelihood.family, *likelihood.wrappers))
  path = workdir / FILE
  part = path.with_suffix('.tmp')  # a kill leaves the picture of before
  plotting.image_rows(part, rows, title=f'{family}, step {step}, {spec.source}')
  os.replace(part, path)
  return plotting.mosaic(np.stack([row.images for row in rows]))


@jax.jit
def _draw(bound: Bound, x: Array) -> tuple[Array, Array, Array | None]:
  """Returns the fields of `Drawn`, on the device."""
  family, keys = bound.model.family, functools.partial(numbered_keys, count=len(x))
  posterior, noise, prior, other = jax.random.split(jax.random.key(0), 4)

  def sample(key: Array, params: Any) -> Array:
    return jax.vmap(family.sample)(keys(key), params)

  params = bound.predict(keys(posterior), x)
  new = sample(other, bound.generate(keys(prior))) if bound.model.traits.has_prior else None
  return jax.vmap(family.mean)(params), sample(noise, params), new
