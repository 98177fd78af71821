"""The project as a newcomer meets it: its version, its packages, what they need, how it is drawn.

Programs run in processes of their own, with jax as a user has it.
"""

import configparser
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import structured_obs
from tests import documents, test_architecture

ROOT = Path(__file__).resolve().parent.parent

BARE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

ALLOWED = {'jax', 'jaxlib', 'numpy', 'ml_dtypes', 'opt_einsum', 'scipy', 'structured_obs', 'tests'}

class BareFinder:
  @staticmethod
  def find_spec(name, path=None, target=None):
    top = name.partition('.')[0]
    standard = top in sys.stdlib_module_names or top.startswith('_sysconfigdata')
    return PathFinder.find_spec(name, path, target) if standard or top in ALLOWED else None

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, BareFinder]
"""

EVERY_OPERATION = """
import functools
import jax
import jax.numpy as jnp
from structured_obs import distributions
assert 'jax.experimental.sparse' not in sys.modules  # which half of jax's own time to import goes to
from tests.distributions.operations import all_operations

image = distributions.base.ImageShape(3, 4, 1)
observed = jnp.arange(12).reshape(3, 4, 1) % 2 == 0
for name in distributions.FAMILIES:
  family = distributions.family(name)
  outputs = {key: jnp.ones((2, *shape)) for key, shape in family.outputs(image).items()}
  params = jax.vmap(family.from_outputs)(outputs)
  x = jnp.zeros((2, *image))
  run = jax.vmap(functools.partial(all_operations, family), in_axes=(0, 0, 0, None, None))
  # Tracing imports all there is to import; the numbers have tests of their own.
  jax.eval_shape(run, params, x, jax.random.split(jax.random.key(0)), observed, 0.1)
  jax.eval_shape(jax.vmap(jax.grad(family.log_prob)), params, x)
