"""The recipes for synthetic data, from the command line to the table beside the truth."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from configs import supn_ellipses, supn_splines
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.runs import configuration, experiment, initial
from tests.launch import conftest
from tests.train import stub

CONFIGS = {'splines': supn_splines, 'ellipses': supn_ellipses}
VARIANTS = [(name, variant) for name, module in CONFIGS.items() for variant in module.VARIANTS]


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'limit', 'figures'), [
  ('splines', 360, {'covariances', 'true_samples'}),
  ('ellipses', 108, {'covariances', 'true_samples', 'columns'}),
])  # fmt: skip
def test_training_and_evaluation(tmp_path: Path, name: str, limit: int, figures: set[str]):
  workdir = tmp_path / 'run'
  done = conftest.launch(
    'train', f'--config=configs/supn_{name}.py', f'--workdir={workdir}', '--config.train.steps=3',
    f'--config.data.limit={limit}', f'--config.data.cache_dir={tmp_path / "cache"}',
    '--config.train.batch_size=32',
  )  # fmt: skip
  assert done.status == 0, done.errors
  assert 'real numbers, with their means' in (workdir / 'report.md').read_text()
  done = conftest.launch('evaluate', f'--workdir={workdir}')
  assert done.status == 0, done.errors
  assert 'KL(row ‖ truth)' in done.output
  assert 'bits' not in done.output.replace('and hence no bits', '')
  assert 'nats / value' in done.output
  tree = json.loads((workdir / 'evaluation' / 'evaluation.json').read_text())
  assert tree['images'] == round(limit / 36)
  rows = tree['truth_known']
  # The general evaluation and the one beside the truth are of the same density, found in two ways.
  score = tree['models']['run']['scores']['reconstruction_nats']['mean']
  np.testing.assert_allclose(rows['run']['negative_log_prob']['mean'], score, rtol=1e-5)
  assert rows['truth']['expected']['mean'] < rows['run']['expected']['mean']
  drawn = {path.stem for path in (workdir / 'evaluation' / 'figures').iterdir()}
  assert figures <= drawn


def _spec(config: Config) -> DataSpec:
  height, width = (1, 50) if config.data.source == 'splines' else (16, 16)
  spec: DataSpec = stub.make_prepared().spec
  return spec._replace(height=height, width=width, levels=0, condition=1)


@pytest.mark.parametrize(('name', 'variant'), VARIANTS)
def test_every_variant_can_be_built(name: str, variant: str):
  config = CONFIGS[name].get_config(variant)
  made = experiment.build(config, _spec(config))
  initial.state_shapes(made)
  assert f"'{variant}'" in str(CONFIGS[name].get_config.__doc__)


def test_an_unknown_variant():
  for module in CONFIGS.values():
    with pytest.raises(ValueError, match="; got 'f4'"):
      module.get_config('f4')


def test_models_and_data_must_go_together():
  config = supn_splines.get_config()
  spec = _spec(config)
  with pytest.raises(ValueError, match=r'may be vae, ae'):
    experiment.build(config, spec._replace(condition=0))
  config.model.kind, config.model.options = 'vae', {}
  with pytest.raises(ValueError, match='may be covariance'):
    experiment.build(config, spec)
  config = supn_splines.get_config()
  config.objective.dequantize = True
  with pytest.raises(ValueError, match='real numbers without gray levels'):
    experiment.build(config, spec)


@pytest.mark.parametrize(('field', 'value', 'message'), [
  ('network', 'cnn', "model.options.network must be one of 'patch', 'mlp', but is 'cnn'"),
  ('window', 4, 'model.options.window must be an odd whole number of at least 1, but is 4.'),
  ('context', (4, 0), 'model.options.context must be a tuple, each entry a whole number of at least 1'),
])  # fmt: skip
def test_wrong_fields_are_named(field: str, value, message: str):
  config = supn_splines.get_config()
  config.model.options = {field: value}
  with pytest.raises(ValueError, match=re.escape(message)):
    configuration.resolve(config)
