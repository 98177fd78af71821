"""Explains the numbers in a table of scores."""

from collections.abc import Sequence

from structured_obs.data import pixels
from structured_obs.distributions import elliptical
from structured_obs.evaluation import likelihood
from structured_obs.evaluation.results import Result
from structured_obs.runs.trained import is_discrete


def text(results: Sequence[Result]) -> str:
  """Returns sentences that explain the numbers of `results.comparison_table`."""
  settings, scores = results[0].settings, results[0].scores
  latent = any(result.trained.model.traits.has_prior for result in results)
  known = any(elliptical.has_covariance(result.trained.model.family) for result in results)
  whole = not results[0].trained.model.masked
  number = 'the number of pixels times channels' if whole else 'the number of values that count'
  distance = (
    f'q is the squared Mahalanobis distance at the {"posterior" if latent else "model"}\'s mean, D '
    f"{number}; q / D and its spread are 1 where the model's covariance is right. "
    'Of a Student t, q is that of the scale matrix, D nu / (nu - 2) on average, and its spread is over '
    'that of its F distribution.'
  )
  lines = [
    *_measured(results),
    *_denoisers(results),
    f'For negative densities and bounds, smaller is better. ± is the standard error over '
    f'{len(scores.elbo)} images, and for a difference that of the differences per image. '
    f'{_averaged(settings.importance_samples) if latent else ""}{distance if known else ""}'.strip(),
  ]
  return '\n\n'.join(lines)


def _denoisers(results: Sequence[Result]) -> list[str]:
  """Returns what the numbers of denoisers refer to, and which ones they have not."""
  found = []
  for one in (result.trained for result in results):
    if one.model.traits.denoises:
      noise, blind = (one.config.model.options[name] for name in ('noise', 'blind'))
      found.append(
        f'{one.name} is a denoiser: its density, q and images are those of p(x|y), where y is the image '
        f'with noise of standard deviation {noise:g}{" at most" if blind else ""}, one draw per image. '
        'They are not comparable with those of a model of images. It has no latents and no prior, so '
        'bounds, KL and new images are left out.'
      )
  return found


def _measured(results: Sequence[Result]) -> list[str]:
  """Returns what the densities and the probabilities refer to."""
  settings = results[0].settings
  discrete = [result.trained.name for result in results if is_discrete(result.trained)]
  densities = [result for result in results if not is_discrete(result.trained)]
  lines = [_densities(densities[0].settings)] if densities else []
  if discrete:
    lines.append(
      f'{", ".join(discrete)}: probabilities of images of {settings.levels} gray levels, which have no '
      'covariance; sections about a covariance leave these models out.'
    )
  if densities and discrete:
    lines.append('Compare densities with probabilities in bits/dim, not in nats.')
  return lines


def _densities(settings: likelihood.Settings) -> str:
  if not settings.levels:
    return 'Densities are of real numbers, which have no gray levels and hence no bits.'
  return (
    f'Densities are of pixels in [-1, 1], where one of the {settings.levels} gray levels is '
    f'{pixels.bin_width(settings.levels):.6g} wide. '
    + (
      'Uniform noise of that width is added to each image (dequantisation), one draw per image, the '
      'same for every model.'
      if settings.dequantize
      else 'Without dequantisation, bits/dim do not bound a code length.'
    )
  )


def _averaged(samples: int) -> str:
  if samples == 1:
    return 'The ELBO uses one sample of z per image. '
  return (
    f'The ELBO is averaged over the {samples} samples of z per image that IWAE-{samples} uses. '
    'Effective samples, (sum w)^2 / sum w^2 with the importance weights w of an image, count the '
    f'samples that matter: if they are few, IWAE-{samples} is a loose bound, and its standard error '
    'over draws is too small. '
  )
