"""The section on images with masks: errors of the pixels that count, and what is left out.

Letters: N images; B of them at a time.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.evaluation import likelihood, passes, tables
from structured_obs.evaluation.metrics import image_errors
from structured_obs.evaluation.sections.base import Evaluated, Section
from structured_obs.models import masks
from structured_obs.runs.trained import Trained

Array = jax.Array
NAME = 'masked'

EXPLANATION = """\
Some pixels of these images do not count. All densities and distances are those of the pixels that do,
the exact marginal ones; D is their number in each image, with all channels, and bits/dim are by it. PSNR
is of the mean of p(x|z) at the mean of q(z|x), clipped to [-1, 1], over these pixels. The encoder sees 0
(gray) elsewhere, and so do the figures show originals.

Left out, because they compare whole images: SSIM, features and spectra, new images, recalibration, and
the checks of predicted distributions and of whitened residuals."""


def applies(evaluated: Evaluated) -> bool:
  """Returns whether the images have masks."""
  return any(result.trained.model.masked for result in evaluated.found)


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None for images without masks."""
  if not applies(evaluated):
    return None
  models = [one.trained for one in evaluated.found if one.trained.model.traits.reconstructs]
  ratios = {one.name: _ratios(one, evaluated.images, evaluated.where) for one in models}
  counted = evaluated.found[0].scores.counted
  assert counted is not None
  return Section(NAME, _text(ratios, counted), _json(ratios, counted), _arrays(ratios))


def _ratios(trained: Trained, images: np.ndarray, where: passes.Where) -> np.ndarray:
  """Returns the PSNR of the pixels of each image that count. [N], decibels."""
  job = passes.Pass(
    _measure, trained.model, trained.spec.levels, batch_size=trained.config.eval.batch_size
  )
  errors = passes.over_images(job, trained.variables, images, jax.random.key(0), where)
  return image_errors.ratio(errors)


def _measure(job: passes.Pass, variables: Any, keys: Array, x: Array) -> Array:
  """Returns the mean squared error of the pixels of each image that count. [B]."""
  del keys
  mean = jnp.clip(jax.vmap(job.model.family.mean)(job.bound(variables).reconstruct(None, x)), -1, 1)
  error = jnp.square(mean - masks.pixels(job.model, x))
  mask = masks.of_images(job.model, x)
  error = error if mask is None else jnp.where(mask, error, 0)
  return jnp.sum(error, axis=(1, 2, 3)) / masks.counted(job.model, x)


def _text(ratios: Mapping[str, np.ndarray], counted: np.ndarray) -> str:
  first, *others = ratios
  header = [f'mean over {len(counted)} images', *ratios, *(f'{other} - {first}' for other in others)]
  known = image_errors.without_exact
  cells = [tables.mean_cell(known(values)[0], 2) for values in ratios.values()]
  pairs = (known(ratios[other], ratios[first]) for other in others)
  cells += [tables.difference_cell(own, base, 2) for own, base in pairs]
  table = tables.markdown_table([header, ['PSNR of the pixels that count, dB', *cells]])
  number = (
    f'An image has {np.mean(counted):.1f} values that count on average, at least {np.min(counted):.0f}.'
  )
  return tables.paragraphs('## Masks', table, number, image_errors.exact(ratios), EXPLANATION)


def _json(ratios: Mapping[str, np.ndarray], counted: np.ndarray) -> dict[str, Any]:
  known = {name: image_errors.without_exact(values) for name, values in ratios.items()}
  return {
    'counted': likelihood.summarize(counted)._asdict(),
    'models': {
      name: {'psnr_db': likelihood.summarize(*values)._asdict()} for name, values in known.items()
    },
  }


def _arrays(ratios: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {f'{name}/psnr_db': values for name, values in ratios.items()}
