"""Reports of constraints, from records of a run."""

import dataclasses
import math

import pytest

from structured_obs.config import Config, ObjectiveConfig
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import constraint_report
from structured_obs.runs import configuration

IMAGE = ImageShape(4, 4, 1)
FLOOR = 0.1


def _config(kind: str = 'at_most') -> Config:
  config = Config()
  config.likelihood = dataclasses.replace(config.likelihood, family='low_rank', options={'rank': 2})
  held = {'kl': {'bound': 45.0, 'kind': kind}, 'entropy': {'bound': 1.5, 'floor': FLOOR, 'kind': kind}}
  config.objective = ObjectiveConfig(beta=0.0, constraints=held)
  return configuration.resolve(config)


def _records(kl: list[float], entropy: list[float], mean: float = 38.2) -> list[dict]:
  zero = 8 * math.log(2 * math.pi * math.e * FLOOR)
  return [
    {
      'kind': 'train', 'step': 50 * (i + 1),
      'multipliers/kl_z': a, 'stats/kl_z': mean, 'multipliers/entropy': b, 'stats/entropy': zero + 2.5,
    }
    for i, (a, b) in enumerate(zip(kl, entropy, strict=True))
  ] + [{'kind': 'validation', 'step': 50 * len(kl), 'elbo': 1.0}]  # fmt: skip


def test_a_bound_that_never_bound_is_told_and_one_that_binds_is_not():
  records = _records([0.0] * 4, [0.0, 0.0, 0.2, 0.1])
  assert constraint_report.sentences(_config(), IMAGE, records) == [
    'The bound on the KL never bound: the mean stayed at 38.2 of 45 nats '
    '(--config.objective.constraints.kl).'
  ]
  table = constraint_report.section(_config(), IMAGE, records)
  assert 'never bound' in table
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table.split('\n') if '|' in line]
  assert rows[2:] == [
    ['KL', 'at most 45 nats', '38.2', '0'],
    ['entropy', 'at most 3 nats', '2.5', '0.1'],
  ]


@pytest.mark.parametrize(
  ('kl', 'told'),
  [
    ([0.3, 0.0, 0.0, 0.0], 'The bound on the KL has not bound since step 50: the mean is 38.2 of 45'),
    ([0.3, 0.3, 0.3, 0.0], ''),  # too late to tell
    ([0.0, 0.0, 0.0, 0.1], ''),
  ],
)
def test_a_bound_that_bound_at_first_is_told_from_when(kl: list[float], told: str):
  found = constraint_report.sentences(_config(), IMAGE, _records(kl, [1.0] * 4))
  assert [one[: len(told)] for one in found] == ([told] if told else [])


def test_equal_has_no_side_on_which_it_does_not_bind():
  records = _records([0.0] * 4, [0.0] * 4)
  assert not constraint_report.sentences(_config('equal'), IMAGE, records)
  assert 'of at least 45 nats' in constraint_report.sentences(_config('at_least'), IMAGE, records)[0]
  assert 'equal to 45 nats' in constraint_report.section(_config('equal'), IMAGE, records)


def test_runs_without_constraints_or_records_have_nothing_to_tell():
  assert constraint_report.section(Config(), IMAGE, _records([0.0], [0.0])) == ''
  assert constraint_report.section(_config(), IMAGE, []) == ''
  lost = [{'kind': 'train', 'step': 1, 'multipliers/kl_z': None, 'stats/kl_z': None}]
  assert constraint_report.sentences(_config(), IMAGE, lost) == []
