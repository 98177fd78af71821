"""The rules of the house that a machine can check: who imports whom, sizes, docstrings.

Everything is read from the source with `ast`; nothing is imported.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 300
LONG_FILE_LINES = 400  # of a file whose first line says why it is one: LONG and a sentence
LONG = '# One file of more than 300 lines: '
MAX_FUNCTION_LINES = 50
MAX_POSITIONAL = 6  # parameters; the rest of a function's are taken by keyword only
MANY_POSITIONAL = {  # constructors whose options are nearly always given by name
  'structured_obs/distributions/circulant.py family',
  'structured_obs/distributions/scaled.py circulant_family',
  'structured_obs/distributions/sparse_precision.py family',
}

OPTIONS = {'names', 'option_values', 'option_records'}
CORE = {'linalg', 'distributions', 'objectives', 'models'}
# What each part of structured_obs may import from the others.
MAY_IMPORT = {
  '': set(),  # structured_obs/__init__.py
  'compiled': set(),
  'names': set(),
  'strict_json': set(),
  'option_values': {'names'},
  'option_records': OPTIONS,
  'config': {'option_values'},
  'devices': {''},
  'plotting': set(),
  'linalg': set(),
  'distributions': {'linalg'} | OPTIONS,
  'objectives': {'linalg', 'distributions'} | OPTIONS,
  'models': {'linalg', 'distributions', 'objectives'} | OPTIONS,
  'data': {'config'} | OPTIONS,
  'recipes': {'config', 'distributions', 'names'},
  'runs': CORE | OPTIONS | {'', 'config', 'data', 'devices', 'names', 'strict_json'},
  'evaluation': CORE | {'config', 'data', 'devices', 'names', 'plotting', 'runs', 'strict_json'},
  'applications': CORE | {'config', 'data', 'evaluation', 'plotting', 'runs', 'strict_json'},
  'train': CORE | {'', 'config', 'data', 'devices', 'evaluation', 'names', 'runs', 'strict_json'},
  'benchmark': CORE | {'', 'config', 'data', 'devices', 'runs', 'train'},  # whole training steps
}
# Third parties, by the only places that may import them. What is in no list is free.
ONLY_IN = {
  'flax': {'structured_obs/models'},
  'optax': {'structured_obs/runs', 'structured_obs/train', 'structured_obs/objectives/constraints.py'},
  'orbax': {'structured_obs/runs/checkpoint.py'},
  'matplotlib': {'structured_obs/plotting'},
  'absl': {'launch'},
  'absl.logging': {'launch', 'structured_obs/train'},
  'ml_collections': {'launch'},
  'tensorflow_datasets': {'structured_obs/data'},
  'grain': {'structured_obs/data'},
  'sklearn': {'structured_obs/data'},
  'skimage': {'structured_obs/data'},
  'nibabel': {'structured_obs/data'},
  'PIL': {'structured_obs/data'},
  'array_record': {'structured_obs/data'},
  'tensorboardX': {'structured_obs/train'},
  'rich': {'structured_obs/train', 'launch'},
  'gradio': {'launch'},
  'starlette': {'launch'},
  'jax._src': set(),
}
# Extras that a user may not have: imported inside functions, with an error that names the extra.
OPTIONAL = {
  'tensorflow_datasets', 'grain', 'sklearn', 'skimage', 'nibabel', 'PIL', 'array_record', 'tensorboardX',
  'gradio', 'starlette',
}  # fmt: skip
# Modules that need an extra as a whole; they themselves are imported inside functions only.
OPTIONAL_MODULES = {
  'structured_obs.data.sources.tfds_builders': 'structured_obs/data/sources/tfds_builders.py',
  'launch.studio_events': 'launch/studio_events.py',
  'launch.studio_page': 'launch/studio_page.py',
}
JAX_ONLY = {'jax', 'numpy'}


class Import(NamedTuple):
  """One imported name: a module, or something in it."""

  path: str  # of the importing file, from the root
  line: int
  name: str  # dotted
  lazy: bool  # inside a function, or for the type checker alone

  def __str__(self) -> str:
    return f'{self.path}:{self.line} imports {self.name}'

  def within(self, package: str) -> bool:
    return self.name == package or self.name.startswith(package + '.')


def _files(*folders: str) -> list[Path]:
  return sorted(path for folder in folders for path in (ROOT / folder).rglob('*.py'))


def _parse(path: Path) -> ast.Module:
  return ast.parse(path.read_text(encoding='utf-8'), filename=str(path))


def _is_type_checking(node: ast.AST) -> bool:
  return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)


def _import_nodes(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.stmt, bool]]:
  for child in ast.iter_child_nodes(node):
    if isinstance(child, ast.Import | ast.ImportFrom):
      yield child, lazy
    within = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(child)
    yield from _import_nodes(child, lazy or within)


def _imports(*folders: str) -> list[Import]:
  found = []
  for path in _files(*folders):
    relative = path.relative_to(ROOT).as_posix()
    for node, lazy in _import_nodes(_parse(path), lazy=False):
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      else:
        assert isinstance(node, ast.ImportFrom)
        assert not node.level, f'{relative}:{node.lineno} uses a relative import'
        names = [f'{node.module}.{alias.name}' for alias in node.names]
      found += [Import(relative, node.lineno, name, lazy) for name in names]
  return found


ALL_IMPORTS = _imports('structured_obs', 'launch', 'configs')


def _part(dotted: str) -> str:
  """'structured_obs.data.pixels' -> 'data'; '' for names of structured_obs/__init__.py itself."""
  names = dotted.split('.')
  return names[1] if len(names) > 1 and names[1] in MAY_IMPORT else ''


def _part_of_file(path: str) -> str:
  return _part(path.removesuffix('.py').removesuffix('/__init__').replace('/', '.'))


def _is_inside(path: str, places: set[str]) -> bool:
  return any(path == place or path.startswith(place + '/') for place in places)


def test_every_part_is_known():
  """A new package or module of structured_obs needs a line in MAY_IMPORT."""
  parts = {path.relative_to(ROOT / 'structured_obs').parts[0] for path in _files('structured_obs')}
  unknown = {part.removesuffix('.py') for part in parts} - MAY_IMPORT.keys() - {'__init__'}
  assert not unknown


def test_parts_import_only_what_is_below_them():
  wrong = []
  for entry in ALL_IMPORTS:
    if entry.path.startswith('structured_obs/') and entry.within('structured_obs'):
      importer, imported = _part_of_file(entry.path), _part(entry.name)
      if imported != importer and imported not in MAY_IMPORT[importer]:
        wrong.append(str(entry))
  assert not wrong


def test_the_library_imports_no_script():
  """Scripts may use each other and the recipes in configs."""
  wrong = [
    str(entry)
    for entry in ALL_IMPORTS
    if (entry.within('launch') or entry.within('configs')) and not entry.path.startswith('launch/')
  ]
  assert not wrong


def test_third_parties_stay_in_their_places():
  wrong = []
  for entry in ALL_IMPORTS:
    rules = [package for package in ONLY_IN if entry.within(package)]
    if rules and not _is_inside(entry.path, ONLY_IN[max(rules, key=len)]):
      wrong.append(str(entry))
  assert not wrong


def test_the_numerical_core_needs_jax_alone():
  """numpy comes with jax; the standard library is free."""
  free = JAX_ONLY | {'structured_obs'} | sys.stdlib_module_names
  core = ('structured_obs/linalg/', 'structured_obs/distributions/', 'structured_obs/__init__.py')
  wrong = [
    str(entry)
    for entry in ALL_IMPORTS
    if entry.path.startswith(core) and entry.name.split('.')[0] not in free
  ]
  assert not wrong


def test_extras_are_imported_where_they_are_used():
  wrong = []
  for entry in ALL_IMPORTS:
    needs_extra = any(entry.within(package) for package in OPTIONAL)
    if needs_extra and not entry.lazy and entry.path not in OPTIONAL_MODULES.values():
      wrong.append(str(entry))
    needs_module = any(entry.within(module) for module in OPTIONAL_MODULES)
    if needs_module and not entry.lazy and entry.path not in OPTIONAL_MODULES.values():
      wrong.append(str(entry))
  assert not wrong


def test_files_are_short():
  long = {}
  for path in _files('structured_obs', 'launch', 'configs', 'tests'):
    lines = path.read_text(encoding='utf-8').splitlines()
    explained = bool(lines) and lines[0].startswith(LONG)
    if len(lines) > (LONG_FILE_LINES if explained else MAX_FILE_LINES):
      long[path.relative_to(ROOT).as_posix()] = len(lines)
  assert not long


def _docstring_lines(node: ast.AST) -> int:
  """Lines of the docstrings in a function, nested functions' included."""
  total = 0
  for child in ast.walk(node):
    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(child):
      first = child.body[0]
      total += (first.end_lineno or first.lineno) - first.lineno + 1
  return total


