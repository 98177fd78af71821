"""The benchmark at tiny sizes: its records, its table and what it refuses."""

import dataclasses
import functools
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import compiled
from structured_obs.benchmark import (
  conditioning,
  families,
  measure,
  report,
  robustness,
  solves,
  suites,
  training,
)
from structured_obs.config import Config, DataConfig, LikelihoodConfig, ModelConfig, TrainConfig
from structured_obs.distributions import FAMILIES, kl

TINY = suites.Settings(
  sizes=(5,), filters=(3,), batches=(2,), ranks=(2,), repeats=2, calls=2, timeout=120,
  families=('diagonal',), operations=('banded solve',),
)  # fmt: skip
TINY_RECIPE = Config(
  data=DataConfig(source='folder:', height=4, width=4),
  model=ModelConfig('vae', {'latents': 2, 'features': (2,), 'blocks': 0}),
  likelihood=LikelihoodConfig('diagonal'),
  train=TrainConfig(batch_size=2),
)
SPARSE_TASKS = [
  'solve', 'packing for solves', 'packed solve', 'solve, value and gradient', 'log_prob',
  'log_prob, value and gradient', '64 samples of one factor', 'exact variances', 'conditional mean'
]  # fmt: skip


@functools.cache
def _records(suite: str) -> list[dict[str, Any]]:
  return list(suites.run(TINY._replace(suites=(suite,)), {'tiny': TINY_RECIPE}))


@pytest.mark.parametrize('suite', suites.SUITES)
@pytest.mark.slow
def test_every_suite_runs(suite: str):
  records = _records(suite)
  assert records
  assert json.loads(json.dumps(records)) == records
  for record in records:
    assert report.table(record)
    if suite == 'robustness':
      assert record['finite']
      assert record['operation'] in report.table(record)
    elif suite == 'compile':
      assert [row['name'] for row in record['rows']] == ['5x5', '10x10']
      assert {bar['quantity'] for bar in record['bars']} > {'solve', 'gradient'}
    elif suite == 'accuracy':
      assert all(bar['met'] for bar in record['bars'])
    elif suite == 'growth':
      assert all(row['unit_ns'] > 0 for row in record['rows'])
    elif suite == 'training':
      assert all(np.isfinite(row['loss']) and row['step_ms'] > 0 for row in record['rows'])
    elif 'median' in record:
      assert record['rows'][0] == {'name': 'ours', 'ratio': 1.0}
    else:
      _check_agreement(record)


def _check_agreement(record: dict[str, Any]) -> None:
  """Every peer computes what we do, and both what float64 does."""
  rows = record['candidates']
  assert rows[0]['name'] == 'ours'
  assert rows[0]['ratio'] == 1
  for row in rows:
    assert row['difference'] < 1e-4, (record['task'], row)
    assert row['error'] is None or row['error'] < 1e-5, (record['task'], row)


@pytest.mark.slow
def test_peers_of_the_sparse_factor():
  peers = {'scipy': 'LAPACK tbtrs', 'torch': 'torch, 1 thread'}
  records = _records('sparse')
  named = {record['task'].split(' f=')[0]: record for record in records if 'task' in record}
  assert list(named) == SPARSE_TASKS
  tasks = {
    'scipy': ('solve', 'packed solve', '64 samples of one factor'),
    'torch': ('log_prob, value and gradient',),
  }
  for package, peer in peers.items():
    for task in tasks[package]:
      names = [row['name'] for row in named[task]['candidates']]
      there = importlib.util.find_spec(package) is not None
      assert (peer in names) == there
      assert (package in named[task]['missing']) != there


def test_a_wrong_result_is_seen():
  ours = measure.Candidate('ours', lambda: [np.ones(3), np.ones(2)])
  wrong = measure.Candidate('wrong', lambda: [np.ones(3), np.array([1.0, 3.0])])
  _, row = measure.compare(measure.Task('ones', [ours, wrong], np.full(3, 2.0)), 1)['candidates']
  assert row['difference'] == 2
  assert row['error'] == 0.5


def test_bars_are_judged_by_their_column():
  rows = [
    {'name': 'ours', 'median_ms': 2.0, 'temporary_bytes': 10, 'error': 1e-5},
    {'name': 'peer', 'median_ms': 5.0, 'temporary_bytes': 90, 'error': 1e-3},
  ]
  bars = (
    measure.faster('peer', 2.5),
    measure.faster('absent', 1.0),
    measure.Bar('temporary_bytes', 10.0, 'peer'),
    measure.Bar('error', 2e-5),
    measure.Bar('median_ms', 1.0),
  )
  judged = measure.judge(bars, rows)
  assert [bar['reached'] for bar in judged] == [2.5, 9.0, 1e-5, 2.0]
  assert [bar['met'] for bar in judged] == [True, False, True, False]


def test_conditioning_counts_by_its_median_case():
  cases = [
    {'candidates': [{'name': 'ours', 'ratio': 1.0}, {'name': 'CHOLMOD', 'ratio': ratio}]}
    for ratio in (0.1, 1.5, 9.0)
  ]
  record = conditioning.median_case(64, 5, cases)
  assert record['rows'][1]['ratio'] == 1.5
  assert record['bars'][0]['met']
  assert 'CHOLMOD' in report.table(record)


