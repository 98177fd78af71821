"""Compares a few models on test images in one small table and one picture, in minutes on a CPU.

The table is for people who have not seen the library: code length, error of the mean, how well one half
of an image tells the other, and calibration. `evaluation.compare` measures much more, and takes longer.

Letters: N images; H W C image height, width, channels; D = H W C.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import strict_json
from structured_obs.data import pixels
from structured_obs.distributions import elliptical, gaussian
from structured_obs.evaluation import likelihood, page, passes, tables
from structured_obs.evaluation.metrics import calibration, image_errors
from structured_obs.models import vae
from structured_obs.objectives import bounds
from structured_obs.runs.trained import Trained

Array = jax.Array
T = TypeVar('T')

INSIDE = 0.9  # probability of the interval whose coverage is measured


def of_each(function: Callable[[Trained], T], models: Sequence[Trained]) -> dict[str, T]:
  """Returns what a function makes of every model, by the model's name.

  Most of the time goes into compilation, which takes one core: so models share the cores.
  """
  with ThreadPoolExecutor(min(len(models), os.cpu_count() or 1)) as pool:
    return dict(zip([one.name for one in models], pool.map(function, models), strict=True))


class Quantity(NamedTuple):
  """One line of the table."""

  name: str  # in JSON
  label: str  # in the table
  decimals: int
  better: str = ''  # 'smaller', 'larger', or '' for numbers of which a given one is right


EXPLANATION = (
  '± is the standard error over images, and for a difference that of the differences per image. The '
  'code length is that of the exact gray levels, by densities of pixels with the uniform noise of one '
  'level. z is the mean of q(z|x), of the whole image. q is the squared distance of an image from '
  'its mean, in standard deviations of the model in all directions.'
)
QUANTITIES = (
  Quantity('bits_per_dim', 'code length (negative ELBO), bits per pixel', 3, 'smaller'),
  Quantity('psnr', 'PSNR of the mean, dB', 2, 'larger'),
  Quantity('hidden_bits', 'lower half given upper half and z, bits per pixel', 3, 'smaller'),
  Quantity('hidden_psnr', 'PSNR of that lower half, dB', 2, 'larger'),
)


class Scores(NamedTuple):
  """Scores of one model, by image [N] unless said otherwise."""

  values: Mapping[str, np.ndarray]  # by the name of a quantity
  inside: float  # fraction of pixels within the interval that has a probability of INSIDE
  calibration: calibration.Calibration
  parameters: int
  images_per_second: float  # in training; NaN if unknown


def score(
  trained: Trained, images: np.ndarray, images_per_second: float = float('nan'), seed: int = 0
) -> Scores:
  """Scores a VAE on images.

  Args:
    trained: with a prior and a Gaussian family.
    images: uint8 [N, H, W, C].
    images_per_second: of its training, for the table.
    seed: of the dequantisation and the latents; the same one for models to be compared.
  """
  config, spec = trained.config, trained.spec
  job = passes.Pass(_measure, trained.model, spec.levels, True, config.eval.batch_size)
  found = passes.over_images(job, trained.variables, images, jax.random.key(seed))
  size, width = trained.model.image.size, pixels.bin_width(spec.levels)
  hidden = int(np.sum(_lower_half(trained.model.image)))
  values = {
    'bits_per_dim': np.asarray(bounds.bits_per_dim(found['elbo'], size, width)),
    'psnr': image_errors.ratio(found['error']),
    'hidden_bits': np.asarray(bounds.bits_per_dim(found['hidden'], hidden, width)),
    'hidden_psnr': image_errors.ratio(found['hidden_error']),
  }
  calibrated = calibration.calibration(found['distance'] / size, size, found['inverse_dof'])
  parameters = vae.num_parameters(trained.variables)
  return Scores(values, float(np.mean(found['inside'])), calibrated, parameters, images_per_second)


def table(found: Mapping[str, Scores]) -> str:
  """Returns a Markdown table: a column per model, and paired differences from the first one."""
  first, *others = found
  count = len(found[first].values['psnr'])
  lines = [[f'mean over {count} test images', 'better', *found]]
  lines[0] += [f'{other} - {first}' for other in others]
  for quantity in QUANTITIES:
    values = {name: scores.values[quantity.name] for name, scores in found.items()}
    cells = [tables.mean_cell(one, quantity.decimals) for one in values.values()]
    cells += [
      tables.difference_cell(values[other], values[first], quantity.decimals) for other in others
    ]
    lines.append([quantity.label, quantity.better, *cells])
  numbers: dict[str, tuple[str, Callable[[Scores], str]]] = {
    f'pixels inside their {INSIDE:.0%} interval': (f'{INSIDE:.0%}', lambda s: f'{s.inside:.1%}'),
    'squared distance of an image, q / D': ('1', lambda s: f'{s.calibration.mean:.2f}'),
    'its spread over images': ('1', lambda s: f'{s.calibration.spread:.2f}'),
    'parameters': ('fewer', lambda s: f'{s.parameters:,}'),
    'images per second in training': ('more', lambda s: f'{s.images_per_second:.0f}'),
  }
  for label, (right, text) in numbers.items():
    lines.append([label, right, *map(text, found.values()), *('' for _ in others)])
  return tables.markdown_table(lines)


def verdict(found: Mapping[str, Scores]) -> str:
  """Returns sentences on which model is best in each line of the table, and by how much."""
  sentences = [_best(quantity, found) for quantity in QUANTITIES]
  distances = {name: abs(np.log(scores.calibration.spread)) for name, scores in found.items()}
  ordered = sorted(distances, key=lambda name: distances[name])
  spread = found[ordered[0]].calibration.spread
  sentences.append(
    f'Calibration: the spread of distances, 1 if errors vary as predicted, is nearest for {ordered[0]} '
    f'({spread:.2f}).'
  )
  return '\n'.join(f'- {sentence}' for sentence in sentences)


def write(
  directory: Path,
  found: Mapping[str, Scores],
  picture: Path,
  command: str,
  models: Sequence[Trained] = (),
) -> Path:
  """Writes overview.json and the report, with the picture; returns the path of the report.

  Args:
    directory: to write to.
    found: scores by the model's name.
    picture: inside the directory.
    command: that makes all of it again.
    models: whose configurations the report as a page has.
  """
  (directory / 'overview.json').write_text(strict_json.text(as_json(found)))
  parts = [
    f'# {", ".join(found)} on the same images',
    table(found),
    verdict(found),
    EXPLANATION,
    f'## Picture\n![Images of each model]({picture.relative_to(directory).as_posix()})',
    f'## Commands\n```sh\n{command}\n```',
  ]
  return page.write(directory / 'report.md', parts, page.configurations(models))


def as_json(found: Mapping[str, Scores]) -> dict[str, Any]:
  """Returns all numbers of the table as nested dictionaries."""
  return {
    name: {
      'scores': {
        quantity.name: likelihood.summarize(scores.values[quantity.name])._asdict()
        for quantity in QUANTITIES
      },
      'inside': scores.inside,
      'calibration': scores.calibration._asdict(),
      'parameters': scores.parameters,
      'images_per_second': scores.images_per_second,
    }
    for name, scores in found.items()
  }


def _best(quantity: Quantity, found: Mapping[str, Scores]) -> str:
  """Returns a sentence: the best model, its lead over the second, or that they do not differ."""
  sign = 1 if quantity.better == 'larger' else -1
  values = {name: sign * scores.values[quantity.name] for name, scores in found.items()}
  best, second = sorted(values, key=lambda name: -float(np.mean(values[name])))[:2]
  lead = likelihood.paired_difference(values[best], values[second])
  name, _, unit = quantity.label.rpartition(', ')
  amount = f'{tables.cell(lead, quantity.decimals)} {unit}'
  if not lead.mean > 2 * lead.standard_error:
    return f'{name}: {best} and {second} do not differ by more than chance ({amount}).'
  return f'{name}: {best} is best, {amount} before {second}.'


def _lower_half(image: Sequence[int]) -> np.ndarray:
  """Returns True at the pixels that are hidden, [H, W, C]."""
  hidden = np.zeros(tuple(image), bool)
  hidden[image[0] // 2 :] = True
  return hidden


def _measure(job: passes.Pass, variables: Any, keys: Array, x: Array) -> dict[str, Array]:
  """Measures a batch, [B] each."""
  bound = job.bound(variables)
  family, own = bound.model.family, x[..., : bound.model.image.channels]
  elbo = bounds.elbo(bound.terms(keys, x))
  of_image = functools.partial(_of_image, family)
  return {'elbo': elbo, **jax.lax.map(lambda pair: of_image(*pair), (bound.predict(keys, x), own))}


def _of_image(family: Any, params: Any, x: Array) -> dict[str, Array]:
  """Measures p(x|z) of one image at the mean of its latents, [] each; nats, squared errors."""
  half = _lower_half(x.shape)
  hidden = jnp.asarray(half)
  given = gaussian.condition(family, params, x, ~hidden)
  cdf = elliptical.pixel_cdf(family, params, x)
  square = jnp.square(given.mean - x)
  return {
    'error': jnp.mean(jnp.square(family.mean(params) - x)),
    'hidden': given.log_prob(x),
    'hidden_error': jnp.sum(jnp.where(hidden, square, 0)) / int(half.sum()),
    'inside': jnp.mean(jnp.where(jnp.abs(cdf - 0.5) <= INSIDE / 2, 1.0, 0.0)),
    'distance': gaussian.mahalanobis(family, params, x),
    'inverse_dof': elliptical.inverse_dof(family, params),
  }
