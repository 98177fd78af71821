"""What a program says of errors, paths and interrupts, without starting one for each."""

import math
import os
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags as absl_flags

from launch import errors, flags, interrupts, parsers
from structured_obs import names
from structured_obs.devices import rendezvous
from structured_obs.train import run
from tests.launch import conftest

ABSENT: Any = None  # where something else is needed


def raised(step: str, raise_it) -> BaseException:
  """The exception that a function raises during a step of a run."""
  try:
    with run.during(step):
      raise_it()
  except BaseException as error:
    return error
  raise AssertionError


def test_what_is_meant_for_the_user_is_its_own_message():
  error = raised('testing', lambda: names.check('model.kind', 'vea', ['vae']))
  # As it is typed where a program with --config has been imported in this process.
  said = errors.message(error).removeprefix('--config.')
  assert said.startswith("model.kind='vea' is unknown; it must be one of 'vae'.")
  error = raised('testing', lambda: Path('/no/such/file').read_bytes())
  assert errors.message(error) == "[Errno 2] No such file or directory: '/no/such/file'"


@pytest.mark.parametrize(
  ('cause', 'message'),
  [
    (lambda: {}['images'], "KeyError: 'images'"),
    (lambda: np.zeros(3).reshape(2, 2), 'ValueError: cannot reshape array of size 3'),
    (lambda: zipfile.ZipFile(__file__), 'BadZipFile: File is not a zip file'),
    (lambda: 1 / 0, 'ZeroDivisionError: division by zero'),
    (lambda: math.sqrt(ABSENT), 'TypeError: must be real number'),
  ],
)
def test_an_unexpected_error_names_step_type_and_place(cause, message: str):
  said = errors.message(raised('preparing the data', cause))
  assert said.startswith(f'while preparing the data: {message}')
  assert '(outside of this project)' in said
  assert '--debug to see the traceback' in said
  assert len(said.splitlines()) == 1


def test_the_innermost_line_of_the_project_is_named():
  said = errors.message(raised('joining', lambda: rendezvous.parse_address(ABSENT)))
  assert said.startswith("while joining: AttributeError: 'NoneType' object has no attribute ")
  assert '(structured_obs/devices/rendezvous.py, line ' in said


def test_too_little_memory_says_what_needs_less():
  def fail() -> None:
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore')

  said = errors.message(raised('training', fail))
  assert said.startswith('while training: out of memory (RESOURCE_EXHAUSTED: Out of memory')
  assert 'train.batch_size' in said
  assert 'more' not in said


def test_fields_are_named_as_they_are_typed(monkeypatch: pytest.MonkeyPatch):
  text = "--config.data.source is 'x'; set --config.data.options.skip_corrupt=True."
  values = absl_flags.FlagValues()
  monkeypatch.setattr(errors.flags, 'FLAGS', values)
  assert errors.as_typed(text) == "data.source is 'x'; set data.options.skip_corrupt=True."
  absl_flags.DEFINE_string('data_source', '', '', flag_values=values)
  assert errors.as_typed(text) == "--data_source is 'x'; set data.options.skip_corrupt=True."
  absl_flags.DEFINE_string('config', '', '', flag_values=values)
  assert errors.as_typed(text) == text


def test_paths_are_written_out_and_addresses_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
  monkeypatch.setenv('HOME', str(tmp_path))
  one, many = parsers.PathParser('workdir'), parsers.PathsParser('compare')
  assert one.parse('~/runs/a') == f'{tmp_path}/runs/a'
  assert one.parse('runs/a~') == 'runs/a~'
  assert one.parse('') == ''
  assert many.parse('~/a,b') == [f'{tmp_path}/a', 'b']
  assert many.parse('') == []
  for text in ('gs://bucket/run', 's3://b/r', 'hdfs://host/run', 'https://host/x', 'GS://b', 'gs:/b'):
    with pytest.raises(ValueError, match=r'--workdir=.* only local paths'):
      one.parse(text)
    with pytest.raises(ValueError, match=r'--compare=.* only local paths'):
      many.parse(f'runs/a,{text}')


def test_numbers_are_finite_and_of_32_bits():
  parser = parsers.FiniteParser('sigma', 0.0)
  assert parser.parse('0.5') == 0.5
  for text in ('nan', 'inf', '-inf', '1e999', '-1'):
    with pytest.raises(ValueError, match=r'finite|non-negative'):
      parser.parse(text)
  flags.define_integer('seed_of_this_test', 0, '')
  flag = absl_flags.FLAGS['seed_of_this_test']
  assert flag.parser.parse('2147483647') == 2**31 - 1
  for text in ('2147483648', '-1', '1.5'):
    with pytest.raises(ValueError, match=r'range|non-negative|invalid'):
      flag.parser.parse(text)
  delattr(absl_flags.FLAGS, 'seed_of_this_test')


_PROGRAM = '''
import sys
sys.argv[0] = '-m'  # as `python -m` has it while a package is imported
import launch
sys.argv[0] = 'program'
import time
print('importing', flush=True)
if 'imports' in sys.argv:
  time.sleep(60)
from launch import flags
from structured_obs.train import run

def main(arguments):
  try:
    with run.during('preparing the data'):
      print('caf\\u00e9 \\u2016 \\udcff', flush=True)
      time.sleep(60)
  finally:
    print('in order', flush=True)

sys.argv = sys.argv[:1]
flags.run(main)
'''


@pytest.mark.parametrize(
  ('number', 'words', 'message'),
  [
    (signal.SIGINT, ['imports'], 'Interrupted; the same command resumes, or restarts.'),
    (signal.SIGTERM, [], 'Ended by SIGTERM while preparing the data; the same command'),
  ],
)
def test_a_signal_is_one_line_at_any_moment(number: signal.Signals, words: list[str], message: str):
  process = subprocess.Popen(
    [sys.executable, '-c', _PROGRAM, *words],
    cwd=conftest.ROOT,
    env=os.environ | {'PYTHONIOENCODING': 'ascii:strict', 'PYTHONPATH': str(conftest.ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout is not None
  wanted = 'importing\n' if words else 'caf\\xe9 \\u2016 \\udcff\n'
  while (line := process.stdout.readline()) != wanted:
    assert line
  process.send_signal(number)
  output, said = process.communicate(timeout=60)
  assert process.returncode == 128 + number
  assert said.startswith(message)
  assert len(said.splitlines()) == 1
  assert output == ('' if words else 'in order\n')


def test_interrupts_are_raised_and_handlers_put_back():
  before = signal.getsignal(signal.SIGINT)
  with pytest.raises(interrupts.Interrupted) as error, interrupts.raised():
    signal.raise_signal(signal.SIGINT)
  assert error.value.number == signal.SIGINT
  assert signal.getsignal(signal.SIGINT) is before


def test_a_library_that_does_not_return_is_ended(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(interrupts, 'PATIENCE', 0.05)
  ended = threading.Event()
  monkeypatch.setattr(interrupts, '_end', lambda number: ended.set())
  read, write = interrupts.socket.socketpair()
  handler = signal.getsignal(signal.SIGINT)
  watch = threading.Thread(target=interrupts._watch, args=(read, handler, threading.Event()))
  watch.start()
  write.send(bytes([signal.SIGINT]))
  assert ended.wait(10)
  write.close()
  watch.join(10)
  assert not watch.is_alive()
