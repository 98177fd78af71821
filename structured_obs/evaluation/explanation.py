"""What the numbers in a table of scores are, in a few sentences."""

from collections.abc import Sequence

from structured_obs.data import pixels
from structured_obs.evaluation import likelihood
from structured_obs.evaluation.results import Result
from structured_obs.runs.trained import is_discrete


def text(results: Sequence[Result]) -> str:
  """Explains the numbers of `results.comparison_table`."""
  settings, scores = results[0].settings, results[0].scores
  latent = any(result.trained.model.traits.has_prior for result in results)
  gaussian = any(result.trained.model.family.gaussian is not None for result in results)
  distance = (
    f'q is the squared Mahalanobis distance at the {"posterior" if latent else "model"}\'s mean, D the '
    "number of pixels times channels; q / D and its spread are 1 where the model's covariance is right."
  )
  lines = [
    *_measured(results),
    f'Of negative densities and bounds, smaller is better. ± is the standard error over '
    f'{len(scores.elbo)} images; that of a difference is of the differences image by image. '
    f'{_averaged(settings.importance_samples) if latent else ""}{distance if gaussian else ""}'.strip(),
  ]
  return '\n\n'.join(lines)


def _measured(results: Sequence[Result]) -> list[str]:
  """Of what the densities and the probabilities are."""
  settings = results[0].settings
  discrete = [result.trained.name for result in results if is_discrete(result.trained)]
  densities = [result for result in results if not is_discrete(result.trained)]
  lines = [_densities(densities[0].settings)] if densities else []
  if discrete:
    lines.append(
      f'{", ".join(discrete)}: probabilities of images of {settings.levels} gray levels, which have no '
      'covariance; sections on one leave such models out.'
    )
  if densities and discrete:
    lines.append('Nats of a density and of a probability are not compared, bits/dim are.')
  return lines


def _densities(settings: likelihood.Settings) -> str:
  if not settings.levels:
    return 'Densities are of real numbers: there are no levels, and so no bits.'
  return (
    f'Densities are of pixels in [-1, 1], where one of the {settings.levels} gray levels is '
    f'{pixels.bin_width(settings.levels):.6g} wide. '
    + (
      'Uniform noise of that width is added to each image (dequantisation), one draw an image, the '
      'same for every model.'
      if settings.dequantize
      else 'Without dequantisation: bits/dim are no bound on a code length.'
    )
  )


def _averaged(samples: int) -> str:
  if samples == 1:
    return 'The ELBO is of one sample of z an image. '
  return (
    f'The ELBO is averaged over the {samples} samples of z an image that IWAE-{samples} uses. Effective '
    'samples, (sum w)^2 / sum w^2 of the importance weights w of an image, tell how many of them count: '
    f'few say that IWAE-{samples} is a loose bound, and its standard error of drawing them too small. '
  )
