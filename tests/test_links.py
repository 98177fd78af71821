"""Links of the project's pages lead to files and headings that exist; the index has every page."""

import re
from pathlib import Path

import pytest

from tests import documents

ROOT = documents.ROOT
_LINK = re.compile(r'\]\(([^)\s]+)\)')
WRITTEN_LATER = {'benchmarks.md'}  # pages that links may name before they exist


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
    if target.name in WRITTEN_LATER:
      continue
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
