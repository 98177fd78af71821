"""Wrappers of a likelihood in a configuration, and what models make of outputs that images share."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.models import KINDS
from structured_obs.models.kind import Setting
from structured_obs.runs import checks, configuration

FLAG = '--config.likelihood.wrapper'


def _config(wrappers: tuple[str, ...], kind: str = 'vae', **options: dict[str, Any]) -> Config:
  config = Config()
  config.model.kind = kind
  config.likelihood.wrappers, config.likelihood.wrapper_options = wrappers, options
  return config


def test_every_wrapper_has_its_options_and_the_stored_configuration_reads_back():
  config = configuration.resolve(_config(('colour', 'student'), student={'dof': 'predicted'}))
  options = config.likelihood.wrapper_options
  assert options['colour']['rotation'] == 'fixed'
  assert options['student']['dof'] == 'predicted'
  assert configuration.from_dict(configuration.to_dict(config)) == config
  outputs = checks.family_of(config).outputs((4, 4, 3))
  assert {'colour_log_scale', 'log_dof'} <= set(outputs)


@pytest.mark.parametrize(
  ('wrappers', 'options', 'message'),
  [
    (('colr',), {}, "s=('colr',): there is no 'colr'; did you mean 'colour'?"),
    (('haar', 'haar'), {}, "s=('haar', 'haar') has 'haar' twice"),
    (
      ('haar',),
      {'colour': {}},
      "_options.colour={} has no effect unless --config.likelihood.wrappers has",
    ),
    (('haar',), {'haar': {'level': 2}}, 'did you mean --config.likelihood.wrapper_options.haar.levels?'),
    (('haar',), {'haar': {'levels': 0}}, '_options.haar.levels must be a whole number'),
    (('haar',), {'haar': 2}, '_options.haar=2 is invalid'),
    (('student', 'scaled'), {}, "s=('student', 'scaled'): scaled needs a Gaussian family"),
    (
      ('haar',),
      {'haar': {'scale': 'fixed', 'max_scale': 5.0}},
      "_options.haar.max_scale=5.0 has no effect with --config.likelihood.wrapper_options.haar.scale",
    ),
  ],
)
def test_wrong_wrappers_and_options_are_refused(wrappers: Any, options: Any, message: str):
  whole = message if message.startswith('did') else f'{FLAG}{message}'
  with pytest.raises(ValueError, match=re.escape(whole)):
    configuration.resolve(_config(wrappers, **options))


def test_typed_wrappers_bring_options_that_can_be_typed():
  typed = {'likelihood.wrappers': 'colour,haar', 'likelihood.wrapper_options.haar.levels': '2'}
  config, gone = configuration.expanded(_config(('student',), student={'dof': 'fixed'}), typed)
  assert config.likelihood.wrappers == ('colour', 'haar')
  assert set(config.likelihood.wrapper_options) == {'colour', 'haar'}
  assert 'levels' in config.likelihood.wrapper_options['haar']
  assert gone == ['wrapper_options.student']


@pytest.mark.parametrize('kind', ['vae', 'ae', 'covariance', 'distribution'])
def test_an_output_that_images_share_is_one_array(kind: str):
  config = configuration.filled(_config(('colour',), kind, colour={'rotation': 'learned'}))
  family, image = checks.family_of(config), ImageShape(8, 8, 3)
  setting = Setting(axis_name=None, dtype=jnp.float32, frozen_mean=False, white=False)
  model: Any = KINDS[kind].build(config.model.options, family, image, setting)
  channels = 6 if kind == 'covariance' else 3
  keys, x = jax.random.split(jax.random.key(1), 2), jnp.zeros((2, 8, 8, channels), jnp.float32)
  variables = jax.eval_shape(model.init, {'params': jax.random.key(0)}, keys, x)
  assert variables['params']['decoder']['heads']['colour_angles'].shape == (3,)
