"""Checks fields of a configuration against each other and against the data.

Fields of one choice, such as a kind of model, are options of that choice and are checked by
`option_records`.
"""

from typing import Any

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions.base import Family
from structured_obs.models import KINDS, observation
from structured_obs.objectives import constraints, reconstruction
from structured_obs.runs import schedule, stages


def check(config: Config, flat: dict[str, Any], defaults: dict[str, Any]) -> None:
  """Checks fields of a configuration against each other.

  Args:
    config: with every option written out.
    flat: its fields, by 'section.name'.
    defaults: fields of a configuration with nothing changed.

  Raises:
    ValueError: naming the first field that conflicts with another.
  """
  _check_unused(config, flat, defaults)
  _check_kernel(config)
  _check_objective(config)
  _check_masks(config)
  _check_constraints(config)
  stages.check(config)
  if config.optim.stages and config.model.options.get('architecture') == 'dense':
    raise ValueError(
      "--config.optim.stages trains heads separately, but --config.model.options.architecture='dense' "
      'has one last layer for all outputs; leave --config.optim.stages empty.'
    )
  if config.optim.weight_decay and config.model.options.get('architecture') == 'dense':
    raise ValueError(
      "--config.optim.weight_decay is of kernels, but --config.model.options.architecture='dense' has "
      'weight norm in their place; leave it 0.'
    )
  optim, kernel = config.optim, config.model.options.get('kernel', {})
  least = optim.schedule_options.get('min_learning_rate', 0.0)
  most = min(schedule.smallest(optim), kernel.get('learning_rate', 0.0) or optim.learning_rate)
  if least > most:
    raise ValueError(
      f'--config.optim.schedule_options.min_learning_rate={least} is out of range: it must be at most '
      f'{most}, the smallest learning rate that decays.'
    )
  coupled = coupling(config)
  if coupled and config.train.accumulate > 1:
    raise ValueError(
      f'--config.train.accumulate={config.train.accumulate} is invalid with {coupled}, which needs all '
      'images of a batch at once; use --config.train.accumulate=1.'
    )


def rank_of(config: Config) -> int:
  """Returns the number of columns of the low-rank factors of a family and its wrappers together."""
  wrappers = config.likelihood.wrapper_options.values()
  return sum(options.get('rank', 0) for options in (config.likelihood.options, *wrappers))


def _check_constraints(config: Config) -> None:
  """Raises a ValueError if the family does not have what a constraint bounds."""
  chosen, likelihood = config.objective.constraints, config.likelihood
  family = f"--config.likelihood.family='{likelihood.family}'"
  if likelihood.wrappers:
    family += f' with --config.likelihood.wrappers={likelihood.wrappers}'
  for name in chosen:
    if constraints.CONSTRAINTS[name].per_rank and not rank_of(config):
      raise ValueError(
        f'--config.objective.constraints.{name}.bound applies to each rank of the family, but {family} '
        'has no rank; omit it.'
      )
  if 'entropy' in chosen and not observation.has_floor(family_of(config)):
    raise ValueError(
      '--config.objective.constraints.entropy bounds the entropy above that of independent pixel noise, '
      f'but {family} has no such noise; omit it.'
    )
  if 'trace' in chosen and (likelihood.family, *likelihood.wrappers)[-1] not in observation.FACTORED:
    raise ValueError(
      '--config.objective.constraints.trace bounds the variance that a low-rank factor adds, but '
      f'{family} is not such a sum; use the family low_rank, or low_rank_update as the last wrapper.'
    )


def family_of(config: Config) -> Family:
  """Returns the observation family of a configuration, with its wrappers."""
  chosen = config.likelihood
  inner = distributions.family(chosen.family, **chosen.options)
  return distributions.wrapped(inner, chosen.wrappers, chosen.wrapper_options)


def _check_unused(config: Config, flat: dict[str, Any], defaults: dict[str, Any]) -> None:
  """Raises a ValueError if a field is set that has no effect for this kind of model."""
  kind, given = KINDS[config.model.kind], config.data.labels
  if given not in kind.labels:
    raise ValueError(
      f'--config.data.labels must be {not given} with --config.model.kind={config.model.kind!r}, which '
      f'{"does not use" if given else "learns"} the classes of images; kinds that can use them: '
      f'{", ".join(name for name, one in KINDS.items() if True in one.labels)}.'
    )
  for name in {**flat, **defaults}:
    unused = any(name == field or name.startswith(f'{field}.') for field in kind.unused)
    if unused and flat.get(name) != defaults.get(name):
      value, default = flat.get(name, defaults.get(name)), defaults.get(name)
      fix = 'omit it' if default is None else f'leave it {default!r}'
      raise ValueError(
        f'--config.{name}={value!r} has no effect with --config.model.kind={config.model.kind!r}; {fix}.'
      )


