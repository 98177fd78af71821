"""Translates stored configurations of version 1, where all options stood side by side.

Options that had no effect, such as the window of a VAE, are dropped.
"""

from typing import Any

from structured_obs import distributions, models, option_records
from structured_obs.data import decode, sources
from structured_obs.objectives import reconstruction
from structured_obs.option_values import When, Where
from structured_obs.runs import schedule

Tree = dict[str, Any]

# Fields of version 1 whose names are others today; all others that moved kept theirs.
RENAMED = {
  'model.learn_scale': 'model.options.scale',
  'model.optimal_scale': 'model.options.scale',
  'model.covariance_features': 'model.options.covariance.features',
  'model.covariance_layers': 'model.options.covariance.layers',
  'model.covariance_sees_mean': 'model.options.covariance.sees_mean',
  'model.kernel_features': 'model.options.kernel.features',
  'objective.kernel_boundary': 'model.options.kernel.boundary',
  'optim.kernel_learning_rate': 'model.options.kernel.learning_rate',
  'objective.kl_bound': 'objective.constraints.kl.bound',
  'objective.entropy_bound': 'objective.constraints.entropy.bound',
  'objective.multiplier_rate': 'objective.constraints.kl.rate',
  'objective.reconstruction_weight': 'objective.reconstruction_options.weight',
}


def translate(tree: Tree) -> Tree:
  """Returns the sections of a version 1 configuration in the current layout.

  Raises:
    ValueError: a section has a field that version 1 never had.
  """
  if not all(isinstance(values, dict) for values in tree.values()):
    return tree  # the reader of the current layout refuses it
  found = {section: dict(values) for section, values in tree.items()}
  kernel = _kernel(found)
  model = found.get('model', {})
  kind = model.get('kind', 'vae')
  if 'data' in found:
    found['data'] = _data(found['data'])
  if 'model' in found:
    found['model'] = {'kind': kind, 'options': _model(model, kernel)}
  if 'objective' in found:
    found['objective'] = _objective(found['objective'])
  if 'optim' in found:
    found['optim'] = _optim(found['optim'])
  if 'likelihood' in found:
    found['likelihood'] = _likelihood(found['likelihood'])
  for field in models.KINDS[kind].unused if kind in models.KINDS else ():
    section, _, path = field.partition('.')
    _drop(found.get(section, {}), path.split('.') if path else [])
  return found


def _drop(tree: Tree, path: list[str]) -> None:
  """Removes the value at a path, if there is one."""
  if not path:
    return tree.clear()
  for name in path[:-1]:
    tree = tree.get(name, {})
  tree.pop(path[-1], None)
  return None


def _kernel(found: Tree) -> Tree:
  """Removes and returns the options of a network of kernels; {} without one."""
  objective, optim = found.get('objective', {}), found.get('optim', {})
  boundary = objective.pop('kernel_boundary', 'circular')
  rate = optim.pop('kernel_learning_rate', 0.0)
  features = found.get('model', {}).pop('kernel_features', 0)
  return {'features': features, 'boundary': boundary, 'learning_rate': rate} if features else {}


def _data(data: Tree) -> Tree:
  moved = {'plane', 'min_foreground', 'manual_dir', 'download', 'skip_corrupt'}
  options = {name: data.pop(name) for name in moved & data.keys()}
  source = data.get('source', 'digits').partition(':')[0]
  record = sources.kind_of(source).options if source in sources.SOURCES else None
  data['options'] = _known(record, options)
  crops = {'crops': data.pop('crops', 1)}
  data['crop_options'] = _known(decode.CROPS.get(data.get('crop', 'center')), crops)
  return data


def _model(model: Tree, kernel: Tree) -> Tree:
  kind, inner = model.pop('kind', 'vae'), model.pop('options', {})
  learned, optimal = model.pop('learn_scale', False), model.pop('optimal_scale', False)
  covariance = {
    name.removeprefix('covariance_'): model.pop(name)
    for name in ('covariance_features', 'covariance_layers', 'covariance_sees_mean')
    if name in model
  }
  given = {**model, **inner, 'scale': 'learned' if learned else 'optimal' if optimal else 'none'}
  given['covariance'] = covariance if covariance.get('features') else {}
  given['kernel'] = kernel
  return _known(models.KINDS[kind].options, given) if kind in models.KINDS else given


def _likelihood(likelihood: Tree) -> Tree:
  record = distributions.FAMILIES.get(likelihood.get('family', 'diagonal'))
  every, given = option_records.options_of(record), likelihood.get('options', {})
  values = {name: option.default for name, option in every.items()} | given
  rules = {name: option.rule(When) for name, option in every.items()}
  options = {k: v for k, v in given.items() if not (r := rules.get(k)) or values[r.other] in r.values}
  return {**likelihood, 'options': options}


def _objective(objective: Tree) -> Tree:
  shared = {'damping': objective.pop('damping', 10.0), 'rate': objective.pop('multiplier_rate', 0.1)}
  bounds = {name: objective.pop(f'{name}_bound', 0.0) for name in ('kl', 'entropy')}
  objective['constraints'] = {name: {'bound': b, **shared} for name, b in bounds.items() if b}
  options = {
    'weight': objective.pop('reconstruction_weight', 1.0),
    'epsilon': objective.pop('epsilon', 0.0),
  }
  record = reconstruction.RECORDS.get(objective.get('reconstruction', ''))
  objective['reconstruction_options'] = _known(record, options)
  return objective


def _optim(optim: Tree) -> Tree:
  options = {name: optim.pop(name) for name in ('decay', 'min_learning_rate') if name in optim}
  record = schedule.RULE.records.get(optim.get('schedule', 'constant'))
  optim['schedule_options'] = _known(record, options)
  return optim


def _known(record: option_records.Record, given: Tree) -> Tree:
  """Returns the given options that a record has for its choice."""
  every = option_records.possible(record)
  chosen = {name: value for name, value in given.items() if name in every}
  found = option_records.available(record, chosen, Where('--config', '--config'), strict=False)
  return {name: value for name, value in given.items() if name in found}
