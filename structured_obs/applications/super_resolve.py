"""Enlarges small images with a two-level model, and measures the errors.

Given y, a model draws u ~ q(u|y), z ~ p(z|y, u) and x ~ p(x|y, z). One such x guesses the details, and
has about twice the squared error of the mean of all of them. It is therefore shown beside the mean of
p(x|y, z) over several draws of u and z, an estimate of E[x|y]. Beside them stand interpolations and two
regressions learnt from the training images (`regression`). Only a model with the option `consistent` is
forced to agree with y: for every method the report has the distance of d(x) from y, in gray levels.

Letters: N images; S draws; H W C image height, width, channels; h w c those of y.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, section 3.3, figure 3.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import plotting, strict_json
from structured_obs.applications import regression
from structured_obs.data import decode, pixels
from structured_obs.distributions import base
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import finite, likelihood, tables
from structured_obs.evaluation.figures import labels
from structured_obs.evaluation.metrics import image_errors
from structured_obs.evaluation.sections import consistency
from structured_obs.models import intermediate_images, latent_priors
from structured_obs.models.base import Bound, Model
from structured_obs.runs.trained import Trained

Array = jax.Array

BASELINES = {'bilinear': 'bilinear', 'bicubic': 'cubic'}  # our names and those of `jax.image`
AGAINST = 'bilinear'  # the method that the others are compared with
MEAN = 'mean of draws'
LINEAR, RIDGE = 'linear regression', 'kernel ridge regression'
SHOWN = 8  # images in the figure


class Settings(NamedTuple):
  """What to draw."""

  samples: int = 4  # S
  sample_mode: str = 'sample'  # or 'mode', of p(x|y, z)
  batch_size: int = 64  # images at a time
  seed: int = 0
  pixel_noise: bool = True  # whether samples have the family's floor of independent pixel noise


class Resolved(NamedTuple):
  """Large images for N small ones, all in [-1, 1]."""

  y: np.ndarray  # [N, h, w, c]
  samples: np.ndarray  # [S, N, H, W, C]  of p(x|y, z), or its modes; u and z drawn anew for each
  methods: dict[str, np.ndarray]  # [N, H, W, C] each, by name, including the first sample
  consistency: dict[str, np.ndarray]  # [N] each: mean |d(x) - y|, in gray levels


def check(model: Model) -> None:
  """Raises a ValueError unless a model has two levels."""
  if not model.traits.two_levels:
    raise ValueError(
      "Super-resolution needs a model with two levels, --config.model.kind=sr_vae; this one has no "
      "small image between its latents and its images."
    )


def compress(trained: Trained, x: np.ndarray) -> np.ndarray:
  """Returns small images [N, h, w, c] of large ones [N, H, W, C]."""
  return np.asarray(trained.compress(jnp.asarray(x)))


def regressions(trained: Trained, x: np.ndarray) -> dict[str, regression.Upscale]:
  """Returns the regressions that the training images x [N, H, W, C] in [-1, 1] teach, by name."""
  x = x[: regression.IMAGES]
  starts = range(0, len(x), regression.CHUNK)
  y = np.concatenate([compress(trained, x[i : i + regression.CHUNK]) for i in starts])
  ridge = regression.kernel_ridge(y, x)
  return {LINEAR: regression.local_linear(y, x)} | ({} if ridge is None else {RIDGE: ridge})


def resolve(
  trained: Trained,
  y: np.ndarray,
  settings: Settings,
  learnt: Mapping[str, regression.Upscale] | None = None,
) -> Resolved:
  """Enlarges small images by the model and by the baselines.

  Args:
    trained: a two-level model.
    y: [N, h, w, c], on the grid of gray levels.
    settings: what to draw.
    learnt: other baselines, by name; their images are put on the grid.

  Raises:
    ValueError: the model has one level, there is nothing to draw, or the sample mode is unknown.
  """
  check(trained.model)
  if settings.samples < 1 or not len(y):
    raise ValueError(
      'There must be a small image and at least one draw (--samples); got '
      f'{len(y)} images and --samples={settings.samples}.'
    )
  model = intermediate_images.by_mode(trained.model, settings.sample_mode)
  model = intermediate_images.by_pixel_noise(model, settings.pixel_noise)
  bound = Bound(model, trained.variables)
  key, samples, means, large = jax.random.key(settings.seed), [], [], {name: [] for name in BASELINES}
  for first in range(0, len(y), settings.batch_size):
    rows = jnp.asarray(y[first : first + settings.batch_size])
    indices = jnp.arange(first, first + len(rows), dtype=jnp.int32)
    # One draw after the other: on CPUs, XLA is slow at convolutions inside its own loops.
    drawn = [
      jax.device_get(_draw(bound, key, indices, jnp.int32(sample), rows))
      for sample in range(settings.samples)
    ]
    samples.append(np.stack([sample for sample, _ in drawn]))
    means.append(np.mean([mean for _, mean in drawn], axis=0))
    for name, method in BASELINES.items():
      large[name].append(np.asarray(bound.upscale(rows, method)))
  together = np.concatenate(samples, axis=1)
  methods = {name: np.concatenate(parts) for name, parts in large.items()}
  for name, upscale in (learnt or {}).items():
    methods[name] = np.asarray(base.round_to_levels(jnp.asarray(upscale(y)), trained.spec.levels))
  methods |= {settings.sample_mode: together[0], MEAN: np.concatenate(means)}
  distance = jax.jit(functools.partial(consistency.distance, model))
  distances = {name: np.asarray(distance(x, y), np.float64) for name, x in methods.items()}
  return Resolved(np.asarray(y), together, methods, distances)


def of_any_size(trained: Trained, small: ImageShape) -> Trained:
  """Returns the same networks for small images of another height and width.

  Raises:
    ValueError: the images are too small for the reduction to latents, or have other channels.
  """
  check(trained.model)
  model = trained.model
  own = _compressed(model)
  if small.channels != own.channels:
    raise ValueError(
      f'The model needs small images of {own.channels} channel(s); these have {small.channels}.'
    )
  rows, columns = model.image.height // own.height, model.image.width // own.width
  image = ImageShape(small.height * rows, small.width * columns, model.image.channels)
  # The prior is not used, and a learnt one may not fit latents of this size.
  return trained._replace(model=model.clone(image=image, prior=latent_priors.STANDARD, prior_options={}))


def read_small(trained: Trained, paths: Sequence[str]) -> np.ndarray:
  """Reads image files as small images [N, h, w, c] in [-1, 1], without resizing.

  Raises:
    ValueError: their sizes differ.
  """
  channels = _compressed(trained.model).channels
  target = decode.Target(0, 0, channels, 'none', 'area')
  images = [decode.fit(decode.decode(path, path), target) for path in paths]
  sizes = {image.shape for image in images}
  if len(sizes) > 1:
    raise ValueError(
      f'With --small all --files must have one size; these have {", ".join(map(str, sorted(sizes)))}.'
    )
  return on_grid(trained, np.stack(images))


def on_grid(trained: Trained, images: np.ndarray) -> np.ndarray:
  """Returns images of files, [N, H, W, C] uint8, in [-1, 1] on the model's gray levels."""
  return np.asarray(base.round_to_levels(pixels.to_unit(images, 256), trained.spec.levels))


