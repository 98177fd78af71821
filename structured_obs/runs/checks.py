"""What the optimizer and the cutting of a batch can do, checked before anything starts."""

from structured_obs import names
from structured_obs.config import Config
from structured_obs.runs import kinds, optimizers, schedule


def check(config: Config) -> None:
  """Raises a ValueError that names the first field of the training that cannot be."""
  names.check('optim.optimizer', config.optim.optimizer, optimizers.OPTIMIZERS)
  names.check('optim.schedule', config.optim.schedule, schedule.SCHEDULES)
  _check_decay(config)
  names.check('train.compute', config.train.compute, kinds.COMPUTE)
  if config.train.compute != 'float32' and config.model.kind == 'distribution':
    raise ValueError(
      f"--config.train.compute '{config.train.compute}' is of a network, but --config.model.kind "
      "'distribution' has none; leave it 'float32'."
    )
  _check_accumulate(config)
  _check_dense(config)
  _check_classifier(config)


def _check_dense(config: Config) -> None:
  """Raises a ValueError if networks of dense blocks are asked for what they do not have."""
  model = config.model
  two_levels, dense = model.kind == 'sr_vae', model.architecture == 'dense'
  if model.options and not two_levels:
    raise ValueError(
      f"--config.model.options are of --config.model.kind 'sr_vae', but the kind is '{model.kind}'; "
      "leave them empty."
    )
  if dense and (model.kind != 'vae' or not model.blocks):
    raise ValueError(
      "--config.model.architecture 'dense' is of --config.model.kind 'vae' with a positive "
      f"--config.model.blocks, the steps of a block, but the kind is '{model.kind}' and "
      f"--config.model.blocks is {model.blocks}."
    )
  if not two_levels and not dense:
    return
  unfit = {
    'model.norm': model.norm != 'none',
    'model.covariance_features': model.covariance_features,
    'optim.stages': config.optim.stages,
    'model.learn_scale': model.learn_scale and two_levels,
  }
  for name in (name for name, given in unfit.items() if given):
    raise ValueError(
      f'--config.{name} must keep its default with networks of dense blocks, which have weight norm and '
      'one last layer for all outputs.'
    )


def _check_classifier(config: Config) -> None:
  """Raises a ValueError if a classifier has no classes, or is asked for what is of images' densities."""
  if config.model.kind != 'classifier':
    return
  if not config.data.labels:
    raise ValueError(
      "--config.data.labels must be True where --config.model.kind is 'classifier', which learns the "
      "classes of images."
    )
  default = Config()
  unfit = {
    'likelihood': config.likelihood.family != default.likelihood.family,
    'optim.stages': config.optim.stages,
    'objective.white_steps': config.objective.white_steps,
  }
  for name in (name for name, given in unfit.items() if given):
    raise ValueError(
      f"--config.{name} must keep its default where --config.model.kind is 'classifier', which has no "
      "p(x|z)."
    )


def _check_decay(config: Config) -> None:
  """Raises a ValueError if the options of one schedule are given to another, or lead nowhere."""
  optim = config.optim
  if optim.schedule != 'exponential':
    if optim.decay != 1 or optim.min_learning_rate:
      raise ValueError(
        "--config.optim.decay and --config.optim.min_learning_rate are of --config.optim.schedule "
        f"'exponential', but the schedule is '{optim.schedule}'; leave them 1 and 0."
      )
    return
  if not 0 < optim.decay < 1:
    raise ValueError(
      "--config.optim.decay must lie between 0 and 1 where --config.optim.schedule is 'exponential', "
      f"such as 0.999999, but is {optim.decay}."
    )
  rates = [optim.learning_rate, optim.kernel_learning_rate or optim.learning_rate]
  if not 0 <= optim.min_learning_rate <= min(rates):
    raise ValueError(
      f'--config.optim.min_learning_rate must lie between 0 and {min(rates)}, the rate that decays, but '
      f'is {optim.min_learning_rate}.'
    )


def _check_accumulate(config: Config) -> None:
  """Raises a ValueError if the loss needs a batch as a whole, and its parts follow one another."""
  if config.train.accumulate == 1:
    return
  coupled = coupling(config)
  if coupled:
    raise ValueError(
      f'--config.train.accumulate must be 1 with {coupled}, which needs all images of a batch at once, '
      f'but is {config.train.accumulate}.'
    )


def coupling(config: Config) -> str:
  """Returns what makes the loss of an image depend on the others of its batch; '' if nothing does."""
  objective, model = config.objective, config.model
  whole = {
    "--config.model.norm='batch'": model.norm == 'batch',
    '--config.model.optimal_scale': model.optimal_scale,
    '--config.objective.kl_bound, a constraint on a mean': objective.kl_bound > 0,
    '--config.objective.entropy_bound, a constraint on a mean': objective.entropy_bound > 0,
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