print('ran', len(distributions.FAMILIES))
"""

DOCTESTS = """
import doctest, importlib, sys
failed = sum(doctest.testmod(importlib.import_module(name)).failed for name in sys.argv[1:])
sys.exit(failed > 0)
"""


def _run(program: str, *arguments: str, cwd: Path = ROOT) -> str:
  path = f'import sys; sys.path.insert(0, {str(ROOT)!r})\n'
  command = [sys.executable, '-c', path + program, *arguments]
  done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


@functools.cache
def _setup() -> configparser.ConfigParser:
  parser = configparser.ConfigParser(interpolation=None)
  parser.read(ROOT / 'setup.cfg', encoding='utf-8')
  return parser


def test_version_is_one():
  version = structured_obs.__version__
  assert re.fullmatch(r'\d+\.\d+\.\d+(\.dev\d+)?', version)
  assert _setup()['metadata']['version'] == 'attr: structured_obs.__version__'
  assert f'version: {version}' in (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
  assert version in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')
  assert f'version = {{{version}}}' in (ROOT / 'README.md').read_text(encoding='utf-8')


def test_metadata_names_what_exists():
  metadata = _setup()['metadata']
  assert metadata['name'] == 'structured_obs'
  assert metadata['license_expression'] == 'Apache-2.0'
  assert 'Apache License' in (ROOT / metadata['license_files']).read_text(encoding='utf-8')
  assert (ROOT / metadata['long_description'].removeprefix('file: ')).is_file()


def test_every_package_has_an_init():
  """Otherwise the wheel would leave it out."""
  folders = {path.parent for path in (ROOT / 'structured_obs').rglob('*.py')}
  assert not [folder.name for folder in folders if not (folder / '__init__.py').is_file()]


def test_the_package_alone_imports_no_framework():
  loaded = _run(
    'import structured_obs\n'
    "print(*{'flax', 'optax', 'orbax', 'matplotlib', 'absl', 'chex'} & sys.modules.keys())"
  )
  assert not loaded.strip()


@pytest.mark.slow
def test_distributions_need_jax_alone():
  """Everything but jax and what jax itself depends on is missing; every operation still traces."""
  assert _run(BARE + EVERY_OPERATION).startswith('ran')


def _modules_with_examples() -> list[str]:
  files = sorted((ROOT / 'structured_obs').rglob('*.py'))
  with_examples = [path for path in files if '>>> ' in path.read_text(encoding='utf-8')]
  names = ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in with_examples]
  return [name.removesuffix('.__init__') for name in names]


@pytest.mark.slow
def test_examples_in_docstrings():
  assert _modules_with_examples()
  _run(DOCTESTS, *_modules_with_examples())


def _tree() -> list[str]:
  """Returns the files and folders of the tree in ARCHITECTURE.md, from the root."""
  page = documents.blocks(ROOT / 'ARCHITECTURE.md')
  (block,) = (one for one in page if 'config.py' in one.text)
  found, above = [], ['']
  for line in block.text.splitlines():
    named = re.match(r'( {0,6})([\w/]+(?:\.py|/))(?: |$)', line)
    assert named, f'{line!r} names no file or folder.'
    depth = len(named[1]) // 2
    above[depth + 1 :] = [above[depth] + named[2]]
    found.append(above[depth] + named[2])
  return found


def test_the_tree_is_that_of_the_files():
  tree = _tree()
  assert not [path for path in tree if not (ROOT / path).exists()]
  packages = {path.parent for path in (ROOT / 'structured_obs').rglob('__init__.py')}
  assert {f'{path.relative_to(ROOT).as_posix()}/' for path in packages} <= {*tree}


def test_who_may_import_whom_is_written_down():
  """The table in ARCHITECTURE.md is the one that test_architecture enforces."""
  text = (ROOT / 'ARCHITECTURE.md').read_text(encoding='utf-8')
  rows = re.findall(
    r'^\| (`[^|]*) \| ([^|]*) \|$', text.partition('| room |')[2].partition('\n\n')[0], re.M
  )
  core, options = test_architecture.CORE, test_architecture.OPTIONS
  groups = {'core': core, 'options': options, 'version': {''}, 'nothing': set()}
  written = {}
  for rooms, others in rows:
    named = [other.strip(' `') for other in others.split(',')]
    allowed = set().union(*(groups.get(other, {other}) for other in named))
    written |= dict.fromkeys((room.strip(' `') for room in rooms.split(',')), allowed)
  assert written == {room: allowed for room, allowed in test_architecture.MAY_IMPORT.items() if room}


def test_the_places_to_add_something_exist():
  """Every row of the table in CONTRIBUTING.md names a registry that is where it says."""
  text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
  places = re.findall(r'`([A-Z]+)` in\s+`(structured_obs/[\w/]+\.py)`', text)
  assert len(places) == 10
  missing = [
    f'{name} in {path}'
    for name, path in places
    if not re.search(rf'^{name}\b.*=', (ROOT / path).read_text(encoding='utf-8'), re.MULTILINE)
  ]
  assert not missing


@pytest.mark.slow
def test_the_type_marker_is_in_the_wheel():
  assert (ROOT / 'structured_obs' / 'py.typed').is_file()
  assert _setup()['options.package_data']['structured_obs'] == 'py.typed'


def test_workflows_and_hooks_can_be_read():
  folder = ROOT / '.github' / 'workflows'
  workflows = {
    path.stem: yaml.safe_load(path.read_text(encoding='utf-8')) for path in folder.glob('*.yml')
  }
  (gate,) = workflows['ci']['jobs'].values()
  assert {'run': '.ci/run'} in gate['steps']
  assert (ROOT / '.ci' / 'run').stat().st_mode & 0o100
  assert workflows['newest'][True]['schedule']  # YAML reads the key `on` as true
  hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text(encoding='utf-8'))
  assert [hook['id'] for hook in hooks['repos'][0]['hooks']] == ['ruff-check', 'ruff-format']