def test_functions_are_short():
  long = []
  for path in _files('structured_obs', 'launch', 'configs'):
    for node in ast.walk(_parse(path)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)
        if lines > MAX_FUNCTION_LINES:
          long.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines')
  assert not long


def test_functions_take_few_arguments_by_position():
  """Beyond six, a call without names cannot be read."""
  long = []
  for path in _files('structured_obs', 'launch', 'configs'):
    for node in ast.walk(_parse(path)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        count = len([name for name in names if name not in ('self', 'cls')])
        where = f'{path.relative_to(ROOT).as_posix()} {node.name}'
        if count > MAX_POSITIONAL and where not in MANY_POSITIONAL:
          long.append(f'{where}: {count}')
  assert not long


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
  """Public functions and classes of a module, and the public methods of those classes."""
  for node in body:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
      continue
    if node.name.startswith('_') or node.name == 'setup':  # Linen's own name
      continue
    yield node
    if isinstance(node, ast.ClassDef):
      yield from _public(node.body)


@pytest.mark.parametrize('folder', ['structured_obs', 'launch', 'configs'])
def test_whatever_is_public_has_a_docstring(folder: str):
  bare = []
  for path in _files(folder):
    tree, relative = _parse(path), path.relative_to(ROOT)
    if tree.body and not ast.get_docstring(tree):
      bare.append(f'{relative}: the module')
    bare += [
      f'{relative}:{node.lineno} {node.name}'
      for node in _public(tree.body)
      if not ast.get_docstring(node)
    ]
  assert not bare


def test_public_functions_are_annotated():
  bare = []
  for path in _files('structured_obs', 'launch', 'configs'):
    for node in _public(_parse(path).body):
      if isinstance(node, ast.ClassDef):
        continue
      arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
      missing = [a.arg for a in arguments if not a.annotation and a.arg not in ('self', 'cls')]
      if missing or not node.returns:
        bare.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.name}({", ".join(missing)})')
  assert not bare