def test_packed_bars_need_the_flag(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  natural, packed = solves.lapack_bars(12, (16, 64, 64))
  assert [bar.limit for bar in natural] == [2.5]
  assert packed == ()
  compiled.native_loops()
  shapes = ((16, 64, 64), (16, 128, 128), (1, 256, 256))
  limits = [[bars[0].limit for bars in solves.lapack_bars(12, shape)] for shape in shapes]
  assert limits == [[3.5, 8.0], [9.0, 20.0], [13.0, 40.0]]


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'suites': ('speed',)}, "suite must be among sparse, .*, training; got 'speed'"),
    ({'filters': (4,)}, 'filters must be odd'),
    ({'sizes': (0,)}, 'must be at least 1'),
    ({'families': ('low rank',)}, "families must be among diagonal, low_rank, .*; got 'low rank'"),
  ],
)
def test_wrong_settings_are_refused(change, message: str):
  with pytest.raises(ValueError, match=message):
    suites.check(TINY._replace(**change))


def test_every_operation_of_every_family_is_there():
  names = robustness.operations(size=3, batch=1)
  gaussian = ('entropy', 'variance', 'condition', 'posterior_mean')
  for family, make in FAMILIES.items():
    for operation in ('log_prob', 'sample', *(gaussian if make().gaussian else ())):
      assert f'{family} {operation}' in names
  pairs = [name for name in names if name.startswith('kl ')]
  assert len(pairs) == len(kl.CLOSED_FORMS)
  assert 'kl sparse_precision || low_rank' in pairs


@pytest.mark.parametrize(
  'name', ['low_rank posterior_mean', 'dense_precision condition', 'kl diagonal || diagonal']
)
@pytest.mark.slow
def test_an_operation_survives(name: str):
  operation = robustness.operations(size=3, batch=2)[name]
  record = robustness.survive(name, operation, 2)
  assert record['finite']
  function, arguments = operation
  gradient = jax.vmap(jax.grad(function))(*arguments)
  assert any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_a_failing_operation_is_reported():
  record = robustness.survive('log', (jnp.log, (jnp.zeros(2, jnp.float32),)), 1)
  assert not record['finite']
  assert 'NOT FINITE' in report.table(record)


def test_an_operation_that_hangs_is_reported(monkeypatch):
  """Its process is ended, and the record says so; the caller goes on."""
  monkeypatch.setattr(robustness, 'GRACE', 0)
  record = robustness.supervised('banded solve', 1, 0.01)
  assert not record['finite']
  assert 'killed after 0.01 s' in report.table(record)


def test_a_process_ends_itself_with_a_traceback():
  record = robustness.supervised('banded solve', 1, 0.01)
  assert record['failure'].startswith('status 1: ')
  assert 'File "' in record['failure']
  assert 'NOT FINITE' in report.table(record)


def test_a_cliff_is_marked(monkeypatch):
  """A value whose unit of work costs more than CLIFF times that of the one before."""
  case = families.Case('diagonal', {}, 1)
  monkeypatch.setattr(families, 'candidate', lambda *_: measure.Candidate('ours', lambda: None))
  times = [measure.Times([ms], [ms]) for ms in (1.0, 2.0, 9.0, 12.0)]
  monkeypatch.setattr(measure, 'rounds', lambda *_: times)
  work = {value: ((case, value, 4), 4.0 * value) for value in (1, 2, 4, 8)}
  record = families._record(case, 'H', work, (1, 1))
  assert [row['cliff'] for row in record['rows']] == [False, False, True, False]
  assert [row['growth'] for row in record['rows']] == [1.0, 1.0, 2.25, 12 / 18]
  assert record['bars'][0]['reached'] == 2.25
  assert 'CLIFF' in report.table(record)
  assert 'cliffs at H=4' in report.markdown([record])


def test_every_family_is_timed():
  assert {case.family for case in families.cases(3, 2)} == FAMILIES.keys()
  outputs = [name for case in families.cases(3, 2) for name in [case.name(4, 4, 2)]]
  assert len(set(outputs)) == len(outputs)


@pytest.mark.slow
def test_the_published_table():
  """Its settings are valid, and records of every kind of task have a line."""
  for settings in suites.PUBLISHED:
    suites.check(settings)
  lines = report.markdown(_records('convolutions') + _records('training') + _records('growth'))
  assert 'gradient by a 3x3 kernel' in lines
  assert '| tiny 4x4x1 batch 2 |' in lines
  assert lines.count('growth in') == 2


def test_recipes_without_images_alone_are_refused():
  config = dataclasses.replace(TINY_RECIPE, data=DataConfig(source='digits', labels=True))
  with pytest.raises(ValueError, match='needs the class of each image'):
    training.spec(config)


def _launch(*flags: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, '-m', 'launch.benchmark', *flags],
    capture_output=True, text=True, timeout=200, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, check=False,
  )  # fmt: skip


@pytest.mark.slow
def test_command_writes_json(tmp_path):
  out = tmp_path / 'benchmark.json'
  tiny = ('--sizes=4', '--filters=3', '--batches=1', '--repeats=1', '--suite=sparse', '--xla_flag')
  done = _launch(*tiny, f'--out={out}')
  assert done.returncode == 0, done.stderr
  record = json.loads(out.read_text())
  assert record['machine']['versions']['jax']
  assert 'small_while_loop' in record['machine']['xla_flags']
  names = [task['task'].split(' f=')[0] for task in record['tasks'] if 'task' in task]
  assert list(dict.fromkeys(names)) == SPARSE_TASKS


@pytest.mark.slow
def test_a_wrong_flag_gives_one_sentence():
  done = _launch('--sizes=big')
  assert done.returncode == 1
  assert (
    done.stderr.strip() == "error: --sizes=big is invalid; it takes whole numbers separated by commas."
  )
