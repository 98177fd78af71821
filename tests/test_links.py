"""What the project's pages name exists: links, headings, fields of a configuration, flags, files."""

import dataclasses
import re
from pathlib import Path

import pytest

from structured_obs.config import Config
from tests import documents

ROOT = documents.ROOT
_LINK = re.compile(r'\]\(([^)\s]+)\)')


def _anchors(page: Path) -> set[str]:
  """What GitHub makes of a page's headings."""
  headings = re.findall(r'^#+ (.*)$', documents.prose(page), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading).strip().lower().replace(' ', '-') for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
  """Returns the links of a page to files or headings that do not exist; other sites are not asked."""
  broken = []
  for link in _LINK.findall(text):
    path, _, anchor = link.partition('#')
    if path.startswith(('http://', 'https://')):
      continue
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or (anchor and anchor not in _anchors(target)):
      broken.append(link)
  return broken


@pytest.mark.parametrize('page', documents.PAGES, ids=documents.name)
def test_links_lead_somewhere(page: Path):
  assert not broken_links(page, documents.prose(page))


def test_links_that_lead_nowhere_are_found():
  page = ROOT / 'README.md'
  wrong = ['docs/no_such_page.md', '#no-such-heading', 'docs/families.md#no-such-heading']
  right = ['docs/families.md', '#see-it', 'docs/families.md#options-and-costs', 'https://example.org/x']
  assert broken_links(page, ''.join(f'[text]({link}) ' for link in [*wrong, *right])) == wrong


def test_the_index_names_every_page():
  index = (ROOT / 'docs' / 'README.md').read_text(encoding='utf-8')
  pages = {page.name for page in (ROOT / 'docs').glob('*.md')} - {'README.md'}
  assert not pages - set(_LINK.findall(index))


def test_the_readme_is_short():
  lines = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
  assert len(lines) <= 200
  assert max(map(len, lines)) <= 110


# Names in the text

_CODE = re.compile(r'`([^`\n]+)`')
SECTIONS = {field.name for field in dataclasses.fields(Config)}
OTHER_FLAGS = {'--seed', '--count', '--campaign', '--float32'}  # of tests and campaigns


def _is_field(name: str) -> bool:
  """Whether a configuration has 'section.field'; what is in a dictionary is left to others."""
  node = Config()
  for part in name.split('.'):
    if isinstance(node, dict):
      return True
    if part not in {field.name for field in dataclasses.fields(node)}:
      return False
    node = getattr(node, part)
  return True


def _is_file(path: str) -> bool:
  """Whether a file of the project has this path, or ends in it."""
  folders = ('structured_obs', 'launch', 'configs', 'colabs', 'tests')
  found = [file for folder in folders for file in (ROOT / folder).rglob(path.rpartition('/')[2])]
  return any(file.as_posix().endswith(f'/{path}') for file in found)


def unknown_names(text: str) -> list[str]:
  """Returns what is set as code in a text, but is no field, flag or file of the project.

  Fields are `--config.section.field` and `section.field`, flags `--name`, files `path/name.py`.
  """
  scripts = ''.join(path.read_text(encoding='utf-8') for path in (ROOT / 'launch').glob('*.py'))
  unknown = []
  for code in _CODE.findall(text):
    for word in code.split():
      name = re.split(r'[^\w.\-/]', word)[0].removesuffix('.')
      field = name.removeprefix('--config.')
      if name.startswith('--config.') or re.fullmatch(rf'({"|".join(SECTIONS)})\.[a-z_.]+', name):
        known = _is_field(field)
      elif name.startswith('--'):
        flag = re.sub('^--(no(?=compile_cache|pixel_noise))?', '', name)
        known = name in {'--config', *OTHER_FLAGS} or re.search(rf"['\"]{flag}['\"]", scripts)
      else:
        known = not re.fullmatch(r'[\w/]+\.py', name) or _is_file(name) or 'NAME' in name
      unknown += [] if known else [word]
  return unknown


@pytest.mark.parametrize('page', documents.PAGES, ids=documents.name)
def test_fields_flags_and_files_exist(page: Path):
  assert not unknown_names(documents.prose(page))


def test_names_that_do_not_exist_are_found():
  wrong = ['--config.data.sourse=x', 'train.keeps', '--workdirs', 'runs/no_such_file.py']
  right = ['--config.data.source=x', 'train.keep', '--workdir', 'runs/state.py', 'a.b', 'x.py-like']
  assert unknown_names(' '.join(f'`{name}`' for name in [*wrong, *right])) == wrong
