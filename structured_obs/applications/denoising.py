"""Compares ways to denoise, on a test split or on the user's images.

Denoises images by each method of `denoise` and by other runs, and writes figures, arrays and a table.

Letters: N images; H W C image height, width, channels.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from structured_obs import strict_json
from structured_obs.applications import denoise, denoising_picture, linear_filter
from structured_obs.applications.denoising_picture import DEVIATION, NETWORK, POSTERIOR
from structured_obs.data import pixels
from structured_obs.distributions import elliptical
from structured_obs.evaluation import finite, likelihood, page, tables
from structured_obs.evaluation.metrics import image_errors
from structured_obs.runs.trained import Trained

Array = jax.Array

FILTER = 'linear filter'


class Settings(NamedTuple):
  """What to compare."""

  sigma: float  # standard deviation of the noise, of pixels in [-1, 1]
  refinements: int = 0  # how often an estimate is encoded again, as a separate method
  project: bool = True  # include the paper's projection on leading eigenvectors
  components: int = 0  # of the projection; 0 for the paper's 1000 at 64x64, in proportion
  seed: int = 0  # of the noise


class About(NamedTuple):
  """What a table says about its methods."""

  parameters: Mapping[str, int] = MappingProxyType({})  # trained numbers, by the method's name
  notes: str = ''  # sentences, in Markdown


class Trains(NamedTuple):
  """The noise that a run was trained to remove; pixels in [-1, 1]."""

  sigma: float  # standard deviation; the largest one of a blind denoiser
  blind: bool = False


def check(trained: Trained, settings: Settings) -> None:
  """Raises a ValueError if a run does not support denoising, or a setting is invalid."""
  denoise.check_scale(settings.sigma)
  if not trained.model.traits.denoises:
    denoise.check(trained.model.family)
  elif settings.refinements:
    raise ValueError(
      f'--refinements={settings.refinements} encodes an estimate again, but {trained.workdir} is a '
      'denoiser, which encodes nothing; leave it 0.'
    )
  if trained.spec.condition or trained.spec.masked:
    raise ValueError(
      f'The model of {trained.workdir} is given more than an image, such as its class or mask, to which '
      'noise does not apply; denoise with a run that sees images only.'
    )


def trained_noise(run: Trained) -> Trains | None:
  """Returns the noise that a run was trained to remove; None for models of images."""
  options = run.config.model.options
  if run.model.traits.denoises:
    return Trains(options['noise'], options['blind'])
  sigma = options.get('input_noise', 0.0)
  return Trains(sigma) if sigma else None


def noise_note(run: Trained, settings: Settings) -> str:
  """Returns a sentence on the noise that a run was trained to remove; '' for models of images."""
  trains = trained_noise(run)
  if trains is None:
    return ''
  fits = settings.sigma <= trains.sigma if trains.blind else settings.sigma == trains.sigma
  return (
    f'{run.name} was trained on noise of {"up to " if trains.blind else ""}{trains.sigma:g}'
    f'{"" if fits else f", not on {settings.sigma:g}"}.'
  )


def filtered(
  trained: Trained, training: np.ndarray, noisy: Array, settings: Settings
) -> tuple[np.ndarray, int]:
  """Returns images [N, H, W, C] by the linear filter of a run's training images, and its parameters.

  Args:
    trained: whose gray levels the images have.
    training: [M, H, W, C] as stored.
    noisy: in the model's units.
    settings: what to compute.

  Raises:
    ValueError: as `linear_filter.moments`.
  """
  convert = lambda images: np.asarray(pixels.to_unit(images, trained.spec.levels))  # noqa: E731
  moments = linear_filter.moments(training, convert)
  return linear_filter.denoise(moments, np.asarray(noisy), settings.sigma), moments.parameters


def methods(
  trained: Trained, noisy: Array, settings: Settings, validation: np.ndarray | None = None
) -> dict[str, np.ndarray]:
  """Returns a run's denoised images [N, H, W, C] by the method's name.

  The entry `DEVIATION` is the posterior standard deviation, if it is known.

  Args:
    trained: with a Gaussian family; or a denoiser, whose network then is the only method.
    noisy: in the model's units.
    settings: what to compute.
    validation: uint8 [M, H, W, C], to find the best number of components; without images that is left
      out.
  """
  bound, sigma = trained.bound, settings.sigma
  if trained.model.traits.denoises:
    return _by_network(trained, noisy)
  first = denoise.posterior_mean(bound, noisy, sigma)
  found = {'reconstruction': first.reconstruction, POSTERIOR: first.mean}
  if settings.refinements:
    first = denoise.posterior_mean(bound, noisy, sigma, settings.refinements)
    found[f'{POSTERIOR}, refined {settings.refinements}x'] = first.mean
  if first.variance is not None:
    found[DEVIATION] = np.sqrt(np.maximum(first.variance, 0))
  if not settings.project:
    return found
  counts = [settings.components or denoise.paper_components(trained.model.image.size)]
  if validation is not None and len(validation):
    counts.append(_best_components(trained, validation, settings))
  for k in counts:
    found[f'projection on {k}'] = denoise.projection(bound, noisy, k).mean
  return found


def _by_network(trained: Trained, noisy: Array) -> dict[str, np.ndarray]:
  found = {NETWORK: denoise.reconstruct(trained.bound, noisy)}
  if elliptical.has_covariance(trained.model.family):
    found[DEVIATION] = np.sqrt(denoise.variance(trained.bound, noisy))
  return found


def other(run: Trained, first: Trained, noisy: Array, settings: Settings) -> np.ndarray:
  """Returns another run's denoised images [N, H, W, C], for the noisy images of the first run.

  It uses the reconstruction if the run was trained to denoise (a denoiser, or an autoencoder's option
  input_noise), otherwise the posterior mean.

  Args:
    run: to denoise with.
    first: the run that the images belong to.
    noisy: in the model's units.
    settings: what to compute.

  Raises:
    ValueError: the runs have images of different shapes.
  """
  if run.model.image != first.model.image:
    raise ValueError(
      f'{run.workdir} has images of {tuple(run.model.image)}, but {first.workdir} has '
      f'{tuple(first.model.image)}; compare runs on images of one shape.'
    )
  if trained_noise(run) is not None:
    return denoise.reconstruct(run.bound, noisy)
  return denoise.posterior_mean(run.bound, noisy, settings.sigma).mean


def write(
  output: Path,
  trained: Trained,
  found: dict[str, np.ndarray],
  clean: np.ndarray | None,
  settings: Settings,
  said: About = About(),  # noqa: B008
) -> str:
  """Writes denoising.png and images.npz, and with clean images also report.md and scores.json.

  Args:
    output: directory to write to.
    trained: the run that the report is about.
    found: images [N, H, W, C] by the method's name; see `methods`.
    clean: [N, H, W, C]; None if unknown.
    settings: of the comparison.
    said: parameters and notes for the table.

  Returns:
    Text to print: the table of scores, if there is one, and where the files are.
  """
  images = {name: array for name, array in found.items() if name != DEVIATION}
  denoising_picture.draw(output / 'denoising.png', trained, found, clean, settings.sigma)
  arrays = {**images, 'standard deviation': found.get(DEVIATION), 'original': clean}
  arrays = {name: array for name, array in arrays.items() if array is not None}
  np.savez_compressed(output / 'images.npz', **arrays)  # type: ignore[arg-type]
  if clean is None:
    return tables.paragraphs(said.notes, f'written to {output}: denoising.png, images.npz')
  against = POSTERIOR if POSTERIOR in images else NETWORK
  table, scores = comparison(images, clean, against, said.parameters)
  table = tables.paragraphs(table, said.notes)
  about = (
    f'`{trained.workdir}` (step {trained.step}), noise of standard deviation {settings.sigma:g} added '
    'to pixels in [-1, 1]; ± is the standard error over images, and for a difference that of the '
    'differences per image.'
  )
  tree: dict[str, Any] = {
    'sigma': settings.sigma, 'images': len(clean), 'seed': settings.seed, 'methods': scores
  }  # fmt: skip
  write_scores(output, table, tree, about)
  return f'{table}\n\nwritten to {output}: report.md, scores.json, images.npz, denoising.png'


def _best_components(trained: Trained, images: np.ndarray, settings: Settings) -> int:
  """Returns the number of eigenvectors with the smallest error on noisy validation images."""
  clean = pixels.to_unit(images, trained.spec.levels)
  noisy = denoise.add_noise(jax.random.key(settings.seed + 1), clean, settings.sigma)
  size = trained.model.image.size
  errors = denoise.projection(trained.bound, noisy, size, clean).errors
  assert errors is not None
  bad = finite.sentences({'squared errors by number of eigenvectors': errors}, 'validation images')
  if bad:
    raise ValueError(
      f'The best number of eigenvectors is unknown. {bad} Omit --best_components, or give the number '
      'as --components.'
    )
  return int(np.argmin(errors.mean(axis=0))) + 1


def comparison(
  methods: Mapping[str, np.ndarray],
  true: np.ndarray,
  against: str,
  parameters: Mapping[str, int] = MappingProxyType({}),
) -> tuple[str, dict[str, Any]]:
  """Compares restored images with the true ones, as a Markdown table and for JSON.

  Args:
    methods: images [N, H, W, C] by the method's name, pixels in [-1, 1].
    true: [N, H, W, C].
    against: the method that the others are compared with, image by image.
    parameters: trained numbers of each method, a column of the table where any are given.

  Returns:
    The table, with mean and standard error and sentences about images that are exact or not finite; and
    nested dictionaries of summaries.
  """
  errors = {name: image_errors.mean_squared_error(images, true) for name, images in methods.items()}
  ratios = {name: image_errors.peak_signal_to_noise(images, true) for name, images in methods.items()}
  lines = [[f'mean over {len(true)} images', 'PSNR, dB', '1000 MSE', f'1000 MSE - {against}']]
  lines[0] += ['parameters'] if parameters else []
  tree: dict[str, Any] = {}
  for name in methods:
    decibels = likelihood.summarize(*image_errors.without_exact(ratios[name]))
    squared = likelihood.summarize(errors[name])
    difference = likelihood.paired_difference(errors[name], errors[against])
    cells = [tables.cell(decibels, 2), tables.cell(squared, 3, 1000)]
    lines.append([name, *cells, '' if name == against else tables.cell(difference, 3, 1000)])
    if parameters:
      lines[-1].append(f'{parameters[name]:,}' if name in parameters else '')
    tree[name] = {
      **({'parameters': parameters[name]} if name in parameters else {}),
      'psnr_db': decibels._asdict(),
      'mse': squared._asdict(),
      f'mse_minus_{against}': difference._asdict(),
    }
  table = tables.markdown_table(lines)
  return tables.paragraphs(table, image_errors.exact(ratios), finite.sentences(errors)), tree


def write_scores(directory: Path, table: str, tree: Mapping[str, Any], about: str) -> Path:
  """Writes report.md, report.html and scores.json; returns the path of the report.

  Args:
    directory: to write to.
    table: in Markdown.
    tree: the same for JSON.
    about: a paragraph above the table.
  """
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'scores.json').write_text(strict_json.text(tree))
  return page.write(directory / 'report.md', ['# Denoising', about, table])
