"""The pages of the project: what they show runs, what they type is accepted, where they link exists.

Python blocks run, the blocks of a page one after the other in one namespace; those with `>>>` must print
what they show. Of shell commands the flags are parsed by the scripts themselves, and configurations
resolved with all their changes, but nothing trains: `slow` tests run the first steps of a few.
"""

import configparser
import contextlib
import doctest
import re
import runpy
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from absl import flags as absl_flags

from launch import flags
from structured_obs.runs import configuration
from tests import documents, scripts
from tests.campaigns import registry
from tests.documents import Block, Command

# ml_collections loads a config file by a method that Python means to remove.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

ROOT = documents.ROOT
BLOCKS = [block for page in documents.PAGES for block in documents.blocks(page)]
COMMANDS = [
  command for block in BLOCKS if block.language == 'bash' for command in documents.commands(block)
]
LANGUAGES = {'bash', 'python', 'text'}  # text shows what is not code, such as a tree of folders
SLOW = {'families.md', 'fitting.md', 'your_decoder.md'}  # compiles many small programs
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _pages_with(language: str) -> list[Any]:
  pages = sorted({block.page for block in BLOCKS if block.language == language})
  return [pytest.param(page, marks=pytest.mark.slow) if page.name in SLOW else page for page in pages]


@contextlib.contextmanager
def _as_a_user_has_it() -> Iterator[None]:
  """Sets jax to its defaults, which the tests depart from."""
  with jax.enable_x64(False), jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def run_python(block: Block, namespace: dict[str, Any]) -> None:
  """Runs a block; raises if it does, or if it prints something else than it shows."""
  if '>>> ' not in block.text:
    exec(compile('\n' * (block.line - 1) + block.text, str(block.page), 'exec'), namespace)
    return
  test = doctest.DocTestParser().get_doctest(block.text, {}, str(block), str(block.page), block.line - 1)
  test.globs = namespace  # the parser would copy it
  said: list[str] = []
  found = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append, clear_globs=False)
  assert found.attempted
  assert not found.failed, ''.join(said)


