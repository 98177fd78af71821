"""Settings of every test run.

By default the tests run in float64 (jax's x64 mode). `pytest tests/distributions --float32` runs them
with x64 off: tolerances follow the precision, and tests marked `x64` are left out, which need float64 or
do not depend on precision. Tests marked `float32` are about float32 arrays in any mode: they run there
alone, compiled as users' programs are. All others are compiled with few of XLA's optimizations, as most
of their time is compilation. Both runs forbid implicit promotion of dtypes and ranks and see four CPU
devices.
"""

import collections
import gc
import os
import tempfile
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'Agg')

import jax
import psutil
import pytest

from structured_obs import compiled

NUM_DEVICES = 4
# Of one process, which then forgets the programs that it has compiled. Each program takes a few memory
# maps, and Linux ends a process that would have more than 65,530.
MOST_MEMORY = 4 * 2**30  # bytes
MOST_MAPS = 30_000
_most = MOST_MEMORY
_number_of: collections.Counter[str] = collections.Counter()  # cases collected, of every test


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--float32', action='store_true', help='run with jax x64 mode off')


def pytest_configure(config: pytest.Config) -> None:
  for about in (
    'x64: needs float64, or does not depend on precision; skipped under --float32',
    'slow: takes long, or starts processes; `make test` leaves it out, `make test-all` runs it',
    'few(n): cases that are alike; `make test` runs one of n, `make test-all` all',
    'float32: about float32 arrays in any mode; runs under --float32 alone',
  ):
    config.addinivalue_line('markers', about)
  jax.config.update('jax_enable_x64', not config.getoption('--float32'))
  _compile_quickly(bool(config.getoption('--float32')))
  jax.config.update('jax_numpy_dtype_promotion', 'strict')
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_num_cpu_devices', NUM_DEVICES)
  # Tracing makes many objects and hardly any cycles: the usual threshold takes a seventh of a run.
  gc.set_threshold(200_000, 20, 100)
  _persist_compilations(config)


@pytest.fixture(autouse=True, scope='module')
def _forget_compiled_programs():
  """Bounds the memory of a long run; what is compiled stays in the persistent cache."""
  yield
  global _most
  if psutil.Process().memory_info().rss > _most or _number_of_maps() > MOST_MAPS:
    jax.clear_caches()
    gc.collect()
    # Not all that was freed returns to the system, so that this would happen after every module.
    _most = max(MOST_MEMORY, psutil.Process().memory_info().rss + 2**30)


def _number_of_maps() -> int:
  try:
    return Path('/proc/self/maps').read_bytes().count(b'\n')
  except OSError:  # not Linux
    return 0


@pytest.fixture(autouse=True)
def _optimize_what_is_about_float32(request: pytest.FixtureRequest):
  whole = request.node.get_closest_marker('float32') is not None
  jax.config.update('jax_disable_most_optimizations', not whole)


def _compile_quickly(float32: bool) -> None:
  """Leaves optimizations out, also in processes that tests start."""
  jax.config.update('jax_disable_most_optimizations', True)
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  if not float32:  # without its newer emitters XLA compiles in two thirds of the time
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'


def _persist_compilations(config: pytest.Config) -> None:
  """Keeps compiled programs between runs and clones, also those of processes that tests start.

  They lie beside the user's own, which no test writes to. Programs that compile at once are left out:
  they would take longer to write.
  """
  folder = compiled.keep(compiled.default_folder().with_name('tests'))
  settings = {
    'jax_compilation_cache_dir': str(folder or tempfile.mkdtemp(prefix='compiled-')),
    'jax_persistent_cache_min_compile_time_secs': 0.2,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  for name, value in settings.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
  # An entry that another process is writing, or left half written, is compiled again.
  unreadable = 'ignore:Error (reading|writing) persistent compilation cache:UserWarning'
  config.addinivalue_line('filterwarnings', unreadable)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_itemcollected(item: pytest.Item) -> None:
  """Marks the cases of a test as slow, but for the first of every n, where it is marked `few(n)`."""
  few = item.get_closest_marker('few')
  if few is None:
    return
  cases = item.nodeid.partition('[')[0]
  _number_of[cases] += 1
  if (_number_of[cases] - 1) % few.args[0]:
    item.add_marker('slow')


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  other = 'x64' if config.getoption('--float32') else 'float32'
  out = [item for item in items if item.get_closest_marker(other)]
  config.hook.pytest_deselected(items=out)
  items[:] = [item for item in items if not item.get_closest_marker(other)]
