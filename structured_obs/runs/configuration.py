"""A configuration as plain data: checked, compared with the one a run began with, and read back."""

import dataclasses
from typing import Any

from structured_obs import distributions, names
from structured_obs.config import Config
from structured_obs.data import pipeline
from structured_obs.devices import mapping
from structured_obs.models import covariance_network, latent_priors, networks
from structured_obs.objectives import alternating, reconstruction
from structured_obs.runs import checks, fields, kinds, schedule

NORMS = ('none', 'group', 'batch')
PAPER_LOSS = 'paper_loss'  # objective.reconstruction of Blur-VAE as published

# What may change when a run goes on: nothing of it moves a parameter by more than round-off.
FREE = (
  'data.cache_dir',
  'data.manual_dir',
  'data.download',
  'data.residency',
  'train.mapping',
  'train.accumulate',
  'train.steps_in_flight',
  'train.log_every',
  'train.validate_every',
  'train.checkpoint_every',
  'train.keep',
  'train.patience',
  'train.max_nonfinite',
  'eval',
)


def check(config: Config) -> None:
  """Raises a ValueError that names the first field whose value is invalid."""
  fields.check(config)
  _check_likelihood(config)
  names.check('train.mapping', config.train.mapping, mapping.MAPPINGS)
  names.check('model.kind', config.model.kind, kinds.KINDS)
  checks.check(config)
  _check_model(config)
  names.check('model.norm', config.model.norm, NORMS)
  names.check('data.residency', config.data.residency, pipeline.RESIDENCIES)
  known = ('', PAPER_LOSS, *reconstruction.LOSSES)
  names.check('objective.reconstruction', config.objective.reconstruction, known)
  boundaries = alternating.BOUNDARIES
  names.check('objective.kernel_boundary', config.objective.kernel_boundary, boundaries)
  schedule.parse_stages(config.optim.stages)


def _check_likelihood(config: Config) -> None:
  """Raises a ValueError if there is no such family, or it cannot have these options."""
  family, given = config.likelihood.family, config.likelihood.options
  names.check('likelihood.family', family, distributions.FAMILIES)
  known = distributions.options(family)
  for name, value in given.items():
    names.check('likelihood.options', name, known)
    fields.check_option(f'likelihood.options.{name}', value, known[name])
  try:
    distributions.family(family, **given)
  except ValueError as error:
    raise ValueError(f"--config.likelihood.options of the family '{family}': {error}") from error


def _check_model(config: Config) -> None:
  """Raises a ValueError if options of the model do not go together."""
  model = config.model
  if (model.covariance_layers or model.covariance_sees_mean) and not model.covariance_features:
    raise ValueError(
      '--config.model.covariance_layers and --config.model.covariance_sees_mean are of a decoder that '
      'the covariance has to itself; give its channels in --config.model.covariance_features.'
    )
  names.check('model.architecture', model.architecture, networks.ARCHITECTURES)
  if model.architecture == 'resnet' and not model.blocks:
    raise ValueError(
      "--config.model.blocks must be positive where --config.model.architecture is 'resnet', whose "
      "blocks are what halves the image, but is 0."
    )
  if model.architecture in ('strided', 'upsampling') and model.blocks:
    raise ValueError(
      f"--config.model.blocks must be 0 where --config.model.architecture is '{model.architecture}', "
      f"which has no residual blocks, but is {model.blocks}."
    )
  _check_prior(config)
  names.check('model.network', model.network, covariance_network.NETWORKS)
  if model.window < 1 or model.window % 2 == 0:
    raise ValueError(f'--config.model.window must be odd and positive, but is {model.window}.')
  if config.data.labels and model.kind not in kinds.LABELLED:
    raise ValueError(
      "--config.data.labels gives each image's class to a --config.model.kind of "
      f"{', '.join(kinds.LABELLED)}, but the kind is '{model.kind}'; set --config.data.labels=False."
    )
  if model.input_noise and model.kind != 'ae':
    raise ValueError(
      "--config.model.input_noise is of a denoising autoencoder, --config.model.kind 'ae', but the "
      f"kind is '{model.kind}'."
    )
  if model.natural_gradient and model.kind != 'distribution':
    raise ValueError(
      "--config.model.natural_gradient is of --config.model.kind 'distribution', but the kind is "
      f"'{model.kind}'."
    )


