"""Short forms of the campaigns: a few dozen cases that take seconds, and that faults are recognised."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from structured_obs.config import DataConfig
from structured_obs.data import prepare
from tests.campaigns import damage, inputs, outcomes, planted, registry
from tests.campaigns.inputs import fields


@pytest.mark.parametrize('kind', inputs.CLASSES)
def test_bad_inputs_are_read_rightly_or_refused_in_a_sentence(kind: str):
  cases = outcomes.sample(list(inputs.CLASSES[kind](0)), 6, seed=0)
  assert not outcomes.faults([outcomes.judge(case) for case in cases])


@pytest.mark.slow
def test_damaged_files_change_no_number_without_a_word():
  assert not outcomes.faults(damage.run(6, seed=0))


def test_every_campaign_can_be_run_by_name():
  for campaign in registry.CAMPAIGNS.values():
    assert callable(campaign.run)
    assert campaign.COUNT >= 0


def _missing_folder(folder: Path) -> str:
  prepare.prepare(DataConfig(source=f'folder:{folder / "nowhere"}', cache_dir=str(folder)))
  return outcomes.ACCEPTED


def _raise(error: BaseException) -> Callable[[Path], str]:
  def run(folder: Path) -> str:
    del folder
    raise error

  return run


def _sleep(folder: Path) -> str:
  del folder
  time.sleep(30)
  return outcomes.RIGHT


@pytest.mark.parametrize(
  ('run', 'names', 'outcome'),
  [
    (lambda folder: outcomes.RIGHT, (), outcomes.RIGHT),
    (_missing_folder, ('nowhere',), outcomes.REFUSED),
    (_missing_folder, ('another name',), outcomes.VAGUE),
    (_raise(ValueError('a long sentence that no one of the project has raised')), (), outcomes.RAW),
    (_raise(KeyError('step')), (), outcomes.RAW),
    (_raise(SystemExit(0)), (), outcomes.RAW),
    (_raise(outcomes.Wrong('7 instead of 6')), (), outcomes.WRONG),
    (_sleep, (), outcomes.HANG),
  ],
)
def test_faults_are_recognised(run: Callable[[Path], str], names: tuple[str, ...], outcome: str):
  result = outcomes.judge(outcomes.Case('kind', 'name', run, names), timeout=1)
  assert result.outcome == outcome
  assert bool(outcomes.faults([result])) == (outcome in outcomes.FAULTS)


def test_a_refusal_of_what_is_healthy_is_a_fault():
  case = outcomes.Case('kind', 'name', _missing_folder, healthy=True)
  assert outcomes.judge(case).outcome == outcomes.NEEDLESS


def test_new_fields_join_by_themselves():
  names = {case.name.partition('=')[0] for case in fields.cases(0)}
  assert {'optim.learning_rate', 'model.options', 'data.labels', 'optim.stages'} <= names


def test_a_sample_is_even_and_reproducible():
  cases = [outcomes.Case(kind, str(k), _sleep) for kind in 'abc' for k in range(20)]
  chosen = outcomes.sample(cases, 10, seed=3)
  assert chosen == outcomes.sample(cases, 10, seed=3)
  assert chosen != outcomes.sample(cases, 10, seed=4)
  assert sorted(sum(case.kind == kind for case in chosen) for kind in 'abc') == [3, 3, 4]
  assert outcomes.sample(cases, 0, seed=0) == cases


def test_counts_are_told_by_kind_and_outcome():
  results = [outcomes.Result('a', '1', outcomes.RIGHT), outcomes.Result('b', '1', outcomes.HANG)]
  assert outcomes.table(results).splitlines() == [
    '| kind | tried | right | hang |',
    '| --- | ---: | ---: | ---: |',
    '| a | 1 | 1 | 0 |',
    '| b | 1 | 0 | 1 |',
    '| **all** | 2 | 1 | 1 |',
  ]


@pytest.mark.parametrize('fault', planted.FAULTS, ids=lambda fault: fault.path)
def test_every_fault_can_be_planted(fault: planted.Fault, tmp_path: Path):
  copied = tmp_path / 'structured_obs' / fault.path
  copied.parent.mkdir(parents=True)
  copied.write_bytes((outcomes.ROOT / 'structured_obs' / fault.path).read_bytes())
  planted.plant(fault, tmp_path)
  assert fault.instead in copied.read_text()
