"""A family of gray levels in the programs: what it needs, how it trains and how it is evaluated."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.evaluation import compare
from structured_obs.runs import experiment, initial
from structured_obs.runs import trained as opened
from structured_obs.train import run

FAMILY = 'discretized_logistic_mixture'


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
  found = digits.get_config(FAMILY)
  found.data.cache_dir = str(tmp_path_factory.mktemp('cache'))
  found.model.options |= {'features': (4, 4), 'blocks': 0}
  found.train = dataclasses.replace(
    found.train, steps=4, validate_every=2, checkpoint_every=2, log_every=2
  )
  return found


@pytest.fixture(scope='module')
def trained(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
  workdir = tmp_path_factory.mktemp('runs') / 'dlm'
  assert run.run(config, run.Options(workdir=str(workdir))) is not None
  return workdir


@pytest.fixture(scope='module')
def untrained(config: Config) -> opened.Trained:
  """What is read of a run before its data are chosen: no numbers of its model."""
  spec = prepare.prepare(config.data).spec
  return opened.Trained('dlm', 'dlm', config, spec, experiment.build(config, spec).model, {}, 4)


def _changed(config: Config, section: str, **fields: Any) -> Config:
  return dataclasses.replace(
    config, **{section: dataclasses.replace(getattr(config, section), **fields)}
  )


@pytest.mark.parametrize(
  ('section', 'fields', 'message'),
  [
    ('objective', {'dequantize': True}, r'objective\.dequantize=True is invalid'),
    ('likelihood', {'options': {'levels': 256}}, r'set --config.likelihood\.options\.levels=17\.'),
    ('model', {'options': {'scale': 'learned'}}, r'model\.options\.scale=.* separates the mean'),
    ('model', {'options': {'covariance': {'layers': 1}}}, r'options\.covariance=.* separates the mean'),
    ('model', {'options': {'scale': 'optimal'}}, r'model\.options\.scale=.* separates the mean'),
    ('optim', {'stages': ('mean:2',)}, r'optim\.stages=.* separates the mean'),
  ],
)
def test_what_it_cannot_do_is_refused_in_a_sentence(config, section, fields, message):
  spec = prepare.prepare(config.data).spec
  with pytest.raises(ValueError, match=message):
    experiment.build(_changed(config, section, **fields), spec)


def test_real_numbers_are_refused(config: Config):
  spec = prepare.prepare(config.data).spec
  with pytest.raises(ValueError, match='real numbers; use a density'):
    experiment.build(config, spec._replace(levels=0))


def test_a_step_sees_images_on_the_grid(config: Config):
  prepared = prepare.prepare(config.data)
  built = experiment.build(config, prepared.spec)
  keys = jax.random.split(jax.random.key(0), 3)
  x = initial.make_preprocess(config, prepared.spec)(keys, jnp.asarray(prepared.images['train'][:3]))
  variables = initial.init_state(built, jax.random.key(1))
  terms = jax.jit(built.model.apply)({'params': variables.params['model']}, keys, x)
  assert np.all(np.isfinite(terms.log_p['x']))
  assert np.all(np.asarray(terms.log_p['x']) < 0)


@pytest.mark.slow
def test_its_evaluation_has_bits_and_no_covariance(trained: Path, tmp_path: Path):
  request = compare.Request(samples=3, num_images=20)
  found = compare.evaluate({'dlm': trained}, tmp_path, request)
  assert 'probabilities of images of 17 gray levels' in found.text
  assert 'Mahalanobis' not in found.text
  tree = json.loads((tmp_path / 'evaluation.json').read_text())
  model = tree['models']['dlm']
  nats, bits = (model['scores'][f'negative_elbo_{unit}']['mean'] for unit in ('nats', 'bits_per_dim'))
  np.testing.assert_allclose(bits, nats / (64 * np.log(2)), rtol=1e-12)
  parts = tree['bound_parts']['dlm']
  assert list(parts) == ['RE_x', 'KL_z']
  assert abs(sum(part['bits_per_dim']['mean'] for part in parts.values()) - bits) < 1e-6
  assert model['calibration'] is None
  assert not {'recalibration', 'whiteness'} & tree.keys()
  assert not (tmp_path / 'figures' / 'calibration.png').exists()
  assert (tmp_path / 'figures' / 'residuals.png').is_file()


@pytest.mark.slow
def test_other_data_of_the_same_kind(trained: Path, tmp_path: Path):
  """The digits again, unsplit: all of them, and the report says of which data."""
  request = compare.Request(samples=1, num_images=12, data='digits')
  compare.evaluate({'dlm': trained}, tmp_path, request)
  tree = json.loads((tmp_path / 'evaluation.json').read_text())
  assert (tree['data'], tree['split'], tree['images']) == ('digits', 'all', 12)
  assert 'data digits; split all' in (tmp_path / 'report.md').read_text()


@pytest.mark.parametrize(
  ('array', 'message'),
  [
    (np.zeros((5, 8, 8), np.uint8), '8 x 8 x 1 pixels of 256 levels, but'),
    (np.zeros((5, 9, 8, 3), np.uint8), '9 x 8 x 3 pixels of 256 levels, but'),
  ],
)
def test_other_data_of_another_kind_are_refused(untrained, tmp_path: Path, array, message: str):
  path = tmp_path / 'images.npz'
  np.savez(path, image=array)
  with pytest.raises(ValueError, match=f'{message} .* use images of the same kind'):
    compare.other_data(untrained, f'npz:{path}', 'test')


def test_other_data_without_the_split_are_refused(untrained: opened.Trained, tmp_path: Path):
  path = tmp_path / 'images.npz'
  np.savez(path, train=np.zeros((5, 8, 8), np.uint8), validation=np.ones((2, 8, 8), np.uint8))
  model = untrained._replace(spec=untrained.spec._replace(levels=256))
  with pytest.raises(ValueError, match='has no test images; use --split with one of train, validation'):
    compare.other_data(model, f'npz:{path}', 'test')
  found, split = compare.other_data(model, f'npz:{path}', 'validation')
  assert (split, len(found.images[split])) == ('validation', 2)