@pytest.mark.parametrize('page', _pages_with('python'), ids=documents.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(tmp_path)
  module = types.ModuleType('page')  # dataclasses and pickles look the module of a class up
  monkeypatch.setitem(sys.modules, 'page', module)
  with _as_a_user_has_it():
    for block in documents.blocks(page):
      if block.language == 'python':
        run_python(block, vars(module))


@pytest.mark.parametrize(
  'text', ['>>> 1 + 1\n3\n', 'raise ValueError\n', '>>> 1 / 0\n', 'import structured_obs.no_such_part\n']
)
def test_python_that_does_not_run_is_found(text: str):
  with pytest.raises((AssertionError, ValueError, ImportError)):
    run_python(Block(ROOT / 'README.md', 1, 'python', text), {})


def test_every_block_is_of_a_known_language():
  assert not [str(block) for block in BLOCKS if block.language not in LANGUAGES]
  hidden = re.compile(r'^\s*(>>> |\$ |import |from \w+ import|python |pip |make |pytest )', re.MULTILINE)
  assert not [str(block) for block in BLOCKS if block.language == 'text' and hidden.search(block.text)]


# Shell commands


@pytest.fixture(scope='module', autouse=True)
def _flags_of_no_script() -> Iterator[None]:
  with scripts.flags_of_no_script():
    yield


def parse(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, run: bool = False) -> Any:
  """Parses a command line as `python -m launch.SCRIPT` does, and runs it if asked to.

  Returns:
    The configuration with its changes, or None.

  Raises:
    SystemExit: the script refuses it, and has printed why.
  """
  line = [f'launch/{script}.py', *arguments]
  monkeypatch.setattr(sys, 'argv', line)
  with scripts.imported(script) as module:
    rest = flags._parse(line)
    if run:
      module.main(rest)
    return absl_flags.FLAGS['config'].value if 'config' in absl_flags.FLAGS else None


def _check_launch(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
  config = parse(script, arguments, monkeypatch)
  if script in ('train', 'compare'):
    configuration.resolve(config)
  if script == 'compare':
    given = {name: value for name, _, value in (word.partition('=') for word in arguments)}
    file, changes = given['--config'], [word for word in arguments if word.startswith('--config.')]
    named = [name for name in given.get('--variants', '').split(',') if name]
    for variant in named or runpy.run_path(file)['VARIANTS']:
      configuration.resolve(parse('train', [f'--config={file}:{variant}', *changes], monkeypatch))


def _extras() -> set[str]:
  setup = configparser.ConfigParser(interpolation=None)
  setup.read(ROOT / 'setup.cfg', encoding='utf-8')
  return set(setup['options.extras_require'])


def _check_install(words: list[str]) -> None:
  project = words[-1]
  asked = re.fullmatch(r'(\.|structured_obs)(\[([\w,]+)\])?( @ git\+https://\S+)?', project)
  assert asked, f'{project} is not this project'
  assert not set(filter(None, (asked[3] or '').split(','))) - _extras(), f'no such extra: {project}'
  assert set(words[:-1]) <= {'-e', '--editable'}


def _targets() -> set[str]:
  return set(re.findall(r'^([a-z][\w-]*):', (ROOT / 'Makefile').read_text(), re.MULTILINE))


def _check_make(words: list[str]) -> None:
  targets = [word for word in words if '=' not in word]
  assert targets
  assert not set(targets) - _targets(), f'the Makefile has {", ".join(sorted(_targets()))}'


def _check_pytest(words: list[str]) -> None:
  """Checks that the files exist and hold the word of -k."""
  paths = [ROOT / word.partition('::')[0] for word in words if '/' in word]
  assert paths
  files = [file for path in paths for file in (path.rglob('*.py') if path.is_dir() else [path])]
  text = ''.join(file.read_text(encoding='utf-8') for file in files)
  if '-k' in words:
    assert words[words.index('-k') + 1] in text + ''.join(file.name for file in files)


def _check_campaigns(words: list[str]) -> None:
  given = dict(word.removeprefix('--').split('=') for word in words)
  assert not set(given) - {'campaign', 'count', 'seed'}
  assert not set(given.get('campaign', 'kills').split(',')) - set(registry.CAMPAIGNS)


def check(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
  """Raises if a command is not one that this project has, or is refused by it."""
  match command.words:
    case ['python', '-m', module, *rest] if module.startswith('launch.'):
      _check_launch(module.removeprefix('launch.'), rest, monkeypatch)
    case ['python', '-m', 'tests.campaigns', *rest]:
      _check_campaigns(rest)
    case ['python', '-m', 'pytest', *rest] | ['pytest', *rest]:
      _check_pytest(rest)
    case ['make', *rest]:
      _check_make(rest)
    case ['pip', 'install', *rest]:
      _check_install(rest)
    case ['git', 'clone', address]:
      assert address in (ROOT / 'colabs' / 'install.py').read_text(encoding='utf-8')
    case ['python', '-m', 'venv', '.venv'] | ['.', '.venv/bin/activate'] | ['cd', 'structured_obs']:
      pass
    case _:
      raise AssertionError(f'{command} is not checked; let a case of `check` do it.')


@pytest.mark.parametrize('page', _pages_with('bash'), ids=documents.name)
def test_commands_are_accepted(page: Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(ROOT)
  for command in COMMANDS:
    if command.where.startswith(f'{documents.name(page)}:'):
      try:
        check(command, monkeypatch)
      except BaseException as error:  # a script that refuses its flags exits
        raise AssertionError(f'{command}: {error}') from error


@pytest.mark.parametrize(
  ('line', 'why'),
  [
    ('python -m launch.train --config=configs/digits.py:no_such_variant', 'has the variants'),
    ('python -m launch.train --config=configs/digits.py --config.train.stepz=3', 'did you mean'),
    ('python -m launch.train --config=configs/digits.py --config.likelihood.options.rank=-1', 'rank'),
    ('python -m launch.train --config=configs/digits.py --config.model.kind=no_such', 'no_such'),
    (
      'python -m launch.train --config=configs/digits.py --config.model.latents=3',
      'did you mean --config.model.options.latents?',
    ),
    ('python -m launch.train --config=configs/digits.py --steps=3', 'mean --config.train.steps?'),
    ('python -m launch.train --config=configs/digit.py', 'did you mean configs/digits.py?'),
    ('python -m launch.evaluate --workdirs=runs/digits', 'did you mean --workdir?'),
    ('python -m launch.evaluate --config.data.source=digits', 'did you mean --data_source?'),
    ('python -m launch.evaluate --config.train.steps=3', 'takes the configuration of a run as it is'),
    ('python -m launch.compare --config=configs/compare_digits.py --variants=no_such', 'no_such'),
    ('python -m launch.no_such_script', 'launch.no_such_script'),
    ('python -m pytest tests/no_such_folder/test.py', 'no_such_folder'),
    ('python -m tests.campaigns --campaign=no_such', 'no_such'),
    ('make no_such_target', 'the Makefile has'),
    ("pip install -e '.[no_such]'", 'no such extra'),
    ('pip install numpy', 'not this project'),
    ('git clone https://example.org/structured_obs', 'example.org'),
    ('rm -rf runs', 'is not checked'),
  ],
)
def test_commands_that_do_not_work_are_found(line, why, monkeypatch, capsys):
  (command,) = documents.commands(Block(ROOT / 'README.md', 1, 'bash', line))
  monkeypatch.chdir(ROOT)
  with pytest.raises((AssertionError, SystemExit, ValueError, ImportError, OSError)) as caught:
    check(command, monkeypatch)
  assert why in str(caught.value) + capsys.readouterr().err


@pytest.mark.slow
def test_commands_run(tmp_path: Path):
  """The first commands of docs/training.md, as typed, but that runs go elsewhere and train two steps.

  Evaluations have tests of their own.
  """
  page = documents.blocks(ROOT / 'docs' / 'training.md')
  first = next(block for block in page if block.language == 'bash')
  short = {'launch.train': ['--config.train.steps=2', f'--config.data.cache_dir={tmp_path}']}
  for command in documents.commands(first):
    words = [word.replace('runs/', f'{tmp_path}/runs/') for word in command.words]
    if words[2] != 'launch.evaluate':
      line = [sys.executable, *words[1:], *short.get(words[2], [])]
      done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
      assert done.returncode == 0, f'{command}\n{done.stdout}{done.stderr}'
  assert (tmp_path / 'runs' / 'digits' / 'samples' / 'samples.npz').is_file()


def test_preparing_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
  """A command of docs/your_images.md in full, in this process."""
  line = 'launch.prepare_data --config=configs/digits.py --verify'
  assert f'python -m {line}' in (ROOT / 'docs' / 'your_images.md').read_text(encoding='utf-8')
  monkeypatch.chdir(ROOT)
  arguments = [*line.split()[1:], f'--config.data.cache_dir={tmp_path}']
  parse('prepare_data', arguments, monkeypatch, run=True)
  assert '8 x 8 x 1, 17 levels' in capsys.readouterr().out