def _check_prior(config: Config) -> None:
  """Raises a ValueError if the prior is unknown, or there are no latents for it."""
  model = config.model
  names.check('model.prior', model.prior, latent_priors.PRIORS)
  try:
    latent_priors.options_of(model.prior, model.prior_options)
  except ValueError as error:
    raise ValueError(f'--config.model.prior_options: {error}') from error
  if model.prior != latent_priors.STANDARD and model.kind not in kinds.WITH_PRIOR:
    raise ValueError(
      "--config.model.prior is of the latents of a --config.model.kind of "
      f"{', '.join(kinds.WITH_PRIOR)}, but the kind is '{model.kind}'; leave it "
      f"'{latent_priors.STANDARD}'."
    )


def check_options(config: Config) -> None:
  """Raises a ValueError if the objective, or the model, is not for the options of the family."""
  model, objective, likelihood = config.model, config.objective, config.likelihood
  if model.optimal_scale and (model.kind != 'vae' or model.learn_scale):
    raise ValueError(
      "--config.model.optimal_scale is of a --config.model.kind 'vae' whose scale is not learnt, but "
      f"the kind is '{model.kind}' and --config.model.learn_scale is {model.learn_scale}."
    )
  generated = model.kernel_features > 0
  if generated and (model.kind not in ('vae', 'ae') or 'kernel_size' not in likelihood.options):
    raise ValueError(
      "--config.model.kernel_features is of a --config.model.kind 'vae' or 'ae' whose "
      f"--config.likelihood.family is 'circulant', but the kind is '{model.kind}' and the family "
      f"'{likelihood.family}'; set it to 0."
    )
  if objective.reconstruction == PAPER_LOSS and not (
    generated or likelihood.options.get('gaussian_variance')
  ):
    raise ValueError(
      "--config.objective.reconstruction 'paper_loss' learns no kernel: set "
      "--config.model.kernel_features, of a network of kernels, or a fixed kernel by "
      "--config.likelihood.options.gaussian_variance, of the family circulant."
    )
  if objective.reconstruction and model.kind not in ('vae', 'ae'):
    raise ValueError(
      "--config.objective.reconstruction is of a --config.model.kind 'vae' or 'ae', but the kind is "
      f"'{model.kind}'; leave it ''."
    )
  _check_constraints(config)


def _check_constraints(config: Config) -> None:
  """Raises a ValueError if there is nothing that a constraint could hold."""
  if config.objective.kl_bound and config.model.kind != 'vae':
    raise ValueError(
      "--config.objective.kl_bound is of the latents of a --config.model.kind 'vae', but the kind is "
      f"'{config.model.kind}', whose latents have no KL."
    )
  if config.objective.entropy_bound and not config.likelihood.options.get('rank'):
    raise ValueError(
      "--config.objective.entropy_bound is in nats for each column of a low-rank factor, but "
      f"--config.likelihood.family '{config.likelihood.family}' has none; use 'low_rank' with a rank of "
      "at least 1."
    )


def to_dict(config: Config) -> dict[str, Any]:
  """Returns the configuration as nested dictionaries, as JSON gives them back."""
  return dataclasses.asdict(config, dict_factory=lambda items: {k: _plain(v) for k, v in items})


def from_dict(tree: dict[str, Any]) -> Config:
  """Inverse of `to_dict`; a field that is not there has its default.

  Raises:
    ValueError: if there is a field that Config does not have.
  """
  config = Config()
  for section, values in tree.items():
    if section not in {field.name for field in dataclasses.fields(config)}:
      raise ValueError(f"The stored configuration has a section '{section}' that Config lacks.")
    if not isinstance(values, dict):
      raise ValueError(f"The stored configuration has no fields in its section '{section}'.")
    part = getattr(config, section)
    known = {field.name for field in dataclasses.fields(part)}
    for name, value in values.items():
      if name not in known:
        raise ValueError(f"The stored configuration has '{section}.{name}', which Config lacks.")
      default = getattr(part, name)
      setattr(part, name, tuple(value) if isinstance(default, tuple) else value)
  return config


def flatten(config: Config) -> dict[str, Any]:
  """Returns the fields as 'section.name'; options of the family as 'likelihood.options.name'."""
  flat = {}
  for section, values in to_dict(config).items():
    for name, value in values.items():
      if isinstance(value, dict):
        flat.update({f'{section}.{name}.{option}': item for option, item in value.items()})
      else:
        flat[f'{section}.{name}'] = value
  return flat


def binding(config: Config) -> dict[str, Any]:
  """Returns the fields that a run must keep from its first step to its last.

  The number of steps is among them only where the learning rate depends on it.
  """
  free = FREE + (() if config.optim.schedule == 'cosine' else ('train.steps',))
  return {
    name: value
    for name, value in flatten(config).items()
    if name not in free and name.split('.')[0] not in free
  }


def _plain(value: Any) -> Any:
  return list(value) if isinstance(value, tuple) else value
