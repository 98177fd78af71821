"""Lines of a training: names for people, one width, bits per dimension as in the field."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.data.prepare import DataSpec
from structured_obs.objectives import bounds
from structured_obs.train import metrics, terminal
from tests.train import stub

TRAIN = {
  'loss': 9.0, 'elbo': -8.5, 'grad_norm': 3.0, 'log_p/x': -7.0, 'log_p/z': -1.0, 'log_q/z': 0.5,
  'stats/kl_z': 1.5, 'stats/entropy': 2.0, 'stats/excess_entropy': 0.25, 'stats/variance': 0.5,
  'images_per_second': 123.4, 'learning_rate': 1e-3, 'skipped': 0,
}  # fmt: skip


def test_a_line_has_the_names_that_people_use_in_one_order():
  text = terminal.terms(TRAIN)
  assert text.split() == [
    'loss', '9.0000', 'ELBO', '-8.5000', 'KL', '1.5000', 'variance', '0.5000', 'gradient', '3.0000',
    'images/s', '123',
  ]  # fmt: skip
  assert terminal.terms(dict(reversed(TRAIN.items()))) == text
  assert '/x' not in text
  assert '_' not in text


def test_what_is_shown_depends_on_the_run():
  held = {**TRAIN, 'multipliers/excess_entropy': 0.1, 'skipped': 2}
  assert 'entropy above noise   0.2500' in terminal.terms(held)
  assert 'multiplier of entropy   0.1000' in terminal.terms(held)
  assert 'skipped steps   2.0000' in terminal.terms(held)
  assert 'loss' not in terminal.terms({**TRAIN, 'loss': 8.5}), 'the ELBO says it already'
  assert 'log p(x)  -7.0000' in terminal.terms({'log_p/x': -7.0, 'of_its_own': 1.0})
  assert 'of its own   1.0000' in terminal.terms({'of_its_own': 1.0})


@pytest.mark.parametrize('value', [0.0, 1e-7, -1e-7, 0.5, -9.99, 10.0, -9999.0, 12345.6, -1e30])
def test_lines_are_aligned_whatever_the_numbers_are(value: float):
  usual = terminal.line('train', 50, 1000, terminal.terms({'elbo': -1.5, 'stats/kl_z': 2.0}))
  line = terminal.line('validation', 1000, 1000, terminal.terms({'elbo': value, 'stats/kl_z': value}))
  assert line.index('ELBO') == usual.index('ELBO')
  assert line.index('KL') in (usual.index('KL'), usual.index('KL') + 1)  # one for the sign of -1e30
  assert float(line.split()[3]) == pytest.approx(value, rel=6e-3, abs=1e-4)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_shown(value: float):
  assert str(value) in terminal.terms({'elbo': value}, terminal.Coding(3, 0.1))


def _spec(**fields: object) -> DataSpec:
  return stub.make_prepared().spec._replace(height=5, width=4, channels=3, levels=17, **fields)


def test_bits_per_dim_are_those_of_the_objective():
  code = terminal.coding(_spec(), dequantize=True, discrete=False)
  assert code is not None
  expected = bounds.bits_per_dim(jnp.asarray(-31.0), 60, 2 / 16)
  np.testing.assert_allclose(code.bits(-31.0), expected, rtol=1e-6)
  assert f'bits/dim  {expected:.4f}' in terminal.terms({'elbo': -31.0}, code)
  levels = terminal.coding(_spec(), dequantize=False, discrete=True)
  assert levels is not None
  np.testing.assert_allclose(levels.bits(-31.0), 31 / 60 / math.log(2), rtol=1e-12)


def test_an_elbo_that_bounds_no_code_length_has_no_bits():
  assert terminal.coding(_spec(), dequantize=False, discrete=False) is None
  assert terminal.coding(_spec(masked=True), dequantize=True, discrete=False) is None
  assert terminal.coding(_spec()._replace(levels=0), dequantize=True, discrete=False) is None


def test_every_name_of_the_table_differs():
  names = list(terminal.NAMES.values())
  assert len({*names}) == len(names)


def test_a_recorder_writes_such_lines_and_keeps_its_own_names(tmp_path, capsys):
  with metrics.Recorder(tmp_path, 100, code=terminal.Coding(60, 2 / 16)) as recorder:
    recorder.resume(0)
    recorder.record(5, 'validation', {'elbo': -31.0, 'standard_error': 0.5})
  line = capsys.readouterr().out.rstrip()
  assert line == 'validation   5/100  ELBO   -31.00  ±  0.50  bits/dim  3.7454'
  assert (tmp_path / 'metrics.jsonl').read_text() == (
    '{"step": 5, "kind": "validation", "elbo": -31.0, "standard_error": 0.5}\n'
  )
