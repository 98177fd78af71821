"""Figures that show what a structured p(x|z) adds to a mean, as in the paper that proposed it.

Reconstructions and images from the prior with one residual sample, a path through the latent space with
fixed noise, and maps of standard deviations and of correlations with one pixel, beside those of other
models.

Letters: N images; T steps of a path; H W C image height, width, channels.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, figures 7 to 10.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import plotting
from structured_obs.data import pixels
from structured_obs.devices.keys import numbered_keys
from structured_obs.distributions import elliptical, gaussian
from structured_obs.distributions.base import Family
from structured_obs.evaluation.figures import labels, views
from structured_obs.models import masks
from structured_obs.runs.trained import Trained

Array = jax.Array

SHOWN = 8  # images in a row
STEPS = 8  # T
WAYS = 2  # paths, each starting at another image


class Drawn(NamedTuple):
  """A distribution's mean and one sample around it."""

  mean: np.ndarray  # [N, H, W, C]
  residual: np.ndarray  # [N, H, W, C]  sample - mean


def draw(family: Family, params: Any, keys: Array) -> Drawn:
  """Returns mean and one residual of N distributions, from parameters with a leading N and keys [N].

  Equal keys give equal noise: residuals of Gaussian families then differ only as their covariances do.

  Args:
    family: of the distributions.
    params: with a leading N.
    keys: [N].
  """
  return Drawn(*jax.device_get(_draw(family, params, keys)))


def interpolation(trained: Trained, ends: Array, key: Array, steps: int = STEPS) -> Drawn:
  """Returns distributions on the straight path between two images' latents, of one noise. [T, H, W, C].

  Args:
    trained: a model with latents.
    ends: [2, H, W, C], floats in [-1, 1].
    key: of the noise.
    steps: T.
  """
  z = jax.tree.map(functools.partial(_way, steps), trained.infer(ends))
  keys = jnp.broadcast_to(key[None], (steps,))
  return draw(trained.model.family, trained.decode(z), keys)


def write(
  directory: Path, models: Sequence[Trained], images: np.ndarray, seed: int = 0
) -> dict[str, Path]:
  """Draws every figure that the models allow, and returns the paths by title.

  Args:
    directory: to write to.
    models: of the same images; the path through the latent space and the prior use the first.
    images: [N, H, W, C] of a split; the first 8 are shown.
    seed: of the samples.
  """
  key = jax.random.key(seed)
  x = pixels.to_unit(images[:SHOWN], models[0].spec.levels)
  first = models[0]
  found = {
    'Reconstructions with one residual sample': _reconstructions(
      directory / 'residuals.png', models, x, key
    )
  }
  covariances = [trained for trained in models if elliptical.has_covariance(trained.model.family)]
  if covariances:
    title = 'Standard deviation of every pixel'
    found[title] = _deviations(directory / 'deviations.png', covariances, x, key)
    title = 'Correlation of every pixel with one'
    found[title] = _correlations(directory / 'correlations.png', covariances, x)
  if first.model.traits.has_prior:
    title = 'New images from the prior with one residual sample'
    found[title] = _prior(directory / 'prior.png', models, key)
  if first.model.traits.has_latents:
    title = 'From an image to its mirror image, and to another one, with the noise fixed'
    found[title] = _ways(directory / 'interpolation.png', first, x, key)
  return found


