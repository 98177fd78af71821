"""Runs that older versions have written still open: a kept one, and every field there was."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.runs import configuration, old_layout, restore
from structured_obs.runs import workdir as workdirs

# Two steps of a VAE on digits, written by the version before the options of a kind were its own: a prior
# of its own, a decoder of the covariance, a learned scale, two constraints and a decaying rate.
KEPT = Path(__file__).parent / 'kept' / 'version_1'
FIELDS: dict[str, dict[str, Any]] = {  # of version 1 that stand elsewhere now
  'data': {'skip_corrupt': False, 'manual_dir': '', 'download': False, 'crops': 1, 'plane': 'axial'},
  'model': {'kind': 'vae', 'latents': 3, 'options': {}, 'window': 5, 'network': 'patch', 'blocks': 0},
  'objective': {'kl_bound': 0.0, 'entropy_bound': 0.0, 'damping': 10.0, 'epsilon': 0.0, 'beta': 0.5},
  'optim': {'decay': 1.0, 'min_learning_rate': 0.0, 'kernel_learning_rate': 0.0},
}  # fmt: skip


@pytest.fixture(scope='module')
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The workdir of the kept run."""
  path = tmp_path_factory.mktemp('kept')
  with tarfile.open(KEPT.with_suffix('.tar.gz')) as archive:
    archive.extractall(path, filter='data')
  return path


@pytest.mark.slow
def test_a_kept_checkpoint_reconstructs_what_it_did(kept: Path):
  restored = restore.restore(kept, 'latest')
  x = np.sin(np.arange(2 * 64, dtype=np.float32)).reshape(2, 8, 8, 1)
  params = restored.experiment.model.apply(restored.variables, None, x, method='reconstruct')
  for name, values in json.loads(KEPT.with_suffix('.json').read_text()).items():
    found = np.asarray(getattr(params, name), np.float32).ravel()
    # float32 sums depend on how many numbers the processor adds at once.
    np.testing.assert_allclose(found[: len(values)], values, rtol=1e-6, atol=1e-7, err_msg=name)


def test_its_configuration_is_what_was_asked_for(kept: Path):
  config = configuration.from_dict(workdirs.read(kept)['config'])
  options = config.model.options
  assert (options['features'], options['scale'], options['prior']) == ((2, 3), 'learned', 'mixture')
  assert options['covariance'] == {'features': (2, 2), 'layers': 1, 'sees_mean': False}
  held = {'damping': 5.0, 'rate': 0.2, 'kind': 'at_most'}
  bounds = {'kl': {'bound': 3.0, **held}, 'entropy': {'bound': 0.5, 'floor': 0.0, **held}}
  assert config.objective.constraints == bounds
  assert config.optim.schedule_options == {'decay': 0.99, 'min_learning_rate': 1e-5}
  assert configuration.from_dict(configuration.to_dict(config)) == config
  assert configuration.resolve(config) == config


def test_constraints_from_before_they_had_a_kind_are_upper_bounds(kept: Path):
  config = configuration.from_dict(workdirs.read(kept)['config'])
  tree = configuration.to_dict(config)
  for options in tree['objective']['constraints'].values():
    del options['kind']
    options.pop('floor', None)
  assert configuration.from_dict(tree) == config


@pytest.mark.parametrize('kind', ['vae', 'ae', 'distribution', 'covariance', 'sr_vae', 'classifier'])
def test_what_meant_nothing_is_left_out(kind: str):
  tree = {section: dict(values) for section, values in FIELDS.items()}
  tree['model']['kind'] = kind
  config = configuration.from_dict(tree)
  assert config.model.kind == kind
  assert 'window' not in config.model.options or kind == 'covariance'
  assert config.objective.beta == (0.5 if kind in ('vae', 'sr_vae') else 1.0)


@pytest.mark.parametrize(('change', 'options'), [
  ({'kernel_features': 7}, {'features': 7, 'boundary': 'zero', 'learning_rate': 0.5}),
  ({'kernel_features': 0}, {}),
])  # fmt: skip
def test_what_is_of_a_network_of_kernels_moves_there(change: dict[str, Any], options: dict[str, Any]):
  tree = {
    'model': {'kind': 'vae', 'architecture': 'strided', 'blocks': 0, 'optimal_scale': True, **change},
    'likelihood': {'family': 'circulant', 'options': {'scale': 'fixed', 'max_scale': 3.0}},
    'objective': {'reconstruction': 'paper_loss', 'epsilon': 0.1, 'kernel_boundary': 'zero'},
    'optim': {'kernel_learning_rate': 0.5},
  }
  config = configuration.from_dict(tree)
  assert config.model.options['kernel'] == options
  assert config.model.options['scale'] == 'optimal'
  assert config.objective.reconstruction_options == {'weight': 1.0, 'epsilon': 0.1}


def test_a_newer_version_is_refused():
  tree = configuration.to_dict(Config()) | {'version': 99}
  with pytest.raises(ValueError, match='has version 99, but this program reads up to 2'):
    configuration.from_dict(tree)
  assert old_layout.translate({'model': 3}) == {'model': 3}
