"""Settings of every test run.

By default the tests run in float64 (jax's x64 mode), compiled with few of XLA's optimizations, as most
of their time is compilation. `pytest tests/distributions --float32` runs them with x64 off and compiled
as users' programs are: tolerances follow the precision, and tests marked `x64` are skipped, which need
float64 or do not depend on precision. Both runs forbid implicit promotion of dtypes and ranks and see
four CPU devices.
"""

import os
import tempfile

os.environ.setdefault('MPLBACKEND', 'Agg')

import jax
import pytest

NUM_DEVICES = 4


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--float32', action='store_true', help='run with jax x64 mode off')


def pytest_configure(config: pytest.Config) -> None:
  about = 'x64: needs float64, or does not depend on precision; skipped under --float32'
  config.addinivalue_line('markers', about)
  jax.config.update('jax_enable_x64', not config.getoption('--float32'))
  jax.config.update('jax_disable_most_optimizations', not config.getoption('--float32'))
  jax.config.update('jax_numpy_dtype_promotion', 'strict')
  jax.config.update('jax_numpy_rank_promotion', 'raise')
  jax.config.update('jax_num_cpu_devices', NUM_DEVICES)
  _persist_compilations(config)


@pytest.fixture(autouse=True, scope='module')
def _forget_compiled_programs():
  """Bounds the memory of a long run; what is compiled stays in the persistent cache."""
  yield
  jax.clear_caches()


def _persist_compilations(config: pytest.Config) -> None:
  """Keeps compiled programs between runs, also those of the processes that tests start.

  Most of these tests' time is XLA's, and no test may write to the user's own cache.
  """
  has_cache = config.pluginmanager.has_plugin('cacheprovider')
  folder = str(config.cache.mkdir('jax')) if has_cache else tempfile.mkdtemp(prefix='compiled-')
  settings = {
    'jax_compilation_cache_dir': folder,
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  for name, value in settings.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
  # An entry that another process is writing, or left half written, is compiled again.
  unreadable = 'ignore:Error (reading|writing) persistent compilation cache:UserWarning'
  config.addinivalue_line('filterwarnings', unreadable)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  if not config.getoption('--float32'):
    return
  skip = pytest.mark.skip(reason='needs float64')
  for item in items:
    if item.get_closest_marker('x64'):
      item.add_marker(skip)