def sample_grid(path: Path, models: Sequence[Trained], size: int, seed: int = 0) -> Path:
  """Draws size x size samples of each model, means and noise from their priors, side by side.

  Args:
    path: of the PNG file.
    models: with priors, of images of one size.
    size: rows and columns.
    seed: of the samples.

  Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
  Autoencoders", 2022, figure 3.

  Raises:
    ValueError: a model has no prior, or another size of images than the first.
  """
  blocks, headings = [], []
  for trained in models:
    if not trained.model.traits.has_prior or trained.model.image != models[0].model.image:
      raise ValueError(
        f'A grid of samples of {models[0].workdir} and {trained.workdir} is not possible: all models '
        f'need a prior and images of {tuple(models[0].model.image)}; omit the other from --compare.'
      )
    latent_keys, keys = (
      numbered_keys(key, size * size) for key in jax.random.split(jax.random.key(seed))
    )
    drawn = draw(trained.model.family, trained.generate(latent_keys), keys)
    images = (drawn.mean + drawn.residual).reshape(size, size, *tuple(trained.model.image))
    blocks += [np.ones_like(images[:, :1]), images] if blocks else [images]
    heading = ['', *([''] * (size // 2)), trained.name] + [''] * (size - size // 2 - 1)
    headings += heading if headings else heading[1:]
  title = labels.title('New samples', models)
  return plotting.image_grid(path, np.concatenate(blocks, axis=1), columns=headings, title=title)


def _predicted(trained: Trained, x: Array) -> Any:
  """Returns p(x|..) as evaluations score it; a denoiser sees the same noise in all figures."""
  return trained.predict(x, numbered_keys(jax.random.key(0), len(x)))


def _reconstructions(path: Path, models: Sequence[Trained], x: Array, key: Array) -> Path:
  rows, found = [plotting.Row('original', _shown(models[0], x))], []
  for trained in models:
    params = _predicted(trained, x)
    drawn = draw(trained.model.family, params, numbered_keys(key, len(x)))
    found.append((trained, drawn))
  rows += _rows(found)
  return plotting.image_rows(path, rows, title=labels.title('Reconstructions', models))


def _prior(path: Path, models: Sequence[Trained], key: Array) -> Path:
  found = []
  for trained in models:
    if not trained.model.traits.has_prior:
      continue
    params = trained.generate(numbered_keys(key, SHOWN))
    drawn = draw(trained.model.family, params, numbered_keys(jax.random.fold_in(key, 1), SHOWN))
    found.append((trained, drawn))
  return plotting.image_rows(path, _rows(found), title=labels.title('New images', models))


def _deviations(path: Path, models: Sequence[Trained], x: Array, key: Array) -> Path:
  """Draws standard deviations of all models on one scale, each with a residual sample."""
  rows, found = [plotting.Row('original', _shown(models[0], x))], []
  for trained in models:
    params = _predicted(trained, x)
    drawn = draw(trained.model.family, params, numbered_keys(key, len(x)))
    variance = jax.device_get(_variance(trained.model.family, params))
    found.append((trained.name, np.sqrt(variance), drawn.residual))
  largest = max(float(np.quantile(deviation, 0.999)) for _, deviation, _ in found)
  for name, deviation, residual in found:
    rows.append(plotting.Row(f'{name}\nstandard deviation', deviation, 'size', limit=largest))
    rows.append(plotting.Row('residual sample', residual, 'signed', limit=3 * largest))
  return plotting.image_rows(path, rows, title=labels.title('Standard deviations', models))


def _correlations(path: Path, models: Sequence[Trained], x: Array) -> Path:
  """Draws correlations that the models predict with the central pixel, in its channel."""
  pixel = row, column, channel = views.center(models[0].model)
  rows = [plotting.Row('original', _shown(models[0], x), mark=(row, column))]
  for trained in models:
    params = _predicted(trained, x)
    found = jax.device_get(_correlation(trained.model.family, pixel, params))
    shown = found[..., channel : channel + 1]
    rows.append(plotting.Row(trained.name, shown, 'signed', mark=(row, column), limit=1.0))
  return plotting.image_rows(
    path, rows, title=labels.title(f'Correlation with the pixel ({row}, {column})', models)
  )


def _ways(path: Path, trained: Trained, x: Array, key: Array) -> Path:
  rows = []
  for way in range(min(WAYS, len(x))):
    for other in (x[way, :, ::-1], x[(way + 1) % len(x)]):
      drawn = interpolation(trained, jnp.stack([x[way], other]), jax.random.fold_in(key, way))
      rows += [plotting.Row('mean', drawn.mean), plotting.Row('sample', drawn.mean + drawn.residual)]
  return plotting.image_rows(
    path, rows, title=labels.title('Paths between latents, the noise fixed,', [trained])
  )


def _rows(found: Sequence[tuple[Trained, Drawn]]) -> list[plotting.Row]:
  """Returns the rows of all models; their residuals have one scale."""
  largest = max(float(np.quantile(np.abs(drawn.residual), 0.999)) for _, drawn in found)
  limit = largest if np.isfinite(largest) and largest > 0 else None
  rows = []
  for trained, drawn in found:
    rows += [
      plotting.Row(f'{trained.name}\nmean', drawn.mean),
      plotting.Row('residual sample', drawn.residual, 'signed', limit=limit),
      plotting.Row('their sum', drawn.mean + drawn.residual),
    ]
  return rows


def _way(steps: int, ends: Array) -> Array:
  """Returns the straight path [T, ...] between two latents [2, ...]."""
  weight = jnp.linspace(0, 1, steps, dtype=ends.dtype).reshape(-1, *[1] * (ends.ndim - 1))
  return (1 - weight) * ends[:1] + weight * ends[1:]


def _shown(trained: Trained, x: Array) -> np.ndarray:
  """Returns images without further channels that a model is given; gray where pixels do not count."""
  return np.asarray(masks.pixels(trained.model, x))


@functools.partial(jax.jit, static_argnums=0)
def _draw(family: Family, params: Any, keys: Array) -> tuple[Array, Array]:
  mean = jax.vmap(family.mean)(params)
  return mean, jax.vmap(family.sample)(keys, params) - mean


@functools.partial(jax.jit, static_argnums=0)
def _variance(family: Family, params: Any) -> Array:
  return jax.lax.map(functools.partial(gaussian.variance, family), params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _correlation(family: Family, pixel: tuple[int, int, int], params: Any) -> Array:
  return jax.lax.map(lambda one: gaussian.correlation(family, one, pixel), params)