def _check_kernel(config: Config) -> None:
  """Raises a ValueError if an option needs a blur kernel, or its network, that the family lacks."""
  model, family = config.model, config.likelihood
  generated = bool(model.options.get('kernel'))
  if generated and 'kernel_size' not in family.options:
    raise ValueError(
      '--config.model.options.kernel predicts the blur kernel of a family such as circulant, but '
      f"--config.likelihood.family='{family.family}' has none."
    )
  if config.objective.kernel_gradient == 'latents' and not generated:
    raise ValueError(
      "--config.objective.kernel_gradient='latents' is of a network of blur kernels, which this model "
      "does not have: add one, such as --config.model.options.kernel.features=1000, or use "
      "--config.objective.kernel_gradient='held'."
    )
  if config.objective.kernel_gradient == 'latents' and config.objective.mean_gradient == 1:
    raise ValueError(
      "--config.objective.kernel_gradient='latents' has no effect with "
      '--config.objective.mean_gradient=1, by which latents learn nothing from the density; use '
      "--config.objective.kernel_gradient='held'."
    )
  fixed = family.options.get('gaussian_variance', 0.0) > 0
  if config.objective.reconstruction == reconstruction.PAPER_LOSS and not (generated or fixed):
    raise ValueError(
      '--config.objective.reconstruction=paper_loss does not learn a kernel: use a network of '
      'kernels, such as --config.model.options.kernel.features=1000, or the family circulant with a '
      'fixed kernel, --config.likelihood.options.gaussian_variance.'
    )


def _check_objective(config: Config) -> None:
  """Raises a ValueError if the loss of the mean, or how the KL is weighted, has no effect."""
  objective = config.objective
  for name in ('beta_warmup_steps', 'free_bits'):
    if getattr(objective, name) and not objective.beta:
      raise ValueError(f'--config.objective.{name} has no effect with --config.objective.beta=0.')
  if objective.mean_loss and not objective.mean_gradient:
    raise ValueError(
      f'--config.objective.mean_loss={objective.mean_loss} has no effect with '
      '--config.objective.mean_gradient=0, the share of it in what the mean learns from; set that to '
      'at most 1, such as 0.9.'
    )
  if objective.mean_gradient and objective.reconstruction:
    raise ValueError(
      f'--config.objective.reconstruction={objective.reconstruction} replaces the density for all that '
      'learns, so that --config.objective.mean_gradient has no effect; for a mean that learns from '
      'this loss and a covariance that learns from the density, use --config.objective.mean_loss.'
    )


def _check_masks(config: Config) -> None:
  """Raises a ValueError if something does not apply to the pixels that count alone."""
  if config.data.mask == 'none':
    return
  kinds, options = [name for name, one in KINDS.items() if one.masks], config.model.options
  if config.model.kind not in kinds:
    raise ValueError(
      f'--config.data.mask={config.data.mask} is of no use with --config.model.kind='
      f'{config.model.kind!r}; kinds that take masks: {", ".join(kinds)}.'
    )
  for field in ('reconstruction', 'mean_loss'):
    loss = getattr(config.objective, field)
    if loss not in ('', *reconstruction.PIXELWISE):
      raise ValueError(
        f'--config.objective.{field}={loss} reads whole images, but with '
        f'--config.data.mask={config.data.mask} only some pixels count; it may be '
        f'{", ".join(reconstruction.PIXELWISE)}, or left out.'
      )
  whole = {
    "--config.model.options.scale='optimal'": options.get('scale') == 'optimal',
    '--config.model.options.kernel': options.get('kernel'),
  }
  for name, given in whole.items():
    if given:
      raise ValueError(
        f'{name} measures whole images, but with --config.data.mask={config.data.mask} only some pixels '
        'count; omit it.'
      )