def table(found: Resolved, truth: np.ndarray | None) -> tuple[str, dict[str, Any]]:
  """Returns PSNR, its difference from bilinear, and consistency, as Markdown and for JSON.

  Sentences below the table say which images are exact or not finite.

  Args:
    found: the methods to compare.
    truth: [N, H, W, C] in [-1, 1]; None leaves out what needs it.
  """
  ratios = (
    {}
    if truth is None
    else {name: image_errors.peak_signal_to_noise(x, truth) for name, x in found.methods.items()}
  )
  head = ['PSNR, dB', f'PSNR - {AGAINST}'] if ratios else []
  lines = [[f'mean over {len(found.y)} images', *head, 'distance of d(x) from y, levels']]
  tree: dict[str, Any] = {}
  for name in found.methods:
    distance = likelihood.summarize(found.consistency[name])
    tree[name] = {'consistency_levels': distance._asdict()}
    cells = []
    if ratios:
      ratio = likelihood.summarize(*image_errors.without_exact(ratios[name]))
      pair = image_errors.without_exact(ratios[name], ratios[AGAINST])
      difference = likelihood.paired_difference(*pair)
      tree[name] |= {'psnr_db': ratio._asdict(), f'psnr_minus_{AGAINST}_db': difference._asdict()}
      cells = [tables.cell(ratio, 2), '' if name == AGAINST else tables.cell(difference, 2)]
    lines.append([name, *cells, tables.cell(distance, 2)])
  notes = image_errors.exact(ratios), finite.sentences({**found.consistency})
  return tables.paragraphs(tables.markdown_table(lines), *notes), tree


def write(output: Path, title: str, found: Resolved, truth: np.ndarray | None) -> str:
  """Writes super_resolution.png, images.npz, report.md and scores.json; returns text to print.

  Args:
    output: directory to write to.
    title: of the report.
    found: the methods to compare.
    truth: [N, H, W, C] in [-1, 1], or None.
  """
  text, tree = table(found, truth)
  rows = [plotting.Row('y', found.y[:SHOWN])]
  baselines = [name for name in (*BASELINES, LINEAR, RIDGE) if name in found.methods]
  drawn = {name: found.methods[name] for name in baselines}
  drawn |= {f'sample {i + 1}': x for i, x in enumerate(found.samples[:3])}
  known = None if truth is None else truth[:SHOWN]
  for name, x in (drawn | {MEAN: found.methods[MEAN]}).items():
    rows.append(labels.scored_row(name, x[:SHOWN], known))
  if known is not None:
    rows.append(plotting.Row('original', known))
  unit = '' if truth is None else '; PSNR in dB'
  plotting.image_rows(output / 'super_resolution.png', rows, title=f'{title}{unit}')
  arrays: Mapping[str, Any] = {
    'y': found.y,
    'samples': found.samples,
    **{name.replace(' ', '_'): x for name, x in found.methods.items()},
    **({} if truth is None else {'original': truth}),
  }
  np.savez_compressed(output / 'images.npz', **arrays)
  (output / 'scores.json').write_text(strict_json.text(tree))
  about = (
    'PSNR is per image, the peak from black to white; ± is the standard error over images, and for a '
    'difference that of the differences per image. d(x) is the large image shrunk again.'
  )
  (output / 'report.md').write_text(f'# {title}\n\n{text}\n\n{about}\n')
  return f'{text}\nwritten to {output}: super_resolution.png, images.npz, report.md, scores.json'


@jax.jit
def _draw(bound: Bound, key: Array, indices: Array, sample: Array, y: Array) -> tuple[Array, Array]:
  """Returns one sample per y, by its index, and the mean of its p(x|y, z). [B, H, W, C] each."""

  def keys_of(index: Array) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, index), sample))

  pairs = jax.vmap(keys_of)(indices)
  family, params = bound.model.family, bound.super_resolve(pairs[:, 0], y)
  drawn = jax.vmap(family.sample)(pairs[:, 1], params)
  return drawn, jax.vmap(family.mean)(params)


def _compressed(model: Model) -> ImageShape:
  """Returns the shape of a model's small images."""
  shape = jax.eval_shape(Bound(model, {}).compress, jnp.zeros((1, *model.image)))
  return ImageShape(*shape.shape[1:])
