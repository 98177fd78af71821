"""What a family of gray levels, which is no density, needs of a configuration and of the data."""

from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions.base import Family

NEEDS_COVARIANCE = (
  'model.covariance_features',
  'model.learn_scale',
  'model.optimal_scale',
  'model.natural_gradient',
  'optim.stages',
)


def check(config: Config, family: Family, spec: DataSpec) -> None:
  """Raises a ValueError if a discrete family is not for these data, or for this way of training."""
  if not family.levels:
    return
  name = config.likelihood.family
  if family.levels != spec.levels:
    raise ValueError(
      f"--config.likelihood.family '{name}' is of images of {family.levels} gray levels, but "
      f"--config.data.source '{config.data.source}' has "
      + (
        f'{spec.levels}; set --config.likelihood.options.levels={spec.levels}.'
        if spec.levels
        else 'real numbers, which it cannot be of; take a density, such as diagonal.'
      )
    )
  if config.objective.dequantize:
    raise ValueError(
      f"--config.objective.dequantize must be False with --config.likelihood.family '{name}', which "
      "gives gray levels a probability, and images with noise none."
    )
  for field in NEEDS_COVARIANCE:
    section, _, option = field.partition('.')
    value = getattr(getattr(config, section), option)
    if value:
      raise ValueError(
        f"--config.{field} tells the mean of p(x|z) from its covariance, but --config.likelihood.family "
        f"'{name}' has no such outputs; leave it at its default, instead of {value!r}."
      )