def coupling(config: Config) -> str:
  """Returns what couples the losses of the images in a batch; '' if nothing does."""
  objective, options = config.objective, config.model.options
  whole = {
    "--config.model.options.norm='batch'": options.get('norm') == 'batch',
    "--config.model.options.scale='optimal'": options.get('scale') == 'optimal',
    **{
      f'--config.objective.constraints.{name}, a constraint on a mean': True
      for name in objective.constraints
    },
    '--config.objective.white_steps': objective.white_steps > 0 and not objective.reconstruction,
    f'--config.optim.stages={config.optim.stages}, a loss of whole batches': stages.WHITE
    in stages.losses(stages.parse(config.optim.stages)),
    '--config.objective.mean_gradient': objective.mean_gradient > 0 and not objective.mean_loss,
    '--config.objective.free_bits': objective.free_bits > 0,
  }
  return next((name for name, holds in whole.items() if holds), '')


def check_batch(config: Config, num_images: int, devices: int, processes: int) -> None:
  """Checks that the batch divides over devices and parts, and fits the training set.

  Args:
    config: of the run.
    num_images: in the training split.
    devices: of all processes together.
    processes: how many there are.

  Raises:
    ValueError: naming the batch size that is invalid.
  """
  size, parts = config.train.batch_size, devices * config.train.accumulate
  if size % parts:
    low, high = size // parts * parts, -(-size // parts) * parts
    near = f'{low} or {high}' if low else f'{high}'
    cut = f', {config.train.accumulate} parts each (--config.train.accumulate)'
    each = cut if parts > devices else ''
    raise ValueError(
      f'--config.train.batch_size={size} does not divide by the {devices} devices of '
      f'{processes} process{"es" if processes > 1 else ""}{each}; {near} would.'
    )
  if size > num_images:
    raise ValueError(
      f'--config.train.batch_size={size} is larger than the training split, which has {num_images} '
      f'images; use at most {num_images}.'
    )
  if processes > 1 and config.train.mapping == 'pmap':
    raise ValueError(
      "--config.train.mapping='pmap' works on one host only; use --config.train.mapping=shard_map."
    )


def check_data(config: Config, family: Family, spec: DataSpec) -> None:
  """Raises a ValueError if the model, family or objective does not suit the data."""
  given, name = spec.condition > 0 and not spec.class_counts, config.data.source
  if given != KINDS[config.model.kind].given_mean:
    raise ValueError(
      f"--config.model.kind='{config.model.kind}' {'does not use' if given else 'needs'} the means of "
      f"images, but --config.data.source='{name}' has {'means' if given else 'no means'}; "
      f"{'with' if given else 'without'} means, --config.model.kind may be "
      f"{', '.join(kind for kind, one in KINDS.items() if one.given_mean == given)}."
    )
  if config.objective.dequantize and not spec.levels:
    raise ValueError(
      f"--config.objective.dequantize=True is invalid with --config.data.source='{name}', whose images "
      "are real numbers without gray levels; use --config.objective.dequantize=False."
    )
  if family.levels:
    _check_discrete(config, family, spec)


def _check_discrete(config: Config, family: Family, spec: DataSpec) -> None:
  """Raises a ValueError if a family of gray levels does not suit the data or the training."""
  name, options = config.likelihood.family, config.model.options
  if family.levels != spec.levels:
    raise ValueError(
      f"--config.likelihood.family='{name}' models {family.levels} gray levels, but "
      f"--config.data.source='{config.data.source}' has "
      + (
        f'{spec.levels}; set --config.likelihood.options.levels={spec.levels}.'
        if spec.levels
        else 'real numbers; use a density, such as --config.likelihood.family=diagonal.'
      )
    )
  if config.objective.dequantize:
    raise ValueError(
      f"--config.objective.dequantize=True is invalid with --config.likelihood.family='{name}', which "
      "gives probability to gray levels only; use --config.objective.dequantize=False."
    )
  needs_covariance = {
    'model.options.covariance': options.get('covariance'),
    'model.options.scale': options.get('scale', 'none') != 'none' and options['scale'],
    'model.options.natural_gradient': options.get('natural_gradient'),
    'optim.stages': config.optim.stages,
    'objective.mean_gradient': config.objective.mean_gradient,
  }
  for field, value in needs_covariance.items():
    if value:
      raise ValueError(
        f"--config.{field}={value!r} separates the mean of p(x|z) from its covariance, but "
        f"--config.likelihood.family='{name}' has no such outputs; leave it at its default."
      )
