"""The command line: overrides of a config, mistakes in one line, and the prepare_data script."""

import numpy as np
import pytest

from tests import forks
from tests.data import helpers

_CONFIG = '''
from structured_obs import config


def get_config(variant=''):
  if variant not in ('', 'low_rank'):
    raise ValueError(f'There is no variant {variant!r}.')
  result = config.Config()
  result.data.source = 'npz:FOLDER/x.npz'
  result.data.cache_dir = 'FOLDER/cache'
  result.likelihood.family = 'low_rank'
  result.likelihood.options = {'rank': 8, 'noise_variance': 1e-3}
  return result
'''
_SHOW = '''
from launch import flags
CONFIG = flags.define_config()
flags.run(lambda arguments: print(CONFIG.value.KEY))
'''


@pytest.fixture
def folder(tmp_path):
  """A folder with a config file and ten images."""
  (tmp_path / 'config.py').write_text(_CONFIG.replace('FOLDER', str(tmp_path)))
  np.savez(tmp_path / 'x.npz', image=helpers.random_images(10))
  return tmp_path


def _prepare(folder, *flags: str, config: str = 'config.py') -> tuple[int, list[str], list[str]]:
  return _lines('launch.prepare_data', f'--config={folder / config}', *flags)


def _lines(program: str, *flags: str) -> tuple[int, list[str], list[str]]:
  done = forks.run(program, *flags)
  return done.status, done.output.splitlines(), done.errors


def test_prepare_data_says_what_there_is(folder):
  status, printed, errors = _prepare(folder, '--verify', config='config.py:low_rank')
  assert (status, errors) == (0, [])
  text = '\n'.join(printed)
  assert '8 train, 1 validation, 1 test' in text
  assert '6 x 5 x 3, 256 levels' in text
  assert 'verified' in text


@pytest.mark.parametrize(
  ('flag', 'key', 'expected'),
  [
    ('--config.likelihood.options.rank=4', 'likelihood.options["rank"]', '4'),
    ('--config.likelihood.family=diagonal', 'likelihood.options["learn_scale"]', 'True'),
    ('--config.model.options.features=(8, 9, 10)', 'model.options["features"]', '(8, 9, 10)'),
    ('--config.model.options.kernel.features=8', 'model.options["kernel"]["boundary"]', 'circular'),
    ('--config.objective.constraints.kl.bound=15', 'objective.constraints["kl"]["bound"]', '15.0'),
    ('--config.optim.stages=mean:20', 'optim.stages', "('mean:20',)"),
    ('--config.data.flip', 'data.flip', 'True'),
  ],
)
@pytest.mark.few(2)
def test_fields_can_be_overridden(folder, flag, key, expected):
  program = folder / 'show.py'
  program.write_text(_SHOW.replace('KEY', key))
  status, printed, _ = _lines(str(program), f'--config={folder / "config.py"}', flag)
  assert (status, printed) == (0, [expected])


@pytest.mark.parametrize(
  'flag', [('--config.objective.constraints=none',), ('--config.objective.constraints', 'none')]
)
def test_a_group_is_left_out(folder, flag):
  text = (
    (folder / 'config.py')
    .read_text()
    .replace('  return', "  result.objective.constraints = {'kl': {'bound': 3.0}}\n  return")
  )
  (folder / 'bounded.py').write_text(text)
  program = folder / 'show.py'
  program.write_text(_SHOW.replace('KEY', 'objective.constraints'))
  arguments = str(program), f'--config={folder / "bounded.py"}'
  assert _lines(*arguments)[1][0].startswith("{'kl': {'bound': 3.0")
  assert _lines(*arguments, *flag)[:2] == (0, ['{}'])


@pytest.mark.parametrize(
  ('flag', 'words'),
  [
    ('--config.optim.lerning_rate=1', 'did you mean --config.optim.learning_rate'),
    ('--config.optimm.clip_norm=1', 'did you mean --config.optim.clip_norm?'),
    ('--config.likelihood.options.rnk=1', 'did you mean --config.likelihood.options.rank?'),
    ('--noconfig.data.flp', 'did you mean --config.data.flip?'),
    ('--config.optim.learning_rate=abc', "=abc is invalid; it must be of type float"),
    ('--config.likelihood.options.rank=abc', "=abc is invalid; it must be of type int"),
    ('--config.optim.stages=mean:4,all:2', """--config.optim.stages="('mean:4', 'all:2')"."""),
    ('--config.data.flip=maybe', "=maybe is invalid; it must be of type bool"),
    (
      "--config.model.options.features=(1, 'a')",
      'must be a tuple, not empty, each entry a whole number',
    ),
    (
      '--config.model.options.latent=3',
      "latent=3: there is no such option of --config.model.kind='vae'; did",
    ),
    ('--config.model.options.latent=3', 'did you mean --config.model.options.latents?'),
    ('--config.data.options.plane=axial', "of --config.data.source='npz:"),
    ('--config.optim=3', 'is a group of fields; set one of --config.optim.learning_rate'),
    ('--verfy', '--verfy is not a flag of this script; did you mean --verify?'),
    ('verify', 'write flags as --name=value'),
  ],
)
@pytest.mark.few(3)
def test_a_mistake_is_answered_with_one_line(folder, flag, words):
  status, printed, errors = _prepare(folder, flag)
  assert (status, printed, len(errors)) == (2, [], 1)
  assert words in errors[0]


@pytest.mark.parametrize(
  ('config', 'words'),
  [('none.py', 'does not exist'), ('config.py:hi', "ValueError: There is no variant 'hi'.")],
)
def test_a_config_that_cannot_be_read(folder, config, words):
  status, printed, errors = _prepare(folder, config=config)
  assert (status, printed, len(errors)) == (2, [], 1)
  assert words in errors[0]


def test_a_missing_config_is_asked_for():
  status, _, errors = _lines('launch.prepare_data')
  assert (status, len(errors)) == (2, 1)
  assert 'a config file is required' in errors[0]


def test_errors_of_the_library_are_one_line_unless_debugging(folder):
  flag = '--config.data.source=folder:/no/such'
  status, _, errors = _prepare(folder, flag)
  assert status == 1
  assert errors == ['error: --config.data.source=folder:/no/such: this folder does not exist.']
  status, _, errors = _prepare(folder, flag, '--debug')
  assert status == 1
  assert 'Traceback' in errors[0]
