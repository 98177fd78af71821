"""Every kind of model, small: a configuration that can be built, and what its images would be."""

import copy

from structured_obs import option_records
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.models import KINDS

SMALL = {  # by what the options are of: what makes a network small, and is no matter of the test
  'vae': {'latents': 2, 'features': (4, 4)},
  'ae': {'latents': 2, 'features': (4, 4)},
  'covariance': {'features': (4, 4), 'window': 3, 'context': (4,)},
  'classifier': {'features': (4, 4)},
  'denoiser': {'features': (4, 4)},
  'distribution': {},
  'sr_vae': {'latents': 2},
}


def config_of(kind: str) -> Config:
  """A small configuration of a kind of model that can be built."""
  config = Config()
  config.model.kind = kind
  config.model.options = copy.deepcopy(SMALL.get(kind, {}))
  config.train.batch_size, config.train.steps, config.optim.warmup_steps = 4, 10, 2
  config.data.labels = False not in KINDS[kind].labels
  if kind == 'sr_vae':
    config.model.options |= {name: 1 for name in _names(kind) if name.endswith(('_depth', '_blocks'))}
    config.model.options |= {name: 4 for name in _names(kind) if name.endswith('_growth')}
    config.likelihood.family, config.objective.dequantize = 'discretized_logistic_mixture', False
    config.likelihood.options = {'levels': 17, 'components': 2}
  if kind in ('covariance', 'distribution'):
    config.likelihood.family = 'low_rank'
    config.likelihood.options = {'rank': 2, 'learn_diag': kind == 'covariance'}
  config.objective.dequantize &= not KINDS[kind].given_mean
  return config


def _names(kind: str) -> list[str]:
  possible = option_records.possible(KINDS[kind].options)
  return [name for name in possible if not name.startswith('skip_')]  # of a choice that is not made


def spec_of(config: Config) -> DataSpec:
  """What the images of a configuration would be: 8 x 8, RGB, with what the model is given."""
  given = KINDS[config.model.kind].given_mean
  return DataSpec(
    8, 8, 3, 0 if given else 17, {'train': 100, 'validation': 10, 'test': 10}, config.data.source,
    '', '', '', '', '', '', config.data.labels, 0, [], {},
    condition=3 * given + config.data.labels,
    class_counts=(50, 30, 20) if config.data.labels else (),
  )  # fmt: skip
