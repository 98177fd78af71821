"""Consistency of super-resolution models: does the large image shrink back to the small image y?

Nothing forces a decoder p(x|y, z) to be consistent: the small image d(x) of an image x may differ from
y. We report the mean over pixels of |d(x) - y|, for means and samples of p(x|y, z):

  reconstruction    y = d(image), z the mean of q(z|image)
  super-resolution  y = d(image), u ~ q(u|y), z ~ p(z|y, u)
  new image         u ~ p(u), y ~ p(y|u), z ~ p(z|y, u)

Letters: N images; B of them at a time.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.evaluation import finite, likelihood, passes, tables
from structured_obs.evaluation.sections.base import Evaluated, Section
from structured_obs.models import intermediate_images
from structured_obs.models.base import Bound, Model, Variables
from structured_obs.runs.trained import Trained

Array = jax.Array

SCORED = 256  # N at most
BATCH = 32  # B
KINDS = ('reconstruction', 'super-resolution', 'new image')
OF = ('mean', 'sample')


def distance(model: Model, x: Array, y: Array) -> Array:
  """Returns the mean of |d(x) - y| for images x [B, H, W, C] and y [B, h, w, c]. [B], in gray levels.

  Args:
    model: with two levels.
    x: in [-1, 1].
    y: in [-1, 1].
  """
  apart = jnp.abs(Bound(model, {}).compress(x) - y)
  return jnp.mean(apart, axis=(1, 2, 3)) * ((model.family.levels - 1) / 2)


def of_models(
  models: Sequence[Trained], images: np.ndarray, seed: int = 0, where: passes.Where = passes.HERE
) -> dict[str, dict[str, np.ndarray]]:
  """Returns distances [N] by kind, by the name of each model that draws a small image first.

  Args:
    models: of the same images.
    images: [N, H, W, C] as stored; the first 256 are used.
    seed: of the draws.
    where: devices to run on, and the directory to keep unfinished work in.
  """
  found = {}
  for trained in models:
    if trained.model.traits.two_levels:
      wanted = passes.Pass(_measure, trained.model, trained.spec.levels, batch_size=BATCH)
      key, shown = jax.random.key(seed), images[:SCORED]
      found[trained.name] = passes.over_images(wanted, trained.variables, shown, key, where)
  return found


def _measure(job: passes.Pass, variables: Variables, keys: Array, x: Array) -> dict[str, Array]:
  """Returns distances [B] by kind, 'new image, mean' and so on."""
  model, bound, found = job.model, job.bound(variables), {}
  y = bound.compress(x)
  keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
  given = (
    (Bound.reconstruct, None, x),
    (Bound.super_resolve, keys[:, 0], y),
    (Bound.generate, keys[:, 1]),
  )
  for kind, (method, *arguments) in zip(KINDS, given, strict=True):
    params, shown = intermediate_images.watched(bound, method, *arguments)
    drawn = jax.vmap(model.family.mean)(params), jax.vmap(model.family.sample)(keys[:, 2], params)
    for what, image in zip(OF, drawn, strict=True):
      found[f'{kind}, {what}'] = distance(model, image, shown['y'])
  return found


def text(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
  """Returns a Markdown table with one column per model."""
  counts = {len(values) for scores in found.values() for values in scores.values()}
  rows = [[f'gray levels, mean over the first {max(counts)} images', *found]]
  for kind in KINDS:
    for what in OF:
      label = f'{kind}, {what}'
      cells = [tables.mean_cell(scores[label], 3) for scores in found.values()]
      rows.append([label, *cells])
  return tables.paragraphs(
    '## Consistency of large and small images',
    tables.markdown_table(rows),
    finite.sentences(
      {f'{name}: {label}': values for name, scores in found.items() for label, values in scores.items()}
    ),
    'The distance of the large image shrunk again, d(x), from the small image y that it was drawn for: '
    'the absolute difference, averaged over pixels, for the mean of p(x|y, z) and for a sample. 0 is '
    'best.',
  )


def as_json(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
  """Returns summaries by model and kind, in gray levels."""
  return {
    name: {label: likelihood.summarize(values)._asdict() for label, values in scores.items()}
    for name, scores in found.items()
  }


def per_image(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Returns arrays for np.savez, by 'NAME/consistency/KIND'."""
  return {
    f'{name}/consistency/{label}': values
    for name, scores in found.items()
    for label, values in scores.items()
  }


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  models = [result.trained for result in evaluated.found]
  found = of_models(models, evaluated.images, evaluated.seed, evaluated.where)
  if not found:
    return None
  arrays = per_image(found)
  return Section('consistency', text(found), as_json(found), arrays)
