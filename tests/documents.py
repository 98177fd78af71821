"""Code blocks of the project's Markdown pages, and the shell commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
  [ROOT / name for name in ('README.md', 'ARCHITECTURE.md', 'CONTRIBUTING.md')]
  + [*(ROOT / 'docs').glob('*.md')]
)
# What a reader replaces by a name of their own; any value of the right form is checked.
HOME = {'HOME': '/home/me', 'PATH': 'somewhere'}

_FENCE = re.compile(r'^( *)```([^\n]*)\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r'([A-Z_]+)=(.*)')


class Block(NamedTuple):
  """A fenced block of code."""

  page: Path
  line: int  # of its first line, from 1
  language: str  # what stands behind the opening fence
  text: str

  def __str__(self) -> str:
    return f'{name(self.page)}:{self.line}'


class Command(NamedTuple):
  """One command of a shell block."""

  where: str  # page:line of its block
  words: list[str]

  def __str__(self) -> str:
    return f'{self.where}: {shlex.join(self.words)}'


def name(page: Path) -> str:
  """Returns a page's path from the root."""
  return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
  """Returns the blocks of a page in order."""
  text = page.read_text(encoding='utf-8')
  return [
    Block(page, text.count('\n', 0, match.start()) + 2, match[2].strip(), _dedented(match[3], match[1]))
    for match in _FENCE.finditer(text)
  ]


def prose(page: Path) -> str:
  """Returns a page without its blocks of code."""
  return _FENCE.sub('', page.read_text(encoding='utf-8'))


def commands(block: Block) -> Iterator[Command]:
  """Yields the commands of a shell block, with its variables and quotes resolved as a shell does.

  It knows as much of a shell's grammar as the pages use: NAME=VALUE lines, $NAME, quotes, `&&`,
  backslashes at the end of a line, and comments.
  """
  variables = dict(HOME)
  for line in block.text.replace('\\\n', ' ').splitlines():
    assigned = _ASSIGNMENT.fullmatch(line.strip())
    if assigned:
      (value,) = shlex.split(_expanded(assigned[2], variables), comments=True)
      variables[assigned[1]] = value
      continue
    lexer = shlex.shlex(_expanded(line, variables), posix=True, punctuation_chars='&|;')
    lexer.commenters, lexer.whitespace_split = '#', True
    words: list[str] = []
    for word in [*lexer, '&&']:
      if word != '&&':
        words.append(word)
      elif words:
        yield Command(str(block), words)
        words = []


def _expanded(text: str, variables: dict[str, str]) -> str:
  """Replaces $NAME; a variable that the block has not set is a KeyError."""
  return re.sub(r'\$(\w+)', lambda match: variables[match[1]], text)


def _dedented(text: str, indent: str) -> str:
  return '\n'.join(line.removeprefix(indent) for line in text.splitlines()) + '\n'
