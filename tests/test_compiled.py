"""Compiled programs kept on disk: where, how many, and what happens when that is not possible."""

import os
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path

import jax
import pytest

from structured_obs import compiled

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
import sys
import jax
import jax.monitoring
from launch import flags

counts = {}

def count(event, **about):
  counts[event] = counts.get(event, 0) + 1

def main(arguments):
  jax.monitoring.register_event_listener(count)
  double = jax.jit(lambda x: 2 * x)
  assert double(jax.numpy.ones(3))[0] == 2
  hits, misses = (counts.get(f'/jax/compilation_cache/cache_{name}', 0) for name in ('hits', 'misses'))
  print('hits' if hits else '', 'misses' if misses else '')

flags.run(main)
"""


def start(*flags: str, **environment: str) -> tuple[str, str]:
  """Runs a script of two small programs, and returns 'hits', 'misses' or neither, and its errors."""
  kept = {name: value for name, value in os.environ.items() if not name.startswith(('JAX_', 'XLA_'))}
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, *flags],
    cwd=ROOT,
    env=kept | {'JAX_PLATFORMS': 'cpu'} | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.strip(), done.stderr


@pytest.fixture(autouse=True)
def _settings_are_put_back(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning)


def test_a_second_start_compiles_nothing_and_damage_is_repaired(tmp_path: Path):
  home = {'XDG_CACHE_HOME': str(tmp_path)}
  assert start(**home) == ('misses', '')
  (folder,) = (tmp_path / 'structured_obs' / 'compiled').iterdir()
  assert folder.name.endswith(compiled.machine())
  assert not folder.stat().st_mode & 0o077
  for entry in folder.glob('*-cache'):
    entry.write_bytes(entry.read_bytes()[:20])
  assert start(**home) == ('misses', '')
  assert start(**home) == ('hits', '')


def test_flags_choose_and_without_them_the_environment_has_chosen(tmp_path: Path, monkeypatch):
  mine, flag = tmp_path / 'mine', tmp_path / 'flag'
  environment = {'XDG_CACHE_HOME': str(tmp_path), 'JAX_COMPILATION_CACHE_DIR': str(mine)}
  assert start('--nocompile_cache', **environment) == ('', '')
  assert start(f'--compile_cache={flag}', **environment) == ('misses', '')
  assert [*flag.glob('jaxlib-*/*-cache')]
  assert {path.name for path in tmp_path.iterdir()} == {'flag'}
  before = jax.config.values['jax_compilation_cache_dir']
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(mine))
  assert compiled.keep() == mine
  assert jax.config.values['jax_compilation_cache_dir'] == before


def test_one_warning_where_nothing_can_be_written(tmp_path: Path, capsys):
  (tmp_path / 'file').touch()
  assert compiled.keep(tmp_path / 'file') is None
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'Warning: compiled programs are not kept in {tmp_path}/file/jaxlib-')
  assert '--nocompile_cache' in line


def test_a_full_disk_is_one_warning_while_programs_are_written(
  tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
  others: list[str] = []
  monkeypatch.setattr(warnings, 'showwarning', lambda message, *about: others.append(str(message)))
  compiled.keep()
  for name in ('jit_a', 'jit_b'):
    error = f"Error writing persistent compilation cache entry for '{name}': OSError: No space left"
    warnings.showwarning(UserWarning(error), UserWarning, 'compiler.py', 1)
  warnings.showwarning(UserWarning('another'), UserWarning, 'compiler.py', 1)
  said = capsys.readouterr().err
  assert said.count('Warning:') == 1
  assert 'No space left' in said
  assert others == ['another']


def test_a_disk_that_is_almost_full_is_left_alone(tmp_path: Path, capsys, monkeypatch):
  usage = types.SimpleNamespace(free=2**20)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  assert compiled.keep(tmp_path) is None
  assert 'the disk has only 1 MiB left' in capsys.readouterr().err


def test_programs_that_were_not_used_for_longest_go_first(tmp_path: Path):
  for age, name in enumerate(('jaxlib-2/new', 'jaxlib-2/gpu/used', 'jaxlib-1/old')):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(100))
    os.utime(path, (1000 - age, 900 - age))
  (tmp_path / 'mine').write_bytes(bytes(1000))

  def left() -> list[str]:
    return sorted(path.name for path in tmp_path.glob('**/*') if path.is_file())

  compiled.limit(tmp_path, 300)
  assert left() == ['mine', 'new', 'old', 'used']
  compiled.limit(tmp_path, 299)
  assert left() == ['mine', 'new', 'used']
  compiled.limit(tmp_path, 150)
  assert left() == ['mine', 'new']


@pytest.mark.parametrize(
  ('given', 'added'),
  [('', True), ('--xla_dump_to=/x', True), ('--xla_backend_extra_options=xla_cpu_max_isa=AVX', False)],
)
def test_loops_are_native_unless_the_user_has_options(given: str, added: bool, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', given)
  compiled.native_loops()
  flags = os.environ['XLA_FLAGS']
  assert flags.startswith(given)
  assert (compiled.LOOPS in flags) == added
  compiled.native_loops()
  assert os.environ['XLA_FLAGS'] == flags
