"""What is about two sections of a configuration at once, or about one and the data.

What belongs to one choice, such as a kind of model, is an option of its own (`option_records`), and is
no matter of this module.
"""

from typing import Any

from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions.base import Family
from structured_obs.models import KINDS
from structured_obs.objectives import constraints, reconstruction


def check(config: Config, flat: dict[str, Any], defaults: dict[str, Any]) -> None:
  """Raises a ValueError that names the first field which does not go with another one.

  Args:
    config: with every option written out.
    flat: its fields, by 'section.name'.
    defaults: those of a configuration in which nothing was changed.
  """
  _check_unused(config, flat, defaults)
  _check_kernel(config)
  for name, held in constraints.CONSTRAINTS.items():
    if name in config.objective.constraints and held.per and not config.likelihood.options.get(held.per):
      raise ValueError(
        f'--config.objective.constraints.{name}.bound is for each {held.per} of the family, but '
        f"--config.likelihood.family='{config.likelihood.family}' has no {held.per} of at least 1."
      )
  if config.optim.stages and config.model.options.get('architecture') == 'dense':
    raise ValueError(
      "--config.optim.stages divide the outputs, but --config.model.options.architecture='dense' has "
      'one last layer for all of them; leave them empty.'
    )
  if config.optim.weight_decay and config.model.options.get('architecture') == 'dense':
    raise ValueError(
      "--config.optim.weight_decay is of kernels, but --config.model.options.architecture='dense' has "
      'weight norm in their place; leave it 0.'
    )
  optim, kernel = config.optim, config.model.options.get('kernel', {})
  least = optim.schedule_options.get('min_learning_rate', 0.0)
  most = min(optim.learning_rate, kernel.get('learning_rate', 0.0) or optim.learning_rate)
  if least > most:
    raise ValueError(
      f'--config.optim.schedule_options.min_learning_rate must be at most {most}, the rate that decays, '
      f'but is {least}.'
    )
  coupled = coupling(config)
  if coupled and config.train.accumulate > 1:
    raise ValueError(
      f'--config.train.accumulate must be 1 with {coupled}, which needs all images of a batch at once, '
      f'but is {config.train.accumulate}.'
    )


def _check_unused(config: Config, flat: dict[str, Any], defaults: dict[str, Any]) -> None:
  """Raises a ValueError if a field is set that means nothing to this kind of model."""
  kind, given = KINDS[config.model.kind], config.data.labels
  if given not in kind.labels:
    raise ValueError(
      f'--config.data.labels must be {not given} with --config.model.kind={config.model.kind!r}, which '
      f'{"is not given" if given else "learns"} the class of an image; it may be given to '
      f'{", ".join(name for name, one in KINDS.items() if True in one.labels)}.'
    )
  for name in {**flat, **defaults}:
    unused = any(name == field or name.startswith(f'{field}.') for field in kind.unused)
    if unused and flat.get(name) != defaults.get(name):
      value, default = flat.get(name, defaults.get(name)), defaults.get(name)
      fix = 'leave it out' if default is None else f'leave it {default!r}'
      raise ValueError(
        f'--config.{name}={value!r} means nothing to --config.model.kind={config.model.kind!r}; {fix}.'
      )


def _check_kernel(config: Config) -> None:
  """Raises a ValueError if there is no blur kernel for what learns it or is made of it."""
  model, family = config.model, config.likelihood
  generated = bool(model.options.get('kernel'))
  if generated and 'kernel_size' not in family.options:
    raise ValueError(
      '--config.model.options.kernel is a network of the blur kernel of a family such as circulant, but '
      f"--config.likelihood.family='{family.family}' has none."
    )
  fixed = family.options.get('gaussian_variance', 0.0) > 0
  if config.objective.reconstruction == reconstruction.PAPER_LOSS and not (generated or fixed):
    raise ValueError(
      "--config.objective.reconstruction='paper_loss' learns no kernel: take a network of kernels, as "
      'by --config.model.options.kernel.features=1000, or a fixed kernel by '
      '--config.likelihood.options.gaussian_variance, of the family circulant.'
    )


def coupling(config: Config) -> str:
  """Returns what makes the loss of an image depend on the others of its batch; '' if nothing does."""
  objective, options = config.objective, config.model.options
  whole = {
    "--config.model.options.norm='batch'": options.get('norm') == 'batch',
    "--config.model.options.scale='optimal'": options.get('scale') == 'optimal',
    **{
      f'--config.objective.constraints.{name}, a constraint on a mean': True
      for name in objective.constraints
    },
    '--config.objective.white_steps': objective.white_steps > 0 and not objective.reconstruction,
  }
  return next((name for name, holds in whole.items() if holds), '')


def check_batch(config: Config, num_images: int, devices: int, processes: int) -> None:
  """Raises a ValueError if the batch cannot be cut as it must be, or exceeds the training set.

  Args:
    config: of the run.
    num_images: in the training split.
    devices: of all processes together.
    processes: how many there are.
  """
  size, parts = config.train.batch_size, devices * config.train.accumulate
  if size % parts:
    low, high = size // parts * parts, -(-size // parts) * parts
    near = f'{low} or {high}' if low else f'{high}'
    cut = f', {config.train.accumulate} parts each (--config.train.accumulate)'
    each = cut if parts > devices else ''
    raise ValueError(
      f'--config.train.batch_size is {size}, which does not divide by the {devices} devices of '
      f'{processes} process{"es" if processes > 1 else ""}{each}; {near} would.'
    )
  if size > num_images:
    raise ValueError(
      f'--config.train.batch_size is {size}, but the training split has only {num_images} images; it '
      'must be at most that.'
    )
  if processes > 1 and config.train.mapping == 'pmap':
    raise ValueError("--config.train.mapping 'pmap' works on one host only; 'shard_map' works on many.")


def check_data(config: Config, family: Family, spec: DataSpec) -> None:
  """Raises a ValueError if model, family or objective is not for this kind of data."""
  given, name = spec.condition > 0 and not spec.class_counts, config.data.source
  if given != KINDS[config.model.kind].given_mean:
    raise ValueError(
      f"--config.model.kind is '{config.model.kind}', but --config.data.source '{name}' "
      f'comes {"with" if given else "without"} the means of its images: '
      f"{'a model that is given them' if given else 'a model that needs none'} is of kind "
      f"{', '.join(kind for kind, one in KINDS.items() if one.given_mean == given)}."
    )
  if config.objective.dequantize and not spec.levels:
    raise ValueError(
      f"--config.objective.dequantize must be False for --config.data.source '{name}', "
      "which is of real numbers: there is no level whose width the noise could have."
    )
  if family.levels:
    _check_discrete(config, family, spec)


def _check_discrete(config: Config, family: Family, spec: DataSpec) -> None:
  """Raises a ValueError if a family of gray levels is not for these data or this training."""
  name, options = config.likelihood.family, config.model.options
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
  needs_covariance = {
    'model.options.covariance': options.get('covariance'),
    'model.options.scale': options.get('scale', 'none') != 'none' and options['scale'],
    'model.options.natural_gradient': options.get('natural_gradient'),
    'optim.stages': config.optim.stages,
  }
  for field, value in needs_covariance.items():
    if value:
      raise ValueError(
        f"--config.{field} tells the mean of p(x|z) from its covariance, but --config.likelihood.family "
        f"'{name}' has no such outputs; leave it at its default, instead of {value!r}."
      )
